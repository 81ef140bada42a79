//! HTTP end to end: real routes and the real Accounts, over fakes of all other actors.

mod accounts;
mod api;
mod fake;
mod fuzz;
mod keys;
mod login;
mod media;
mod served;
mod status;

use std::rc::Rc;

use actix_web::{
    App, HttpMessage as _,
    dev::Service as _,
    http::header::HeaderMap,
    middleware::from_fn,
    test::{self, TestRequest},
    web,
};
use futures::future::LocalBoxFuture;
use serde_json::Value;
use tokio::sync::watch;

use self::fake::Fake;
use super::{
    configure,
    gateway::{Gateway, Place},
    guard,
    login::{
        pages::TokenCommand,
        presence::Persons,
        sso::{Desk, PageSecret, Patient},
    },
};

use crate::actors::accounts::{LogIn, LogInBy, NewDevice};

const HOST: &str = "127.84.48.2";
const ELEMENT: &str = "http://127.84.48.1";

/// An answer, read to its end.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    fn errcode(&self) -> (u16, String) {
        (self.status, self.json()["errcode"].as_str().unwrap_or_default().to_owned())
    }
}

fn place() -> Place {
    // A node whose end nobody can tell has ended; this one runs for as long as the test does.
    let (running, stopping) = watch::channel(false);
    std::mem::forget(running);
    Place {
        homeserver: "127.84.48.2:80".parse().unwrap(),
        element: "127.84.48.1:80".parse().ok(),
        stopping,
    }
}

/// The account of the tests' person, who connects from a port of this number.
const ME: u16 = 1000;

/// Takes ports for accounts.
fn desk() -> Desk {
    let place = place();
    let persons =
        Persons::for_test(place.homeserver, &[ME.into()], |of, _| Ok(Some(of.port().into())));
    let command = TokenCommand("messagehub login-token".to_owned());
    let patient = Patient {
        config: None,
        data: "/nowhere".into(),
        place: std::sync::Arc::new(tokio::sync::Semaphore::new(1)),
    };
    Desk { place, persons, command, secret: PageSecret::random(), patient }
}

/// A homeserver that requests can be sent to.
struct Homeserver(Box<dyn Fn(TestRequest) -> LocalBoxFuture<'static, Reply>>);

/// The homeserver over a gateway.
async fn served(gateway: Gateway) -> Homeserver {
    let app = test::init_service(
        App::new()
            .app_data(web::Data::new(gateway))
            .app_data(web::Data::new(place()))
            .app_data(web::Data::new(desk()))
            .wrap(from_fn(guard))
            .configure(configure),
    );
    let app = Rc::new(app.await);
    Homeserver(Box::new(move |request| {
        let app = Rc::clone(&app);
        Box::pin(async move {
            let mut request = request.to_request();
            if request.peer_addr().is_none() {
                request.head_mut().peer_addr = Some(([127, 0, 0, 1], ME).into());
            }
            if !request.headers().contains_key("host") {
                let name = actix_web::http::header::HOST;
                request.headers_mut().insert(name, HOST.parse().unwrap());
            }
            let answer = app.call(request).await.unwrap();
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            Reply { status, headers, body: test::read_body(answer).await.to_vec() }
        })
    }))
}

/// Sends a request to the homeserver, with its own Host unless there is one.
async fn send(app: &Homeserver, request: TestRequest) -> Reply {
    (app.0)(request).await
}

fn get(path: &str) -> TestRequest {
    TestRequest::get().uri(path)
}

fn put(path: &str, body: &Value) -> TestRequest {
    TestRequest::put().uri(path).set_payload(body.to_string())
}

fn post(path: &str, body: &Value) -> TestRequest {
    TestRequest::post().uri(path).set_payload(body.to_string())
}

fn with(token: &str, request: TestRequest) -> TestRequest {
    request.insert_header(("Authorization", format!("Bearer {token}")))
}

/// The user of the signer that [`fake`] makes.
fn owner() -> ruma::OwnedUserId {
    crate::proto::server_name::user_of(
        &crate::proto::server_keys::tests::secret_keys(1).server_name(),
    )
}

/// Logs in as the control socket does, and returns the access token.
async fn logged_in(gateway: &Gateway, device_id: &str) -> String {
    let login_token = gateway.ask_accounts(crate::actors::accounts::MintLoginToken).await.unwrap();
    let device = NewDevice { device_id: Some(device_id.to_owned()), ..NewDevice::default() };
    let login = LogIn { by: LogInBy::Token(login_token), device };
    let login = gateway.ask_accounts(login).await.unwrap();
    login.unwrap_or_else(|error| panic!("{error}")).access_token
}

/// A node with one logged-in device `D`.
async fn node() -> (Homeserver, actix::Addr<Fake>, String) {
    let (fake, gateway) = fake::start().await;
    let token = logged_in(&gateway, "D").await;
    (served(gateway).await, fake, token)
}
