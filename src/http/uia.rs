//! User-interactive authentication of requests: the proof is taken out of the body, and Accounts is asked
//! whether it is one.

use std::{future::Future, net::IpAddr, pin::Pin};

use actix_web::{
    FromRequest, HttpRequest, HttpResponse,
    dev::Payload,
    web::{self, Bytes},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{auth::source_of, error::HttpError, gateway::Gateway, payload_of};
use crate::{
    actors::accounts::{
        Attempt, Challenge, Confirm, Confirmed, Matter, Operation, Proof, Session, Stage,
    },
    proto::json,
};

/// A request that has to be confirmed, and what came with it.
pub struct Guarded<R> {
    /// The request, without the proof.
    pub request: R,
    /// The proof, and what it has to be of.
    pub asked: Asked,
}

/// What is to be confirmed, and by what.
pub struct Asked {
    endpoint: String,
    rest: Bytes,
    auth: Option<Value>,
    from: IpAddr,
}

impl<R> FromRequest for Guarded<R>
where
    R: FromRequest<Error = HttpError> + 'static,
    R::Future: 'static,
{
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, HttpError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, bytes) = (request.clone(), Bytes::from_request(request, payload));
        Box::pin(async move {
            let bytes = bytes.await.map_err(|_| HttpError::too_large("the body is too large"))?;
            // A body that cannot be taken apart is the request's to refuse.
            let (rest, auth) = take_apart(&bytes).unwrap_or((bytes, None));
            let endpoint = format!("{} {}", request.method(), request.path());
            let from = source_of(&request);
            let asked = Asked { endpoint, rest: rest.clone(), auth, from };
            let request = R::from_request(&request, &mut payload_of(rest)).await?;
            Ok(Self { request, asked })
        })
    }
}

/// Returns a body without its `auth`, and that. No body says as much as an empty one: what comes first has
/// often none.
fn take_apart(body: &[u8]) -> Option<(Bytes, Option<Value>)> {
    let body = if body.is_empty() { b"{}" } else { body };
    json::check_object(body).ok()?;
    let mut fields: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let auth = fields.remove("auth").filter(|auth| !auth.is_null());
    Some((serde_json::to_vec(&fields).ok()?.into(), auth))
}

/// The `auth` of a body. ruma's type wants a password to come with an `identifier`, which clients leave out
/// that are older than it.
#[derive(Deserialize)]
struct Auth {
    #[serde(rename = "type")]
    kind: Option<String>,
    session: Option<String>,
    #[serde(flatten)]
    by_password: ByPassword,
    token: Option<String>,
}

/// How clients say whom they log in, and the password.
#[derive(Deserialize)]
pub(super) struct ByPassword {
    identifier: Option<Identifier>,
    user: Option<String>,
    password: Option<String>,
}

#[derive(Deserialize)]
struct Identifier {
    #[serde(rename = "type")]
    kind: String,
    user: Option<String>,
}

impl ByPassword {
    /// Returns the name and the password.
    pub(super) fn read(self) -> Result<(String, String), HttpError> {
        let password = self.password.ok_or_else(|| HttpError::bad_json("password is missing"))?;
        let user = match self.identifier {
            Some(Identifier { kind, user }) if kind == "m.id.user" => user,
            Some(_) => {
                let why = "there are no mail addresses and phone numbers here: log in by user name";
                return Err(HttpError::forbidden(why));
            }
            None => self.user,
        };
        Ok((user.ok_or_else(|| HttpError::bad_json("the user is missing"))?, password))
    }
}

fn attempt(auth: Value) -> Result<Option<Attempt>, HttpError> {
    let auth: Auth = serde_json::from_value(auth)
        .map_err(|error| HttpError::bad_json(format!("auth: {error}")))?;
    let proof = match auth.kind.as_deref() {
        None if auth.session.is_none() => return Ok(None),
        None | Some("m.login.sso") => Proof::Page,
        Some("m.login.dummy") => Proof::Dummy,
        Some("m.login.password") => {
            let (user, password) = auth.by_password.read()?;
            Proof::Password { user, password }
        }
        Some("m.login.registration_token") => {
            let token = auth.token.ok_or_else(|| HttpError::bad_json("auth: token is missing"))?;
            Proof::RegistrationToken(token)
        }
        Some(_) => Proof::Unknown,
    };
    Ok(Some(Attempt { session: auth.session, proof }))
}

impl Asked {
    /// Asks whether this was confirmed. Where it was not, there is the answer that says how it can be.
    pub async fn confirm(
        self,
        gateway: &web::Data<Gateway>,
        matter: Matter,
        by: Option<&Session>,
    ) -> Result<Option<HttpResponse>, HttpError> {
        let Self { endpoint, rest, auth, from } = self;
        // Who registers may still make up his mind about the name between the steps.
        let body = if by.is_some() { &*rest } else { b"" };
        let operation = Operation::new(matter, by, &endpoint, body);
        let attempt = auth.map(attempt).transpose()?.flatten();
        let confirm = Confirm { operation, by: by.cloned(), attempt, from };
        Ok(match gateway.ask_accounts(confirm).await?? {
            Confirmed::Yes => None,
            Confirmed::NotYet(challenge) => Some(shown(&challenge)),
        })
    }
}

fn shown(challenge: &Challenge) -> HttpResponse {
    let Challenge { session, stages, error } = challenge;
    let flows = stages.iter().map(|stage: &Stage| json!({"stages": [stage.as_str()]}));
    let mut body = json!({
        "session": session,
        "flows": flows.collect::<Value>(),
        "completed": [],
        "params": {},
    });
    if let (Some(why), Some(fields)) = (error, body.as_object_mut()) {
        fields.insert("errcode".to_owned(), Value::from("M_FORBIDDEN"));
        fields.insert("error".to_owned(), Value::from(*why));
    }
    HttpResponse::Unauthorized().json(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_is_no_part_of_what_is_asked() {
        let (rest, auth) = take_apart(br#"{"b":1,"auth":{"type":"m.login.dummy"},"a":2}"#).unwrap();
        let (same, none) = take_apart(br#"{"a":2,"b":1,"auth":null}"#).unwrap();
        assert_eq!(rest, same);
        assert!(auth.is_some() && none.is_none());
        assert_eq!(take_apart(b"").unwrap().0, take_apart(br#"{"auth":{}}"#).unwrap().0);
        assert!(take_apart(b"[]").is_none() && take_apart(b"{").is_none());
    }

    #[test]
    fn proofs_are_read_as_clients_write_them() {
        let read = |auth: Value| match attempt(auth) {
            Ok(Some(Attempt { session, proof })) => {
                let proof = match proof {
                    Proof::Password { user, password } => format!("{user} {password}"),
                    Proof::RegistrationToken(token) => token,
                    proof => format!("{proof:?}"),
                };
                format!("{} {proof}", session.unwrap_or_default())
            }
            Ok(None) => "nothing".to_owned(),
            Err(error) => error.to_string().split(':').next().unwrap().to_owned(),
        };
        for (auth, expected) in [
            (json!({}), "nothing"),
            (json!({"session": "s"}), "s Page"),
            (json!({"session": "s", "type": "m.login.sso"}), "s Page"),
            (json!({"type": "m.login.dummy", "session": "s"}), "s Dummy"),
            (json!({"type": "m.login.recaptcha", "session": "s"}), "s Unknown"),
            (json!({"type": "m.login.registration_token", "token": "t"}), " t"),
            (json!({"type": "m.login.registration_token"}), "400 M_BAD_JSON"),
            (json!({"type": "m.login.password", "user": "bob", "password": "x"}), " bob x"),
            (
                json!({"type": "m.login.password", "password": "x", "user": "old",
                    "identifier": {"type": "m.id.user", "user": "@bob:x"}}),
                " @bob:x x",
            ),
            (
                json!({"type": "m.login.password", "password": "x",
                    "identifier": {"type": "m.id.thirdparty", "medium": "email"}}),
                "403 M_FORBIDDEN",
            ),
            (json!({"type": "m.login.password", "user": "bob"}), "400 M_BAD_JSON"),
            (json!({"type": 5}), "400 M_BAD_JSON"),
            (json!("auth"), "400 M_BAD_JSON"),
        ] {
            assert_eq!(read(auth.clone()), expected, "{auth}");
        }
    }
}
