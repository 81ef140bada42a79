//! The shell of HttpGateway: it holds the handles of the servers.

use std::{io, net::TcpListener, path::Path, sync::Arc};

use actix::{
    Actor, Addr, AsyncContext as _, Context, Handler, Message, ResponseFuture, System,
    fut::wrap_future,
};
use actix_web::{
    App, HttpServer,
    dev::{Server, ServerHandle},
    middleware::from_fn,
    web,
};
use log::{debug, error};
use tokio::sync::{Semaphore, watch};

use super::bind::Bound;
use crate::{
    actors::element::Work,
    config::limits,
    http::{
        self,
        element::{self, ElementFiles},
        gateway::{Gateway, Place},
        login::{
            pages::TokenCommand,
            sso::{Desk, PageSecret, Patient},
        },
        metrics::{self, MetricsDesk},
    },
};

/// Threads of each server: its work is short, what is heavy is elsewhere.
const WORKERS: usize = 2;
/// Most connections of each thread: a client has a few, and each takes a file descriptor.
const CONNECTIONS: usize = 256;
/// Most connections of who reads figures.
const METRICS_CONNECTIONS: usize = 8;
/// Exit code of a process that is to be started again (`EX_SOFTWARE`).
const EXIT_FAILED: i32 = 70;
/// Seconds that requests have to end in when the node stops.
const DRAIN_SECS: u64 = 3;

/// Runs the http servers.
#[derive(Debug)]
pub struct HttpGatewayActor {
    servers: Vec<ServerHandle>,
    stopping: watch::Sender<bool>,
    homeserver_url: String,
}

/// Stops taking requests, ends those that wait, and answers once all have ended (5 s at most).
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Drain;

/// Serves. `data` is the folder with the node's data, where Element is looked for unless
/// `element.path` says otherwise; `work` says what is done so that it is there. Has to be called on an Arbiter. A server that cannot run ends the
/// process, since nobody could tell the node anything.
pub fn start(
    bound: Bound,
    gateway: Gateway,
    data: &Path,
    work: watch::Receiver<Work>,
) -> Addr<HttpGatewayActor> {
    let (stopping, stops) = watch::channel(false);
    let place = Place { homeserver: bound.homeserver(), element: bound.element(), stopping: stops };
    let homeserver_url = place.homeserver_url();
    let folder = bound.element_folder(data);
    let (release, is_household) = (bound.release, bound.is_household);
    let files = ElementFiles { folder, release, work, is_household };

    let desk = Desk {
        place: place.clone(),
        persons: bound.persons,
        command: TokenCommand(format!("messagehub login-token --data {}", data.display())),
        secret: PageSecret::random(),
        patient: Patient {
            config: bound.config_file,
            data: data.to_owned(),
            place: Arc::new(Semaphore::new(limits::DOCTORS)),
        },
    };
    let figures = gateway.figures.clone();
    let mut servers = vec![homeserver(bound.homeserver, gateway, place.clone(), desk)];
    if let Some((listener, _)) = bound.element {
        servers.push(element_server(listener, files, place));
    }
    if let Some((listener, listen)) = bound.metrics {
        let looks = Arc::new(Semaphore::new(1));
        servers.push(metrics_server(listener, MetricsDesk { figures, listen, looks }));
    }
    HttpGatewayActor::create(|ctx| {
        let handles = servers.iter().flatten().map(Server::handle).collect();
        for server in servers {
            ctx.spawn(wrap_future(async move {
                let ended = match server {
                    Ok(server) => server.await,
                    Err(why) => Err(why),
                };
                if let Err(why) = ended {
                    error!(why:%; "an http server failed");
                    System::current().stop_with_code(EXIT_FAILED);
                }
            }));
        }
        HttpGatewayActor { servers: handles, stopping, homeserver_url }
    })
}

fn homeserver(
    listener: TcpListener,
    gateway: Gateway,
    place: Place,
    desk: Desk,
) -> io::Result<Server> {
    let (gateway, place) = (web::Data::new(gateway), web::Data::new(place));
    let desk = web::Data::new(desk);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(gateway.clone())
            .app_data(place.clone())
            .app_data(desk.clone())
            .wrap(from_fn(http::guard))
            .configure(http::configure)
    });
    let server = server.workers(WORKERS).max_connections(CONNECTIONS);
    Ok(server.disable_signals().shutdown_timeout(DRAIN_SECS).listen(listener)?.run())
}

fn element_server(listener: TcpListener, files: ElementFiles, place: Place) -> io::Result<Server> {
    let (files, place) = (web::Data::new(files), web::Data::new(place));
    let server = HttpServer::new(move || {
        App::new()
            .app_data(files.clone())
            .app_data(place.clone())
            .wrap(from_fn(element::guard))
            .configure(element::configure)
    });
    let server = server.workers(WORKERS).max_connections(CONNECTIONS);
    Ok(server.disable_signals().shutdown_timeout(DRAIN_SECS).listen(listener)?.run())
}

fn metrics_server(listener: TcpListener, desk: MetricsDesk) -> io::Result<Server> {
    let desk = web::Data::new(desk);
    let server =
        HttpServer::new(move || App::new().app_data(desk.clone()).configure(metrics::configure));
    let server = server.workers(1).max_connections(METRICS_CONNECTIONS);
    Ok(server.disable_signals().shutdown_timeout(DRAIN_SECS).listen(listener)?.run())
}

impl Actor for HttpGatewayActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
    }
}

impl Handler<Drain> for HttpGatewayActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Context<Self>) -> Self::Result {
        debug!(address:% = self.homeserver_url; "http stops");
        // Whoever waits in a /sync answers now.
        let _ = self.stopping.send(true);
        let stops: Vec<_> = self.servers.iter().map(|server| server.stop(true)).collect();
        Box::pin(async move {
            let all = futures::future::join_all(stops);
            let _ = tokio::time::timeout(limits::STOP_WAIT, all).await;
        })
    }
}
