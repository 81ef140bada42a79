//! Parses the arguments, starts the node or asks the running one, and turns the end into an exit
//! code.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use messagehub::{
    config::Config,
    control::{self, Command, Status},
    node,
};

/// A Matrix homeserver with no server in the middle: it runs here, for you, and finds the others.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// The configuration file; `config.json` of the working folder where there is one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder with keys and database.
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
    #[command(subcommand)]
    ask: Option<Ask>,
}

#[derive(Subcommand)]
enum Ask {
    /// Tells who the running node is and whom it is connected to.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Prints a login token of the running node: for one use, within two minutes.
    LoginToken,
}

/// Returns where keys and database are unless `--data` says so.
fn default_data() -> Option<PathBuf> {
    let absolute =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let share = absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))?;
    Some(share.join("messagehub"))
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(
        env_logger::Env::default().default_filter_or("warn,messagehub=info,libp2p_kad=error"),
    )
    .init();
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(why) => {
            let _ = writeln!(io::stderr(), "messagehub: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, String> {
    let data =
        arguments.data.or_else(default_data).ok_or("HOME is not set: name a folder with --data")?;
    match arguments.ask {
        None => {
            let config =
                Config::load(arguments.config.as_deref()).map_err(|error| error.to_string())?;
            let code = node::run(&config, &data).map_err(|error| error.to_string())?;
            Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from))
        }
        Some(ask) => {
            let text = actix::System::new().block_on(asked(&data, &ask))?;
            writeln!(io::stdout(), "{text}").map_err(|error| error.to_string())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn asked(data: &std::path::Path, ask: &Ask) -> Result<String, String> {
    match ask {
        Ask::LoginToken => {
            control::ask(data, Command::LoginToken).await.map_err(|error| error.to_string())
        }
        Ask::Status { json } => {
            let status: Status =
                control::ask(data, Command::Status).await.map_err(|error| error.to_string())?;
            if *json {
                serde_json::to_string_pretty(&status).map_err(|error| error.to_string())
            } else {
                Ok(in_words(&status))
            }
        }
    }
}

fn in_words(status: &Status) -> String {
    let Status { user_id, network, rooms, .. } = status;
    let mut lines = Vec::new();
    match user_id {
        Some(user_id) => lines.push(format!("you are       {user_id}")),
        None => {
            lines.push("nobody has logged in yet; the first login makes your identity".to_owned())
        }
    }
    lines.push(format!("peer id       {}", network.peer_id));
    for address in &network.listen_addresses {
        lines.push(format!("listening on  {address}"));
    }
    for address in &network.external_addresses {
        lines.push(format!("reachable as  {address}"));
    }
    lines.push(format!("reachability  {}", network.reachability));
    lines.push(format!("router (NAT)  {}", network.nat));
    for relay in &network.relays {
        lines.push(format!("relay         {}", relay.address));
    }
    lines.push(format!("rooms         {} joined, {} invites", rooms.joined, rooms.invited));
    lines.push(format!("peers         {}", network.peers.len()));
    for peer in &network.peers {
        let name = peer.server_name.as_ref().map_or("not identified yet", |name| name.as_str());
        let rtt = peer.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ms"));
        lines.push(format!("  {name}  {}  {rtt}  {}  {}", peer.way, peer.address, peer.peer_id));
    }
    lines.join("\n")
}
