//! Asking web servers, for what has to come from one: what every such client of ours has in common.
//!
//! Roots of trust are compiled in, so that it works where the system has none, as in a container with
//! nothing but this program in it.

use std::{sync::Arc, time::Duration};

use reqwest::{ClientBuilder, redirect};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(30);
/// How many redirects are followed.
const REDIRECTS: usize = 5;

/// Returns a client to be completed: TLS where the address says https, a time for connecting. It follows
/// a few redirects, and none from https to anything else. Fails with a line.
pub fn builder() -> Result<ClientBuilder, String> {
    let tls = tls()?;
    let redirects = redirect::Policy::custom(|attempt| {
        let begun = attempt.previous().first().map(|url| url.scheme().to_owned());
        if attempt.previous().len() > REDIRECTS {
            attempt.error("it redirects without end")
        } else if begun.as_deref() == Some("https") && attempt.url().scheme() != "https" {
            attempt.error("it redirects to an address that is not https")
        } else {
            attempt.follow()
        }
    });
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT)
        .redirect(redirects)
        .referer(false)
        .user_agent(concat!("messagehub/", env!("CARGO_PKG_VERSION"))))
}

/// Returns how TLS is spoken to web servers. Fails with a line.
pub(crate) fn tls() -> Result<ClientConfig, String> {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be used: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
