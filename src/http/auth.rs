//! Who sends a request.

use std::net::{IpAddr, Ipv4Addr};

use actix_web::{HttpRequest, web};

use super::{error::HttpError, gateway::Gateway};
use crate::actors::accounts::{Authenticate, NoSession, Session, TokenHash};

/// Returns the access token of a request: of the header, or of the query as older clients send it.
pub fn access_token(request: &HttpRequest) -> Option<String> {
    let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    if let Some(header) = header {
        let (scheme, token) = header.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned());
    }
    #[derive(serde::Deserialize)]
    struct Query {
        access_token: Option<String>,
    }
    web::Query::<Query>::from_query(request.query_string()).ok()?.into_inner().access_token
}

/// Returns where a request comes from. What it says of itself does not count.
pub fn source_of(request: &HttpRequest) -> IpAddr {
    request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip())
}

/// Finds out who sends a request. The token leaves this thread as a hash only.
pub async fn authenticate(request: &HttpRequest, gateway: &Gateway) -> Result<Session, HttpError> {
    let token = access_token(request).ok_or_else(HttpError::missing_token)?;
    let token = TokenHash::of(&token);
    let from = request.peer_addr().map(|peer| peer.ip());
    gateway.ask_accounts(Authenticate { token, from }).await?.map_err(|why| match why {
        NoSession::Unknown => HttpError::unknown_token(),
        NoSession::Expired => HttpError::expired_token(),
    })
}
