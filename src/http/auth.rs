//! Who sends a request.

use actix_web::{HttpRequest, web};

use super::{error::HttpError, gateway::Gateway};
use crate::actors::accounts::{Authenticate, Session, TokenHash};

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

/// Finds out who sends a request. The token leaves this thread as a hash only.
pub async fn authenticate(request: &HttpRequest, gateway: &Gateway) -> Result<Session, HttpError> {
    let token = access_token(request).ok_or_else(HttpError::missing_token)?;
    let hash = TokenHash::of(&token);
    gateway.ask_accounts(Authenticate(hash)).await?.ok_or_else(HttpError::unknown_token)
}
