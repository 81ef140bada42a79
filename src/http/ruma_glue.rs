//! ruma's request and response types on actix-web.
//!
//! actix-web is on an older `http` crate than ruma, so method, URI and headers are copied. ruma
//! wants path arguments percent-decoded, in the order of the path; actix-web's own are decoded
//! only in part, so they are taken from the raw path by the pattern that matched.

use std::{future::Future, pin::Pin};

use actix_web::{
    FromRequest, Handler, HttpRequest, HttpResponse, Responder, Route, body::BoxBody, dev::Payload,
    error::PayloadError, guard, web,
};
use percent_encoding::percent_decode_str;
use ruma::api::{
    IncomingRequest, IncomingRequestExt as _, Metadata, OutgoingResponse, OutgoingResponseExt as _,
    error::{DeserializationError, FromHttpRequestError},
    path_builder::PathBuilder as _,
};
use serde::Serialize;
use serde_json::error::Category;

use super::{auth::authenticate, error::HttpError, gateway::Gateway, quirks::settle};
use crate::{
    actors::{accounts::Session, admission::Permit},
    proto::json,
};

type Extracted<T> = Pin<Box<dyn Future<Output = Result<T, HttpError>>>>;

/// A request that needs no access token.
pub struct Open<T> {
    /// The request.
    pub body: T,
    /// What the handler may use.
    pub gateway: web::Data<Gateway>,
    /// Place in the work budget.
    pub permit: Permit,
}

/// A request of a client with an access token.
pub struct Authed<T> {
    /// The request.
    pub body: T,
    /// Who sends it.
    pub session: Session,
    /// What the handler may use.
    pub gateway: web::Data<Gateway>,
    /// Place in the work budget.
    pub permit: Permit,
}

impl<T: IncomingRequest + 'static> FromRequest for Open<T> {
    type Error = HttpError;
    type Future = Extracted<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, bytes) = (request.clone(), web::Bytes::from_request(request, payload));
        Box::pin(async move {
            let gateway = gateway(&request)?;
            let bytes = read_body(bytes).await?;
            // After the body is there: a slow client takes no place from others.
            let permit = gateway.admission.admit()?;
            let body = read::<T>(&request, &bytes)?;
            Ok(Self { body, gateway, permit })
        })
    }
}

impl<T: IncomingRequest + 'static> FromRequest for Authed<T> {
    type Error = HttpError;
    type Future = Extracted<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, bytes) = (request.clone(), web::Bytes::from_request(request, payload));
        Box::pin(async move {
            let gateway = gateway(&request)?;
            // Before the body is read: strangers are not told what is wrong with theirs.
            let session = authenticate(&request, &gateway).await?;
            let bytes = read_body(bytes).await?;
            let permit = gateway.admission.admit()?;
            let body = read::<T>(&request, &bytes)?;
            Ok(Self { body, session, gateway, permit })
        })
    }
}

/// What the handlers of a request may use.
pub(super) fn gateway(request: &HttpRequest) -> Result<web::Data<Gateway>, HttpError> {
    let gateway = request.app_data::<web::Data<Gateway>>().cloned();
    gateway.ok_or_else(|| HttpError::internal("the server is not wired up"))
}

async fn read_body<E: Into<actix_web::Error>>(
    bytes: impl Future<Output = Result<web::Bytes, E>>,
) -> Result<web::Bytes, HttpError> {
    bytes.await.map_err(|error| {
        let error = error.into();
        match error.as_error::<PayloadError>() {
            Some(PayloadError::Overflow) | None => HttpError::too_large("the body is too large"),
            Some(error) => HttpError::not_json(format!("the body cannot be read: {error}")),
        }
    })
}

/// Parses a request.
fn read<T: IncomingRequest>(request: &HttpRequest, body: &[u8]) -> Result<T, HttpError> {
    // Before ruma's types look at it: they pass over what they do not know, and keep the rest raw.
    if T::METHOD != http::Method::GET && !body.is_empty() {
        json::check_object(body)?;
    }
    // Clients leave the body out where nothing in it is needed; half of ruma's types do not.
    let optional = matches!(T::METHOD, http::Method::POST | http::Method::DELETE);
    let body = if body.is_empty() && optional { b"{}" } else { body };
    let path = unnamed(&request.match_pattern().unwrap_or_default());
    let body = settle(&path, body)?;
    let mut copy =
        http::Request::builder().method(request.method().as_str()).uri(request.uri().to_string());
    for (name, value) in request.headers() {
        copy = copy.header(name.as_str(), value.as_bytes());
    }
    let copy = copy.body(&*body).map_err(|error| HttpError::invalid_param(error.to_string()))?;
    let arguments = path_arguments(request)?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    T::try_from_http_request(copy, &arguments).map_err(|error| {
        let why = error.to_string();
        match error {
            FromHttpRequestError::MethodMismatch { .. } => HttpError::wrong_method(),
            FromHttpRequestError::Deserialization(DeserializationError::Json(json)) => {
                match json.classify() {
                    Category::Syntax | Category::Eof | Category::Io => HttpError::not_json(why),
                    Category::Data => HttpError::bad_json(why),
                }
            }
            _ => HttpError::invalid_param(why),
        }
    })
}

/// Parses a body that is not one of ruma's.
pub fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, HttpError> {
    let text = json::check_object(body)?;
    serde_json::from_str(text).map_err(|error| HttpError::bad_json(error.to_string()))
}

/// Returns the path arguments of a request, percent-decoded, in the order of the path.
pub(super) fn path_arguments(request: &HttpRequest) -> Result<Vec<String>, HttpError> {
    let pattern = request.match_pattern().unwrap_or_default();
    let raw = request.uri().path().split('/');
    pattern
        .split('/')
        .zip(raw)
        .filter(|(part, _)| part.starts_with('{'))
        .map(|(_, raw)| {
            let decoded = percent_decode_str(raw).decode_utf8();
            decoded
                .map(std::borrow::Cow::into_owned)
                .map_err(|_| HttpError::invalid_param("the path is no UTF-8"))
        })
        .collect()
}

/// An answer of a ruma type.
pub struct Answer<R>(pub R);

impl<R: OutgoingResponse> Responder for Answer<R> {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        let answer = match self.0.try_into_http_response::<Vec<u8>>() {
            Ok(answer) => answer,
            Err(error) => return HttpResponse::from_error(HttpError::internal(error)),
        };
        let status = actix_web::http::StatusCode::from_u16(answer.status().as_u16());
        let mut copy = HttpResponse::build(status.unwrap_or_default());
        for (name, value) in answer.headers() {
            copy.append_header((name.as_str(), value.as_bytes()));
        }
        copy.body(answer.into_body())
    }
}

/// An answer of our own types: events are rendered from stored JSON, which ruma's types would
/// have to parse.
pub struct Json<T>(pub T);

impl<T: Serialize> Responder for Json<T> {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::Ok().json(self.0)
    }
}

/// The answer `{}`.
#[derive(Serialize)]
pub struct Empty {}

/// All routes by path, so that a known path with another method can be told from an unknown one.
#[derive(Default)]
pub struct Routes(Vec<(String, actix_web::Resource)>);

impl Routes {
    /// Adds every path of an endpoint.
    pub fn endpoint<T, F, Args>(self, handler: F) -> Self
    where
        T: Metadata,
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        let mut routes = self;
        for path in T::PATH_BUILDER.all_paths() {
            routes = routes.at(T::METHOD.as_str(), path, handler.clone());
            // actix-web matches no empty segment, and the state key may be one.
            if let Some(path) = path.strip_suffix("/{state_key}") {
                routes = routes.at(T::METHOD.as_str(), path, handler.clone());
                routes = routes.at(T::METHOD.as_str(), &format!("{path}/"), handler.clone());
            }
        }
        routes
    }

    /// Adds a path.
    pub fn at<F, Args>(mut self, method: &str, path: &str, handler: F) -> Self
    where
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        let method = actix_web::http::Method::from_bytes(method.as_bytes()).unwrap_or_default();
        let key = unnamed(path);
        // A path is one resource for all of its methods; ruma names the same argument differently
        // in some of them.
        let known = self.0.iter().position(|(known, _)| *known == key);
        let resource = match known {
            Some(at) => self.0.remove(at).1,
            None => web::resource(path.to_owned()).default_service(web::to(|| async {
                HttpResponse::from_error(HttpError::wrong_method())
            })),
        };
        let route = match method {
            actix_web::http::Method::GET => {
                Route::new().guard(guard::Any(guard::Get()).or(guard::Head()))
            }
            method => Route::new().method(method),
        };
        let at = known.unwrap_or(self.0.len());
        self.0.insert(at, (key, resource.route(route.to(handler))));
        self
    }

    /// Registers all of them.
    pub fn configure(self, config: &mut web::ServiceConfig) {
        for (_, resource) in self.0 {
            config.service(resource);
        }
    }
}

/// Returns a path with its arguments unnamed.
fn unnamed(path: &str) -> String {
    let part = |part: &str| if part.starts_with('{') { "{}".to_owned() } else { part.to_owned() };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}
