//! One `messagehub` process: its folder, its configuration, its life and its end.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Client, PATIENCE, PAUSE, eventually};

/// The program: that of this build, or the one that `MESSAGEHUB_BINARY` names, so that a release
/// binary can be measured without building the tests in release.
pub(crate) fn binary() -> std::ffi::OsString {
    std::env::var_os("MESSAGEHUB_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_messagehub").into())
}

/// A node: at most one process at a time, over one folder.
#[derive(Debug)]
pub(crate) struct Node {
    folder: TempDir,
    config: Value,
    address: String,
    libp2p: Vec<String>,
    child: Option<Child>,
    log_as: Option<String>,
}

/// Returns a loopback address that no other test process uses, so that ports picked on it are
/// free until this process takes them.
pub(crate) fn own_address() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 128 | high & 63, middle, low)
}

/// Returns a port that is free on [`own_address`] for both TCP and UDP.
pub(crate) fn free_port() -> u16 {
    for _ in 0..100 {
        let listener = TcpListener::bind((own_address(), 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        if UdpSocket::bind((own_address(), port)).is_ok() {
            return port;
        }
    }
    panic!("no free port on {}", own_address());
}

/// Returns a command that runs the binary with nothing inherited that could configure it.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MESSAGEHUB") {
            command.env_remove(name);
        }
    }
    command
        .current_dir(folder)
        .env("HOME", folder)
        // No browser for anybody's tests.
        .env_remove("DISPLAY")
        .env_remove("WAYLAND_DISPLAY")
        .env("XDG_DATA_HOME", folder.join("share"))
        .stdin(Stdio::null());
    command
}

impl Node {
    /// Lays out a folder and a configuration; starts nothing yet.
    pub(crate) fn new(known: &[String]) -> Self {
        let ip = own_address();
        let address = format!("{ip}:{}", free_port());
        let port = free_port();
        let libp2p = vec![format!("/ip4/{ip}/tcp/{port}"), format!("/ip4/{ip}/udp/{port}/quic-v1")];
        let config = json!({
            "listenAddress": address,
            "element": {"listenAddress": null},
            "libp2p": {
                "listenAddresses": libp2p,
                "mdns": false,
                "dht": {"bootstrapPeers": known},
            },
        });
        let node = Self {
            folder: TempDir::new().unwrap(),
            config,
            address,
            libp2p,
            child: None,
            log_as: None,
        };
        node.write_config();
        node
    }

    /// Starts a node that knows some others, and waits until it serves.
    pub(crate) async fn start(known: &[&Node]) -> Self {
        let mut addresses = Vec::new();
        for node in known {
            addresses.extend(node.addresses().await);
        }
        let mut node = Self::new(&addresses);
        node.start_again().await;
        node
    }

    /// Changes the configuration; it counts from the next start.
    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut Value)) {
        change(&mut self.config);
        self.write_config();
    }

    /// Sets how much is logged (`RUST_LOG`); it counts from the next start.
    pub(crate) fn log_as(&mut self, filter: &str) {
        self.log_as = Some(filter.to_owned());
    }

    fn write_config(&self) {
        fs::write(self.config_file(), self.config.to_string()).unwrap();
    }

    /// Returns the configuration file.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.folder.path().join("config.json")
    }

    /// Returns the data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Returns `host:port` of the homeserver.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Returns the URL of the homeserver.
    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Starts the process and does not wait for it.
    pub(crate) fn spawn(&mut self) {
        assert!(self.child.is_none(), "the node runs already");
        let mut log = OpenOptions::new().create(true).append(true).open(self.log_file()).unwrap();
        writeln!(log, "--- start").unwrap();
        let mut command = command(self.folder.path());
        let child = command
            .arg("--config")
            .arg(self.config_file())
            .arg("--data")
            .arg(self.data())
            .envs(self.log_as.iter().map(|filter| ("RUST_LOG", filter)))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Starts the process and waits until it serves.
    pub(crate) async fn start_again(&mut self) {
        self.spawn();
        self.serves().await;
    }

    /// Waits until the node serves; panics at once where it ended instead.
    pub(crate) async fn serves(&mut self) {
        let url = format!("{}/_matrix/client/versions", self.base());
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(answer) = reqwest::get(&url).await
                && answer.status() == 200
            {
                return;
            }
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the node ended: {ended:?}");
            assert!(Instant::now() < deadline, "the node never served {url}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks the process to stop (SIGTERM) and waits for its end: how it ended, and how long it
    /// took.
    pub(crate) async fn stop(&mut self) -> (ExitStatus, Duration) {
        let mut child = self.child.take().unwrap();
        let asked = Instant::now();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let status = ended(&mut child).await;
        (status, asked.elapsed())
    }

    /// Waits until the process ends by itself, for as long as a minute in which it asks others.
    pub(crate) async fn ends(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        ended_within(&mut child, 2 * PATIENCE).await
    }

    /// Ends the process as a crash would (SIGKILL).
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only where the process is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops the process in its tracks, or lets it go on.
    pub(crate) fn freeze(&self, frozen: bool) {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// Returns the process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Runs a subcommand of the binary over this node's data folder.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = command(self.folder.path());
        command.args(arguments).arg("--data").arg(self.data()).env("RUST_LOG", "error");
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// Runs a subcommand of the binary with something on standard input.
    pub(crate) async fn run_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = command(self.folder.path());
        command.args(arguments).arg("--data").arg(self.data()).env("RUST_LOG", "error");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let input = input.to_owned();
        let run = move || {
            let mut child = command.spawn().unwrap();
            // It may end without reading it.
            let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
            child.wait_with_output().unwrap()
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    /// Returns what `messagehub status --json` tells, where it tells something.
    pub(crate) async fn status(&self) -> Option<Value> {
        let output = self.run(&["status", "--json"]).await;
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// Returns what `messagehub outbox --json` tells.
    pub(crate) async fn outbox(&self) -> Value {
        let output = self.run(&["outbox", "--json"]).await;
        assert!(output.status.success(), "outbox: {}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Returns the addresses by which others can know this node, once its network is up.
    pub(crate) async fn addresses(&self) -> Vec<String> {
        let peer_id = eventually("a PeerId in the status", async || {
            let status = self.status().await?;
            Some(status["peer_id"].as_str()?.to_owned()).filter(|peer_id| !peer_id.is_empty())
        })
        .await;
        self.libp2p.iter().map(|address| format!("{address}/p2p/{peer_id}")).collect()
    }

    /// Waits for a connection to somebody else's node, proven to be theirs.
    pub(crate) async fn connected_to(&self, other: &Client) {
        let name = other.server_name();
        eventually(format_args!("a connection to {name}"), async || {
            let status = self.status().await?;
            let peers = status["peers"].as_array()?;
            peers.iter().any(|peer| peer["server_name"] == name).then_some(())
        })
        .await;
    }

    /// Asks the running node for a login token.
    pub(crate) async fn login_token(&self) -> String {
        let output = self.run(&["login-token"]).await;
        assert!(output.status.success(), "login-token: {}", said(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Logs a new device in by a login token.
    pub(crate) async fn log_in(&self) -> Client {
        Client::log_in(&self.base(), &self.login_token().await).await
    }

    /// Returns what the node has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let start = lines.len().saturating_sub(60);
            eprintln!("--- end of the log of the node on {}", self.address);
            for line in lines.get(start..).unwrap_or_default() {
                eprintln!("{line}");
            }
        }
    }
}

/// Waits for the end of a process.
pub(crate) async fn ended(child: &mut Child) -> ExitStatus {
    ended_within(child, PATIENCE).await
}

async fn ended_within(child: &mut Child, patience: Duration) -> ExitStatus {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("the process did not end");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Runs a node that is expected to refuse to start; returns its exit status and what it said.
pub(crate) async fn refused_start(folder: &Path, arguments: &[&str]) -> (ExitStatus, String) {
    let said = folder.join("said");
    let mut child = command(folder)
        .args(arguments)
        .env("RUST_LOG", "error")
        .stdout(Stdio::null())
        .stderr(File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let status = ended(&mut child).await;
    (status, fs::read_to_string(said).unwrap())
}

fn said(output: &Output) -> String {
    format!(
        "{}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
