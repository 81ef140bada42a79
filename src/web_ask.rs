//! Asks web servers of others over HTTP: who is asked is somebody else's choice, so each address is
//! checked, and connected to as it was checked.
//!
//! Invariants: nothing at home is asked, unless the person wants it, and no redirect leads there; an answer
//! takes a bounded time, and in memory a bounded number of bytes.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::{HeaderMap, Request, header, request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use crate::{proto::public_address::is_public, web_client};

/// Longest wait for a whole answer.
const WAIT: Duration = Duration::from_secs(30);
/// Longest wait for one connection.
const CONNECT_WAIT: Duration = Duration::from_secs(8);
/// Addresses of one name that are tried.
const ADDRESSES: usize = 4;
/// Largest answer to a post.
const ANSWER: usize = 64 * 1024;
/// How many redirects are followed, each checked as the first address.
const REDIRECTS: usize = 5;

/// Why a server was not asked, or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The URL cannot be asked.
    #[error("{0} is no address that can be asked: it begins with https:// or http://")]
    NoAddress(Url),
    /// The name leads nowhere.
    #[error("{0} is not found")]
    NotFound(String),
    /// It leads home.
    #[error("{0} is at an address of a home or a machine, not of the Internet")]
    Private(String),
    /// No connection.
    #[error("{0} cannot be reached: {1}")]
    Unreachable(String, io::Error),
    /// The server proves nothing, or cannot be understood.
    #[error("{0} cannot be talked to safely: {1}")]
    Tls(String, String),
    /// It does not speak HTTP as it should.
    #[error("{0} answered nothing that can be understood: {1}")]
    Http(String, String),
    /// It takes too long.
    #[error("{0} does not answer")]
    TimedOut(String),
}

/// An answer.
#[derive(Debug)]
pub struct WebAnswer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// An answer that comes bit by bit. Dropped, its connection ends.
#[derive(Debug)]
pub struct WebStream {
    /// Who answered: after redirects another than was asked.
    pub url: Url,
    /// The status.
    pub status: u16,
    headers: HeaderMap,
    body: Incoming,
    _connection: JoinSet<()>,
}

impl WebStream {
    /// Returns a header where it is text.
    pub fn header(&self, name: &header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the next bytes.
    pub async fn next(&mut self) -> Option<Result<Bytes, WebError>> {
        loop {
            let frame = self.body.frame().await?;
            match frame.map(hyper::body::Frame::into_data) {
                Ok(Ok(bytes)) => return Some(Ok(bytes)),
                // What follows the body is nothing to us.
                Ok(Err(_)) => {}
                Err(error) => {
                    return Some(Err(WebError::Http(name_of(&self.url), error.to_string())));
                }
            }
        }
    }

    /// Returns the body, up to so many bytes; what is longer is cut there.
    pub async fn beginning(mut self, most: usize) -> Result<Vec<u8>, WebError> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await {
            all.extend_from_slice(&bytes?);
            if all.len() >= most {
                all.truncate(most);
                break;
            }
        }
        Ok(all)
    }

    /// Returns the whole body, where it is not too large.
    async fn all(self) -> Result<WebAnswer, WebError> {
        let body = Limited::new(self.body, ANSWER).collect().await;
        let body = body.map_err(|error| WebError::Http(name_of(&self.url), error.to_string()))?;
        Ok(WebAnswer { status: self.status, body: body.to_bytes().to_vec() })
    }

    /// Where a redirect leads; nowhere, where it would give up what https proves.
    fn redirect(&self) -> Result<Option<Url>, WebError> {
        if !matches!(self.status, 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let wrong = |why: &str| WebError::Http(name_of(&self.url), why.to_owned());
        let to = self.header(&header::LOCATION).ok_or_else(|| wrong("it redirects nowhere"))?;
        let to = self.url.join(to).map_err(|_| wrong("it redirects to what is no address"))?;
        if self.url.scheme() == "https" && to.scheme() != "https" {
            return Err(wrong("it redirects to an address that is not https"));
        }
        Ok(Some(to))
    }
}

fn name_of(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}

/// Asks web servers.
#[derive(Debug, Clone)]
pub struct WebClient {
    allow_private: bool,
    tls: Arc<OnceLock<Result<Arc<ClientConfig>, String>>>,
}

impl WebClient {
    /// Makes one that asks servers at home too, if that is wanted.
    pub fn new(allow_private: bool) -> Self {
        Self { allow_private, tls: Arc::default() }
    }

    /// Tells whether an address may be asked.
    fn may_ask(&self, ip: IpAddr) -> bool {
        // What stands for many machines, or for none, is nobody's server.
        self.allow_private && !ip.is_multicast() && !ip.is_unspecified() || is_public(ip)
    }

    /// Checks a URL as far as it can be before it is asked.
    pub fn check(&self, url: &Url) -> Result<(), WebError> {
        let ip = match (url.scheme(), url.host()) {
            ("http" | "https", Some(Host::Ipv4(ip))) => Some(IpAddr::V4(ip)),
            ("http" | "https", Some(Host::Ipv6(ip))) => Some(IpAddr::V6(ip)),
            ("http" | "https", Some(Host::Domain(_))) => None,
            _ => return Err(WebError::NoAddress(url.clone())),
        };
        match ip {
            Some(ip) if !self.may_ask(ip) => Err(WebError::Private(ip.to_string())),
            _ => Ok(()),
        }
    }

    /// Posts JSON to a URL. No redirect is followed.
    pub async fn post(&self, url: &Url, json: Vec<u8>) -> Result<WebAnswer, WebError> {
        let request =
            Request::post(target_of(url)).header(header::CONTENT_TYPE, "application/json");
        let asked = async { self.open(url.clone(), request, json).await?.all().await };
        let asked = timeout(WAIT, asked).await;
        asked.unwrap_or_else(|_| Err(WebError::TimedOut(name_of(url))))
    }

    /// Asks for what is at a URL, and follows redirects. How long all of it may take is up to the caller.
    pub async fn get(&self, url: Url, accept: &str) -> Result<WebStream, WebError> {
        let mut next = url;
        for _ in 0..=REDIRECTS {
            let request = Request::get(target_of(&next)).header(header::ACCEPT, accept);
            let answer = self.open(next, request, Vec::new()).await?;
            match answer.redirect()? {
                None => return Ok(answer),
                Some(to) => next = to,
            }
        }
        Err(WebError::Http(name_of(&next), "it redirects without end".to_owned()))
    }

    /// Connects and asks.
    async fn open(
        &self,
        url: Url,
        request: request::Builder,
        body: Vec<u8>,
    ) -> Result<WebStream, WebError> {
        self.check(&url)?;
        let name = name_of(&url);
        let stream = self.connect(&url, &name).await?;
        let host = match url.port() {
            Some(port) => format!("{name}:{port}"),
            None => name.clone(),
        };
        let request = request
            .header(header::HOST, host)
            .header(header::USER_AGENT, concat!("messagehub/", env!("CARGO_PKG_VERSION")))
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| WebError::Http(name.clone(), error.to_string()))?;
        if url.scheme() == "http" {
            return ask(stream, request, url).await;
        }
        let unsafe_ = |why: String| WebError::Tls(name.clone(), why);
        let server = match url.host() {
            Some(Host::Ipv4(ip)) => ServerName::from(IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => ServerName::from(IpAddr::V6(ip)),
            _ => ServerName::try_from(name.clone()).map_err(|why| unsafe_(why.to_string()))?,
        };
        let tls = TlsConnector::from(self.tls().map_err(unsafe_)?);
        let stream = tls.connect(server, stream).await.map_err(|why| unsafe_(why.to_string()))?;
        ask(stream, request, url).await
    }

    /// Resolves the name and connects to one of its addresses: to just what was checked.
    async fn connect(&self, url: &Url, name: &str) -> Result<TcpStream, WebError> {
        let port = url.port_or_known_default().unwrap_or(443);
        let addresses: Vec<SocketAddr> = match url.host() {
            Some(Host::Ipv4(ip)) => vec![(ip, port).into()],
            Some(Host::Ipv6(ip)) => vec![(ip, port).into()],
            _ => match lookup_host((name, port)).await {
                Ok(found) => found.collect(),
                Err(_) => return Err(WebError::NotFound(name.to_owned())),
            },
        };
        if addresses.is_empty() {
            return Err(WebError::NotFound(name.to_owned()));
        }
        let mut refused = None;
        let may_ask = |address: &&SocketAddr| self.may_ask(address.ip());
        for address in addresses.iter().filter(may_ask).take(ADDRESSES) {
            match timeout(CONNECT_WAIT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => refused = Some(error),
                Err(_) => refused = Some(io::ErrorKind::TimedOut.into()),
            }
        }
        Err(match refused {
            Some(error) => WebError::Unreachable(name.to_owned(), error),
            None => WebError::Private(name.to_owned()),
        })
    }

    /// Made when it is needed.
    fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        self.tls.get_or_init(|| web_client::tls().map(Arc::new)).clone()
    }
}

/// What is asked of a server for a URL.
fn target_of(url: &Url) -> String {
    match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    }
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    url: Url,
) -> Result<WebStream, WebError> {
    let wrong = |why: &dyn std::fmt::Display| WebError::Http(name_of(&url), why.to_string());
    let (mut sender, connected) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|why| wrong(&why))?;
    let mut connection = JoinSet::new();
    connection.spawn(async move {
        // What went wrong is told by the body.
        let _ = connected.await;
    });
    let answer = sender.send_request(request).await.map_err(|why| wrong(&why))?;
    let (head, body) = answer.into_parts();
    let status = head.status.as_u16();
    Ok(WebStream { url, status, headers: head.headers, body, _connection: connection })
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    /// A server that answers one request with this, and gives what it was asked.
    async fn server(answer: Vec<u8>) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = vec![0; 4096];
            let len = stream.read(&mut bytes).await.unwrap();
            let _ = stream.write_all(&answer).await;
            String::from_utf8(bytes[..len].to_vec()).unwrap()
        });
        (address, asked)
    }

    #[tokio::test]
    async fn what_is_at_home_is_asked_only_where_that_is_wanted() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_vec();
        let (address, asked) = server(answer).await;
        let client = WebClient::new(false);
        for home in [
            format!("http://{address}/x"),
            format!("http://localhost:{}/x", address.port()),
            format!("http://[::ffff:127.0.0.1]:{}/x", address.port()),
        ] {
            let refused = client.post(&url(&home), Vec::new()).await.unwrap_err();
            assert!(matches!(refused, WebError::Private(_)), "{home}: {refused}");
        }
        let client = WebClient::new(true);
        let answer = client.post(&url(&format!("http://{address}/x?y=z")), b"[1]".to_vec()).await;
        assert_eq!((answer.as_ref().unwrap().status, &*answer.unwrap().body), (200, &b"{}"[..]));
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("POST /x?y=z HTTP/1.1\r\n"), "{asked}");
        assert!(asked.ends_with("[1]"), "{asked}");
        for nobody in ["http://224.0.0.1/", "http://0.0.0.0/"] {
            let refused = client.post(&url(nobody), Vec::new()).await;
            assert!(matches!(refused, Err(WebError::Private(_))), "{nobody}");
        }
        for none in ["ftp://example.org/", "file:///etc/passwd", "data:,x"] {
            let refused = client.post(&url(none), Vec::new()).await;
            assert!(matches!(refused, Err(WebError::NoAddress(_))), "{none}");
        }
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_a_flood_is_none() {
        let client = WebClient::new(true);
        let home =
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n";
        let (address, _) = server(home.to_vec()).await;
        let answer = client.post(&url(&format!("http://{address}/")), Vec::new()).await.unwrap();
        assert_eq!(answer.status, 302);
        let mut flood = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n".to_vec();
        flood.resize(1_000_000, b'x');
        let (address, _) = server(flood).await;
        let refused = client.post(&url(&format!("http://{address}/")), Vec::new()).await;
        assert!(matches!(refused, Err(WebError::Http(..))), "{refused:?}");
        let (address, _) = server(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()).await;
        let refused = client.post(&url(&format!("https://{address}/")), Vec::new()).await;
        assert!(matches!(refused, Err(WebError::Tls(..))), "{refused:?}");
    }

    #[tokio::test]
    async fn each_hop_of_a_redirect_is_checked() {
        let client = WebClient::new(true);
        let page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\npage";
        let (last, asked) = server(page.to_vec()).await;
        let to = |location: &str| {
            format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
        };
        let (first, _) = server(to(&format!("http://{last}/there?x")).into_bytes()).await;
        let answer = client.get(url(&format!("http://{first}/")), "text/html").await.unwrap();
        assert_eq!((answer.status, answer.url.path()), (200, "/there"));
        assert_eq!(answer.header(&header::CONTENT_TYPE), Some("text/html"));
        assert_eq!(answer.beginning(3).await.unwrap(), b"pag");
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("GET /there?x HTTP/1.1\r\n"), "{asked}");
        for nowhere in ["http://224.0.0.1/", "ftp://example.org/", "http://[", "file:///etc/passwd"]
        {
            let (first, _) = server(to(nowhere).into_bytes()).await;
            let answer = client.get(url(&format!("http://{first}/")), "*/*").await;
            assert!(answer.is_err(), "{nowhere}");
        }
        // Where only the Internet may be asked, a redirect home is refused as a link there is.
        let home = WebStream::redirect;
        let (first, _) = server(to("http://127.0.0.1/").into_bytes()).await;
        let request = Request::get("/");
        let answer = client.open(url(&format!("http://{first}/")), request, Vec::new()).await;
        let to = home(&answer.unwrap()).unwrap().unwrap();
        assert!(matches!(WebClient::new(false).check(&to), Err(WebError::Private(_))));
    }

    #[tokio::test]
    async fn who_redirects_without_end_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = tokio::spawn(async move {
            let mut asked = 0;
            while let Ok((mut stream, _)) = listener.accept().await {
                asked += 1;
                let _ = stream.read(&mut [0; 4096]).await;
                let again = b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n";
                let _ = stream.write_all(again).await;
                if asked == REDIRECTS + 1 {
                    break;
                }
            }
            asked
        });
        let answer = WebClient::new(true).get(url(&format!("http://{address}/")), "*/*").await;
        assert!(matches!(answer, Err(WebError::Http(_, why)) if why.contains("without end")));
        assert_eq!(asked.await.unwrap(), REDIRECTS + 1);
    }
}
