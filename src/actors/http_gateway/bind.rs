//! Where the servers listen.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    actors::element::{self, ElementParts, Found, Work},
    config::{
        Config, DEFAULT_ELEMENT_LISTEN, DEFAULT_LISTEN, FALLBACK_PORT, Registration, Release,
    },
    http::{gateway::url_of, login::presence::Persons},
    platform::{low_ports, words::System},
};

/// Where the http servers of a node are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebStatus {
    /// Where the homeserver listens.
    pub homeserver: SocketAddr,
    /// Its URL, as somebody at this machine opens it.
    pub homeserver_url: String,
    /// The same of Element; none where it is turned off.
    pub element_url: Option<String>,
    /// The folder in which Element's files are missing.
    pub element_missing: Option<PathBuf>,
    /// What is done so that they come.
    #[serde(default)]
    pub element_work: Work,
}

/// Why a server cannot listen: one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens there already.
    #[error("{address} is in use, {}", System::HERE.port_taken(*address, key))]
    InUse {
        /// The address.
        address: SocketAddr,
        /// The key of the configuration.
        key: &'static str,
    },
    /// The system does not let us.
    #[error("listening on {address} is not permitted: {}", System::HERE.port_refused(*address, key))]
    NotPermitted {
        /// The address.
        address: SocketAddr,
        /// The key of the configuration.
        key: &'static str,
    },
    /// The configuration names no release of Element.
    #[error("{0}")]
    Release(String),
    /// This machine does not have the address, or something else.
    #[error("cannot listen on {address}: {why}: {}", System::HERE.address_missing(*address, key))]
    Other {
        /// The address.
        address: SocketAddr,
        /// The key of the configuration.
        key: &'static str,
        /// What the system said.
        why: String,
    },
}

/// Sockets that listen, not served yet.
#[derive(Debug)]
pub struct Bound {
    pub(super) homeserver: TcpListener,
    pub(super) homeserver_address: SocketAddr,
    pub(super) element: Option<(TcpListener, SocketAddr)>,
    pub(super) element_path: Option<PathBuf>,
    pub(super) release: Release,
    pub(super) fetch: bool,
    pub(super) is_household: bool,
    pub(super) persons: Persons,
    pub(super) config_file: Option<PathBuf>,
    pub(super) metrics: Option<(TcpListener, SocketAddr)>,
}

impl Bound {
    /// Returns where the homeserver listens.
    pub fn homeserver(&self) -> SocketAddr {
        self.homeserver_address
    }

    /// Returns where the servers are, for whoever is told; `data` is the folder with the node's data.
    /// `work` says what is done so that Element is there.
    pub fn places(&self, data: &Path, work: watch::Receiver<Work>) -> WebPlaces {
        let element = self.element().map(|address| (address, self.element_folder(data)));
        WebPlaces { homeserver: self.homeserver_address, element, work }
    }

    /// Returns Element's folder; `data` is the folder with the node's data.
    pub fn element_folder(&self, data: &Path) -> PathBuf {
        self.element_path.clone().unwrap_or_else(|| element::folder_in(data))
    }

    /// Returns what is to be fetched; none where Element is not served, a person keeps its files, or nothing
    /// is to be fetched.
    pub fn to_fetch(&self, data: &Path) -> Option<ElementParts> {
        let wanted = self.fetch && self.element.is_some() && self.element_path.is_none();
        let parts =
            || ElementParts { release: self.release.clone(), folder: element::folder_in(data) };
        wanted.then(parts)
    }

    /// Returns where figures are served.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(|(_, address)| *address)
    }

    /// Returns where Element is served.
    pub fn element(&self) -> Option<SocketAddr> {
        self.element.as_ref().map(|(_, address)| *address)
    }
}

/// Where the servers are, and where Element's files belong.
#[derive(Debug, Clone)]
pub struct WebPlaces {
    homeserver: SocketAddr,
    element: Option<(SocketAddr, PathBuf)>,
    work: watch::Receiver<Work>,
}

impl WebPlaces {
    /// Looks whether Element's files are there by now; none where the process ends.
    pub async fn look(&self) -> Option<WebStatus> {
        let Self { homeserver, element, work } = self.clone();
        // A folder can be on a disk that sleeps.
        let looked = tokio::task::spawn_blocking(move || WebStatus {
            homeserver,
            homeserver_url: url_of(homeserver),
            element_url: element.as_ref().map(|(address, _)| url_of(*address)),
            element_missing: element
                .map(|(_, files)| files)
                .filter(|files| element::look(files) == Found::Nothing),
            element_work: work.borrow().clone(),
        });
        looked.await.ok()
    }
}

/// Listens where the configuration says, or at the default addresses. Where those are refused
/// because their port is below 1024, port 8480 of the same address takes its place.
pub fn bind(config: &Config) -> Result<Bound, BindError> {
    low_ports::allow();
    let (homeserver, homeserver_address) =
        listen("listenAddress", config.listen_address, DEFAULT_LISTEN, TcpListener::bind)?;
    let element = match config.element.listen_address {
        Some(None) => None,
        configured => Some(listen(
            "element.listenAddress",
            configured.flatten(),
            DEFAULT_ELEMENT_LISTEN,
            TcpListener::bind,
        )?),
    };
    let element_path = config.element.path.clone();
    let persons = Persons::at(homeserver_address, &config.login.local_accounts);
    let (release, fetch) =
        (config.element.release().map_err(BindError::Release)?, config.element.fetch);
    let is_household = config.accounts.registration != Registration::Off;
    let config_file = config.file.clone();
    let metrics = config.metrics.listen_address;
    let metrics = metrics.map(|address| {
        listen("metrics.listenAddress", Some(address), DEFAULT_LISTEN, TcpListener::bind)
    });
    let metrics = metrics.transpose()?;
    Ok(Bound {
        homeserver,
        homeserver_address,
        element,
        element_path,
        release,
        fetch,
        is_household,
        persons,
        config_file,
        metrics,
    })
}

fn listen(
    key: &'static str,
    configured: Option<SocketAddr>,
    default: &str,
    bind: impl Fn(SocketAddr) -> io::Result<TcpListener>,
) -> Result<(TcpListener, SocketAddr), BindError> {
    let default: SocketAddr =
        default.parse().unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], FALLBACK_PORT)));
    let mut address = configured.unwrap_or(default);
    // The shipped file names the defaults: it has to behave as if it were not there.
    let chosen = address != default;
    let bound = match bind(address) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !chosen => {
            address.set_port(FALLBACK_PORT);
            bind(address)
        }
        bound => bound,
    };
    let listener = bound.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address, key },
        io::ErrorKind::PermissionDenied => BindError::NotPermitted { address, key },
        _ => BindError::Other { address, key, why: error.to_string() },
    })?;
    // Port 0 is any free one, as tests use it.
    let address = listener.local_addr().unwrap_or(address);
    Ok((listener, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse_low_ports(address: SocketAddr) -> io::Result<TcpListener> {
        if address.port() < 1024 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        TcpListener::bind("127.0.0.1:0")
    }

    #[test]
    fn the_default_falls_back_and_a_choice_does_not() {
        let default = DEFAULT_LISTEN;
        assert!(listen("k", None, default, refuse_low_ports).is_ok());
        let shipped = default.parse().ok();
        assert!(listen("k", shipped, default, refuse_low_ports).is_ok(), "as shipped");
        let chosen = "127.0.0.1:81".parse().ok();
        let error = listen("listenAddress", chosen, default, refuse_low_ports).unwrap_err();
        let line = error.to_string();
        assert!(line.contains("127.0.0.1:81") && line.contains("listenAddress"), "{line}");
    }

    #[test]
    fn the_fallback_is_for_missing_permission_only() {
        let in_use = |_| Err(io::ErrorKind::AddrInUse.into());
        let error = listen("listenAddress", None, DEFAULT_LISTEN, in_use).unwrap_err();
        assert!(matches!(error, BindError::InUse { .. }));
        assert!(!error.to_string().contains('\n'));
    }

    #[test]
    fn a_taken_address_is_named() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = first.local_addr().unwrap();
        let error = listen("k", Some(taken), DEFAULT_LISTEN, TcpListener::bind).unwrap_err();
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
    }
}
