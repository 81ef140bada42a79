//! Posts to web servers of others over HTTP: who is asked is somebody else's choice, so each address is
//! checked, and connected to as it was checked.
//!
//! Invariants: nothing at home is asked, unless the person wants it; no redirect is followed; an
//! answer takes a bounded time and a bounded number of bytes.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::{Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
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
/// Largest answer.
const ANSWER: usize = 64 * 1024;

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
    #[error(
        "{0} is at an address of a home or a machine, not of the Internet; if it is your own \
         gateway, set push.allowPrivateAddresses"
    )]
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

    /// Posts JSON to a URL.
    pub async fn post(&self, url: &Url, json: Vec<u8>) -> Result<WebAnswer, WebError> {
        self.check(url)?;
        let name = url.host_str().unwrap_or_default().to_owned();
        let asked = timeout(WAIT, self.post_to(url, &name, json)).await;
        asked.unwrap_or(Err(WebError::TimedOut(name)))
    }

    async fn post_to(&self, url: &Url, name: &str, json: Vec<u8>) -> Result<WebAnswer, WebError> {
        let stream = self.connect(url, name).await?;
        let request = Request::post(match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        });
        let host = match url.port() {
            Some(port) => format!("{name}:{port}"),
            None => name.to_owned(),
        };
        let request = request
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("messagehub/", env!("CARGO_PKG_VERSION")))
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from(json)))
            .map_err(|error| WebError::Http(name.to_owned(), error.to_string()))?;
        if url.scheme() == "http" {
            return ask(stream, request, name).await;
        }
        let unsafe_ = |why: String| WebError::Tls(name.to_owned(), why);
        let server = match url.host() {
            Some(Host::Ipv4(ip)) => ServerName::from(IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => ServerName::from(IpAddr::V6(ip)),
            _ => ServerName::try_from(name.to_owned()).map_err(|why| unsafe_(why.to_string()))?,
        };
        let tls = TlsConnector::from(self.tls().map_err(unsafe_)?);
        let stream = tls.connect(server, stream).await.map_err(|why| unsafe_(why.to_string()))?;
        ask(stream, request, name).await
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

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    name: &str,
) -> Result<WebAnswer, WebError> {
    let wrong = |why: &dyn std::fmt::Display| WebError::Http(name.to_owned(), why.to_string());
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|why| wrong(&why))?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|why| wrong(&why))?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), ANSWER).collect().await;
        let body = body.map_err(|why| wrong(&why))?.to_bytes().to_vec();
        Ok(WebAnswer { status, body })
    };
    let answer = answer.await;
    connection.abort();
    answer
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
}
