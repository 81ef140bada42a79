//! How `messagehub status`, `outbox`, `login-token` and `password` speak to the running node.
//!
//! The node listens in the data folder (`src/platform/control_socket.rs`), for its owner only, which is all
//! the authentication there is: whoever may read the keys beside it may ask for a login token, and set a
//! password. One line of JSON each way, one request a connection.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use actix::Recipient;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{
        AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
        BufReader,
    },
    task::JoinHandle,
    time::timeout,
};

use crate::{
    actors::{
        accounts::{LogOut, MintLoginToken, SetPassword, Whose},
        identity::EnsureIdentity,
        outbox::ReadOutbox,
    },
    platform::control_socket::{self, Listener},
    status::{self, StatusLinks},
};

/// Longest request or answer, in bytes.
const LINE_MAX: u64 = 1024 * 1024;
/// Longest wait for the other side.
const WAIT: Duration = Duration::from_secs(10);

/// What can be asked.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command")]
pub enum Command {
    /// What the node is and whom it knows.
    Status,
    /// What is owed to other servers.
    Outbox,
    /// A login token, for two minutes and one use.
    LoginToken,
    /// Sets a password; answered with whose it is.
    Password {
        /// Whose, by name or id; none: the owner's.
        user: Option<String>,
        /// The new one.
        password: String,
        /// Whether all devices of the person are logged out.
        log_out: bool,
    },
}

#[derive(Serialize, Deserialize)]
enum Reply<T> {
    Ok(T),
    Err(String),
}

/// Whom the node asks to answer.
#[derive(Clone)]
pub struct ControlLinks {
    /// Accounts.
    pub mint: Recipient<MintLoginToken>,
    /// Identity: a login token is good for nothing without one.
    pub ensure: Recipient<EnsureIdentity>,
    /// Accounts.
    pub set_password: Recipient<SetPassword>,
    /// Outbox.
    pub outbox: Recipient<ReadOutbox>,
    /// All who know what the node is at.
    pub status: StatusLinks,
}

/// Serves the socket until the handle is aborted.
pub fn serve(data: &Path, links: ControlLinks) -> io::Result<JoinHandle<()>> {
    let mut listener = Listener::bind(data)?;
    Ok(actix::spawn(async move {
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    let links = links.clone();
                    actix::spawn(async move {
                        if let Ok(Err(error)) = timeout(WAIT, answer(stream, links)).await {
                            log::debug!("control connection failed: {error}");
                        }
                    });
                }
                Err(error) => {
                    log::warn!("control socket: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }))
}

async fn answer(stream: impl AsyncRead + AsyncWrite, links: ControlLinks) -> io::Result<()> {
    let (read, mut write) = tokio::io::split(stream);
    let mut read = BufReader::new(read.take(LINE_MAX));
    let mut line = String::new();
    read.read_line(&mut line).await?;
    let reply = match serde_json::from_str(&line) {
        Ok(Command::Status) => match status::read(&links.status).await {
            Ok(status) => serde_json::to_string(&Reply::Ok(status)),
            Err(why) => serde_json::to_string(&Reply::<()>::Err(why)),
        },
        Ok(Command::Outbox) => match links.outbox.send(ReadOutbox).await {
            Ok(outbox) => serde_json::to_string(&Reply::Ok(outbox)),
            Err(why) => serde_json::to_string(&Reply::<()>::Err(why.to_string())),
        },
        Ok(Command::LoginToken) => match login_token(&links).await {
            Ok(token) => serde_json::to_string(&Reply::Ok(token)),
            Err(why) => serde_json::to_string(&Reply::<()>::Err(why)),
        },
        Ok(Command::Password { user, password, log_out }) => {
            let log_out = if log_out { LogOut::Everybody } else { LogOut::Nobody };
            let message = SetPassword { whose: Whose::Named(user), password, log_out };
            match links.set_password.send(message).await {
                Ok(Ok(user_id)) => serde_json::to_string(&Reply::Ok(user_id)),
                Ok(Err(why)) => serde_json::to_string(&Reply::<()>::Err(why.to_string())),
                Err(why) => serde_json::to_string(&Reply::<()>::Err(why.to_string())),
            }
        }
        Err(error) => serde_json::to_string(&Reply::<()>::Err(error.to_string())),
    };
    let mut reply = reply.map_err(io::Error::other)?;
    reply.push('\n');
    write.write_all(reply.as_bytes()).await?;
    write.shutdown().await?;
    // A pipe of Windows takes with it what was not read yet: the other side hangs up.
    let _ = read.read_u8().await;
    Ok(())
}

async fn login_token(links: &ControlLinks) -> Result<String, String> {
    let failed = |error: actix::MailboxError| error.to_string();
    let made = links.ensure.send(EnsureIdentity).await.map_err(failed)?;
    made.map_err(|error| error.to_string())?;
    links.mint.send(MintLoginToken).await.map_err(failed)
}

/// Why a running node could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No node runs with this data folder.
    #[error("no messagehub runs with the data folder {0}: start it, or name another with --data")]
    NotRunning(PathBuf),
    /// The socket belongs to somebody else.
    #[error("{0} may not be used by you: run this as the user who runs messagehub")]
    NotPermitted(PathBuf),
    /// The node did not answer.
    #[error("the running node did not answer: {0}")]
    Failed(String),
    /// The node refused.
    #[error("{0}")]
    Refused(String),
}

/// Asks the node that runs with a data folder.
pub async fn ask<T: serde::de::DeserializeOwned>(
    data: &Path,
    command: Command,
) -> Result<T, ControlError> {
    let failed = |error: &dyn std::fmt::Display| ControlError::Failed(error.to_string());
    let stream = control_socket::connect(data).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ControlError::NotRunning(data.to_owned())
        }
        io::ErrorKind::PermissionDenied => ControlError::NotPermitted(control_socket::place(data)),
        _ => failed(&error),
    })?;
    let (read, mut write) = tokio::io::split(stream);
    let mut line = serde_json::to_string(&command).map_err(|error| failed(&error))?;
    line.push('\n');
    let exchange = async {
        write.write_all(line.as_bytes()).await?;
        let mut reply = String::new();
        BufReader::new(read.take(LINE_MAX)).read_line(&mut reply).await?;
        Ok::<_, io::Error>(reply)
    };
    let reply = timeout(WAIT, exchange)
        .await
        .map_err(|_| failed(&"no answer in 10 s"))?
        .map_err(|error| failed(&error))?;
    match serde_json::from_str(&reply).map_err(|error| failed(&error))? {
        Reply::Ok(value) => Ok(value),
        Reply::Err(why) => Err(ControlError::Refused(why)),
    }
}
