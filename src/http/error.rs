//! Errors as clients see them: the one place that knows status and errcode.

use std::{borrow::Cow, fmt};

use actix_web::{HttpResponse, ResponseError, http::StatusCode};
use serde_json::{Map, Value};

use crate::{
    actors::{
        accounts::AccountError, device_keys::KeyError, error::AskError, identity::IdentityError,
        media::MediaError, outbox::OutboxError, previews::PreviewError, pushers::PusherError,
        room::RoomError, room_directory::DirectoryError, store::StoreError,
        upward::FederationError,
    },
    proto::{ProtoError, json::Unsound},
};

/// How long a client is asked to wait when the work budget is used up, in milliseconds.
const RETRY_AFTER_MS: u64 = 500;

/// An error answer of the Client-Server API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpError {
    status: StatusCode,
    errcode: &'static str,
    message: Cow<'static, str>,
    retry_after_ms: Option<u64>,
    /// The version of the backup that is the newest, for who named another one.
    current_version: Option<String>,
    /// Whether the client is to go on with the device once it has another token.
    soft_logout: bool,
}

impl HttpError {
    /// Makes an error.
    pub fn new(
        status: StatusCode,
        errcode: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let message = message.into();
        Self {
            status,
            errcode,
            message,
            retry_after_ms: None,
            current_version: None,
            soft_logout: false,
        }
    }

    /// The path is none of ours, or what is behind it is not built.
    pub fn unrecognized() -> Self {
        Self::new(StatusCode::NOT_FOUND, "M_UNRECOGNIZED", "there is no such endpoint here")
    }

    /// The path is ours, the method is not.
    pub fn wrong_method() -> Self {
        let why = "this endpoint does not take this method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED", why)
    }

    /// What was asked for is not there.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "M_NOT_FOUND", message)
    }

    /// Not allowed.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "M_FORBIDDEN", message)
    }

    /// A parameter makes no sense.
    pub fn invalid_param(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_INVALID_PARAM", message)
    }

    /// The body is JSON, but not what the endpoint takes.
    pub fn bad_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_BAD_JSON", message)
    }

    /// The body is no JSON.
    pub fn not_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_NOT_JSON", message)
    }

    /// The body, or what it asks to store, is over a limit.
    pub fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE", message)
    }

    /// No access token.
    pub fn missing_token() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN", "an access token is needed")
    }

    /// An access token that is not valid, or not any more.
    pub fn unknown_token() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN", "the access token is not valid")
    }

    /// An access token that has ended: the client is to refresh it.
    pub fn expired_token() -> Self {
        let why = "the access token has ended: refresh it";
        let error = Self::new(StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN", why);
        Self { soft_logout: true, ..error }
    }

    /// Somebody has used up what there is for them.
    pub fn limit_exceeded(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED", message)
    }

    /// Something of ours is broken; the log says more than the client is told.
    pub fn internal(message: impl fmt::Display) -> Self {
        log::error!(why:% = message; "request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN", message.to_string())
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status.as_u16(), self.errcode, self.message)
    }
}

impl std::error::Error for HttpError {}

impl ResponseError for HttpError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut body = Map::new();
        body.insert("errcode".to_owned(), Value::from(self.errcode));
        body.insert("error".to_owned(), Value::from(self.message.as_ref()));
        if let Some(version) = &self.current_version {
            body.insert("current_version".to_owned(), Value::from(version.as_str()));
        }
        if self.soft_logout {
            body.insert("soft_logout".to_owned(), Value::from(true));
        }
        let mut answer = HttpResponse::build(self.status);
        if let Some(ms) = self.retry_after_ms {
            body.insert("retry_after_ms".to_owned(), Value::from(ms));
            answer.insert_header(("Retry-After", ms.div_ceil(1000).to_string()));
        }
        answer.json(body)
    }
}

impl From<AskError> for HttpError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Overloaded => Self {
                retry_after_ms: Some(RETRY_AFTER_MS),
                ..Self::limit_exceeded(error.to_string())
            },
            AskError::TimedOut => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "M_UNKNOWN", error.to_string())
            }
            AskError::Ended => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN", error.to_string())
            }
        }
    }
}

impl From<StoreError> for HttpError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::TooLarge(_) => Self::too_large(error.to_string()),
            StoreError::Closed => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN", error.to_string())
            }
            // What is wrong with the disk or the folder is ours, and for the log.
            _ => Self::internal(error),
        }
    }
}

impl From<IdentityError> for HttpError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Store(error) => error.into(),
            IdentityError::Ask(error) => error.into(),
            IdentityError::KeyFile { .. } => Self::internal(error),
        }
    }
}

impl From<AccountError> for HttpError {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::BadLoginToken | AccountError::BadPassword | AccountError::Denied(_) => {
                Self::forbidden(error.to_string())
            }
            AccountError::BadRefreshToken => {
                Self::new(StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN", error.to_string())
            }
            AccountError::Deactivated => {
                Self::new(StatusCode::FORBIDDEN, "M_USER_DEACTIVATED", error.to_string())
            }
            AccountError::WeakPassword => {
                Self::new(StatusCode::BAD_REQUEST, "M_WEAK_PASSWORD", error.to_string())
            }
            AccountError::InvalidName(why) => {
                Self::new(StatusCode::BAD_REQUEST, "M_INVALID_USERNAME", why)
            }
            AccountError::NameTaken => {
                Self::new(StatusCode::BAD_REQUEST, "M_USER_IN_USE", error.to_string())
            }
            AccountError::TooOften(wait) => Self {
                retry_after_ms: Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
                ..Self::limit_exceeded(error.to_string())
            },
            AccountError::NotFound(_) => Self::not_found(error.to_string()),
            AccountError::BadRequest(why) => Self::invalid_param(why),
            AccountError::KeyTooLarge(_) => {
                Self::new(StatusCode::BAD_REQUEST, "M_KEY_TOO_LARGE", error.to_string())
            }
            AccountError::ProfileTooLarge(_) => {
                Self::new(StatusCode::BAD_REQUEST, "M_PROFILE_TOO_LARGE", error.to_string())
            }
            AccountError::TooLarge(_) => Self::too_large(error.to_string()),
            AccountError::Full(_) => Self::limit_exceeded(error.to_string()),
            AccountError::Identity(error) => error.into(),
            AccountError::Store(error) => error.into(),
            AccountError::Ask(error) => error.into(),
            AccountError::Keys(error) => error.into(),
        }
    }
}

impl From<PusherError> for HttpError {
    fn from(error: PusherError) -> Self {
        match error {
            PusherError::BadRequest(why) => Self::invalid_param(why),
            PusherError::TooMany(_) => Self::limit_exceeded(error.to_string()),
            PusherError::Store(error) => error.into(),
            PusherError::Ask(error) => error.into(),
        }
    }
}

impl From<KeyError> for HttpError {
    fn from(error: KeyError) -> Self {
        let message = error.to_string();
        match error {
            KeyError::BadRequest(why) => Self::invalid_param(why),
            KeyError::BadSignature(_) => {
                Self::new(StatusCode::BAD_REQUEST, "M_INVALID_SIGNATURE", message)
            }
            KeyError::NeedsAuth | KeyError::Forbidden(_) => Self::forbidden(message),
            KeyError::NotFound(_) => Self::not_found(message),
            KeyError::WrongBackupVersion(version) => Self {
                current_version: Some(version),
                ..Self::new(StatusCode::FORBIDDEN, "M_WRONG_ROOM_KEYS_VERSION", message)
            },
            KeyError::Full(_) => Self::limit_exceeded(message),
            KeyError::TooLarge(_) => Self::too_large(message),
            KeyError::Store(error) => error.into(),
            KeyError::Ask(error) => error.into(),
        }
    }
}

impl From<MediaError> for HttpError {
    fn from(error: MediaError) -> Self {
        let message = error.to_string();
        match error {
            MediaError::NotFound => Self::not_found(message),
            // It may come with who has it, as what is yet to be uploaded.
            MediaError::NotYet | MediaError::Unreachable => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "M_NOT_YET_UPLOADED", message)
            }
            // The specification has 403 for who has used up a quota.
            MediaError::Forbidden(_) | MediaError::UserFull => Self::forbidden(message),
            MediaError::CannotOverwrite => {
                Self::new(StatusCode::CONFLICT, "M_CANNOT_OVERWRITE_MEDIA", message)
            }
            MediaError::TooLarge(_) => Self::too_large(message),
            MediaError::Full | MediaError::DiskFull => {
                log::warn!("media: {message}");
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "M_UNKNOWN", message)
            }
            MediaError::Busy(_) => {
                Self { retry_after_ms: Some(RETRY_AFTER_MS), ..Self::limit_exceeded(message) }
            }
            MediaError::NoPicture(_) => Self::new(StatusCode::BAD_REQUEST, "M_UNKNOWN", message),
            MediaError::Files(_) => Self::internal(message),
            MediaError::Store(error) => error.into(),
            MediaError::Ask(error) => error.into(),
        }
    }
}

impl From<DirectoryError> for HttpError {
    fn from(error: DirectoryError) -> Self {
        let message = error.to_string();
        match error {
            DirectoryError::NotFound(_) => Self::not_found(message),
            DirectoryError::Taken => Self::new(StatusCode::CONFLICT, "M_UNKNOWN", message),
            DirectoryError::Forbidden(_) => Self::forbidden(message),
            DirectoryError::BadRequest(_) => Self::invalid_param(message),
            DirectoryError::Full(_) => Self::limit_exceeded(message),
            DirectoryError::Federation(error) => error.into(),
            DirectoryError::Store(error) => error.into(),
            DirectoryError::Ask(error) => error.into(),
        }
    }
}

impl From<PreviewError> for HttpError {
    fn from(error: PreviewError) -> Self {
        let message = error.to_string();
        match error {
            PreviewError::NoLink(_) => Self::invalid_param(message),
            PreviewError::Web(_) | PreviewError::Refused(..) => {
                Self::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", message)
            }
            PreviewError::TimedOut(_) => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "M_UNKNOWN", message)
            }
            PreviewError::Busy => {
                Self { retry_after_ms: Some(RETRY_AFTER_MS), ..Self::limit_exceeded(message) }
            }
            PreviewError::Ask(error) => error.into(),
        }
    }
}

impl From<FederationError> for HttpError {
    fn from(error: FederationError) -> Self {
        let message = error.to_string();
        match error {
            FederationError::TimedOut(_) => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "M_UNKNOWN", message)
            }
            FederationError::Unreachable(_) | FederationError::BadAnswer { .. } => {
                Self::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", message)
            }
            FederationError::Offline => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN", message)
            }
            // What the other server refuses is refused; its other troubles are a bad gateway.
            FederationError::Refused { status, errcode, .. } => match (status, errcode.as_str()) {
                (403, _) => Self::forbidden(message),
                (404, _) => Self::not_found(message),
                (429, _) => Self::limit_exceeded(message),
                (400, "M_INCOMPATIBLE_ROOM_VERSION") => {
                    Self::new(StatusCode::BAD_REQUEST, "M_INCOMPATIBLE_ROOM_VERSION", message)
                }
                (400, "M_UNABLE_TO_AUTHORISE_JOIN") => {
                    Self::new(StatusCode::BAD_REQUEST, "M_UNABLE_TO_AUTHORISE_JOIN", message)
                }
                _ => Self::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", message),
            },
        }
    }
}

impl From<OutboxError> for HttpError {
    fn from(error: OutboxError) -> Self {
        match error {
            OutboxError::ServerFull(_) | OutboxError::Full => {
                Self::limit_exceeded(error.to_string())
            }
            OutboxError::TooLarge(_) => Self::too_large(error.to_string()),
            OutboxError::Store(error) => error.into(),
            OutboxError::Ask(error) => error.into(),
        }
    }
}

impl From<Unsound> for HttpError {
    fn from(unsound: Unsound) -> Self {
        let message = format!("the body cannot be taken: {unsound}");
        match unsound {
            Unsound::NoText | Unsound::NoJson(_) => Self::not_json(message),
            Unsound::NoObject | Unsound::TooDeep(_) | Unsound::Reserved => Self::bad_json(message),
        }
    }
}

impl From<ProtoError> for HttpError {
    fn from(error: ProtoError) -> Self {
        let message = error.to_string();
        match error {
            ProtoError::TooLarge { .. } => Self::too_large(message),
            ProtoError::Malformed { what: "sync token", .. } => Self::invalid_param(message),
            ProtoError::Malformed { .. } => Self::bad_json(message),
            ProtoError::BadServerName(..) => Self::invalid_param(message),
            _ => Self::new(StatusCode::BAD_REQUEST, "M_UNKNOWN", message),
        }
    }
}

impl From<RoomError> for HttpError {
    fn from(error: RoomError) -> Self {
        let message = error.to_string();
        match error {
            // The spec answers 403 where the user may not know of a room, whether or not it is.
            RoomError::NotFound | RoomError::Forbidden(_) => Self::forbidden(message),
            RoomError::EventNotFound | RoomError::NoSuchUser(_) => Self::not_found(message),
            RoomError::BadRequest(_) => Self::invalid_param(message),
            RoomError::Internal(why) => Self::internal(why),
            RoomError::DuplicateAnnotation => {
                Self::new(StatusCode::BAD_REQUEST, "M_DUPLICATE_ANNOTATION", message)
            }
            RoomError::Full(_) => Self::limit_exceeded(message),
            RoomError::UnsupportedVersion(_) => {
                Self::new(StatusCode::BAD_REQUEST, "M_UNSUPPORTED_ROOM_VERSION", message)
            }
            RoomError::Proto(error) => error.into(),
            RoomError::NotInvited { why, .. } => {
                Self { message: message.into(), ..Self::from(*why) }
            }
            RoomError::Federation(error) => error.into(),
            RoomError::Outbox(error) => error.into(),
            RoomError::Store(error) => error.into(),
            RoomError::Ask(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::{RoomVersionId, server_name};

    use super::*;

    fn seen(error: impl Into<HttpError>) -> (u16, &'static str) {
        let error = error.into();
        (error.status.as_u16(), error.errcode)
    }

    #[test]
    fn what_an_asker_can_act_on_has_its_own_answer() {
        let server = || server_name!("x").to_owned();
        let refused = |status, errcode: &str| FederationError::Refused {
            server: server(),
            status,
            errcode: errcode.to_owned(),
            message: String::new(),
        };
        assert_eq!(seen(AskError::Overloaded), (429, "M_LIMIT_EXCEEDED"));
        assert_eq!(seen(RoomError::Ask(AskError::TimedOut)), (504, "M_UNKNOWN"));
        assert_eq!(seen(AskError::Ended), (503, "M_UNKNOWN"));
        assert_eq!(seen(RoomError::NotFound), (403, "M_FORBIDDEN"));
        assert_eq!(seen(RoomError::EventNotFound), (404, "M_NOT_FOUND"));
        assert_eq!(
            seen(RoomError::UnsupportedVersion(RoomVersionId::V1)),
            (400, "M_UNSUPPORTED_ROOM_VERSION")
        );
        let large = ProtoError::TooLarge { what: "PDU", len: 2, limit: 1 };
        assert_eq!(seen(RoomError::Proto(large)), (413, "M_TOO_LARGE"));
        assert_eq!(seen(RoomError::internal("a bug")), (500, "M_UNKNOWN"), "no fault of the asker");
        assert_eq!(seen(Unsound::NoText), (400, "M_NOT_JSON"));
        assert_eq!(seen(Unsound::TooDeep(64)), (400, "M_BAD_JSON"));
        assert_eq!(seen(StoreError::TooLarge(1)), (413, "M_TOO_LARGE"));
        assert_eq!(seen(FederationError::Unreachable(server())), (502, "M_UNKNOWN"));
        assert_eq!(seen(FederationError::TimedOut(server())), (504, "M_UNKNOWN"));
        assert_eq!(seen(refused(403, "M_FORBIDDEN")), (403, "M_FORBIDDEN"));
        assert_eq!(seen(refused(500, "M_UNKNOWN")), (502, "M_UNKNOWN"));
        assert_eq!(seen(refused(429, "M_LIMIT_EXCEEDED")), (429, "M_LIMIT_EXCEEDED"));
        assert_eq!(seen(AccountError::Full("x")), (429, "M_LIMIT_EXCEEDED"));
        assert_eq!(seen(AccountError::BadLoginToken), (403, "M_FORBIDDEN"));
        assert_eq!(seen(HttpError::unrecognized()), (404, "M_UNRECOGNIZED"));
        assert_eq!(seen(HttpError::wrong_method()), (405, "M_UNRECOGNIZED"));
    }

    #[test]
    fn an_overloaded_node_says_when_to_come_back() {
        let answer = HttpError::from(AskError::Overloaded).error_response();
        assert_eq!(answer.headers().get("retry-after").unwrap(), "1");
    }
}
