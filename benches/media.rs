//! One large file up, down, and to another node: `cargo bench --bench media`. Prints a Markdown table for
//! `benches/README.md`, beside what copying the same file takes; never judges.
//!
//! `MESSAGEHUB_MEDIA_MIB` is how large it is (1,024). Nodes run on loopback alone.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench")]

use std::{
    fs,
    io::Write as _,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Home, homes};

const MIB: usize = 1024 * 1024;

/// Resident memory of a process in MiB: now, or the most that it was.
fn resident_mib(pid: u32, what: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}

fn row(what: &str, mib: usize, took: Duration) {
    println!("| {what} | {:.0} MiB/s |", mib as f64 / took.as_secs_f64());
}

/// Bytes that are not the same anywhere.
fn block(number: usize) -> Vec<u8> {
    let mut state = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..MIB / 8).flat_map(|_| next()).collect()
}

/// Sends a request, and returns the connection behind its head.
async fn request(home: &Home, method: &str, path: &str, len: usize) -> TcpStream {
    let address = home.node.base().strip_prefix("http://").unwrap().to_owned();
    let mut connection = TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\
         Content-Length: {len}\r\nConnection: close\r\n\r\n",
        home.me.token()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection
}

async fn upload(home: &Home, file: &[Vec<u8>]) -> String {
    let path = "/_matrix/media/v3/upload";
    let mut connection = request(home, "POST", path, file.len() * MIB).await;
    for block in file {
        connection.write_all(block).await.unwrap();
    }
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    let uri = answer.split("mxc://").nth(1).unwrap_or_else(|| panic!("{answer}"));
    uri.split('"').next().unwrap().to_owned()
}

async fn download(home: &Home, at: &str, len: usize) {
    let path = format!("/_matrix/client/v1/media/download/{at}?timeout_ms=50000");
    let mut connection = request(home, "GET", &path, 0).await;
    let (mut buffer, mut got) = (vec![0; MIB], 0);
    loop {
        match connection.read(&mut buffer).await.unwrap() {
            0 => break,
            read => got += read,
        }
    }
    assert!(got > len, "{got} bytes came, and a head");
}

#[tokio::main]
async fn main() {
    let mib = std::env::var("MESSAGEHUB_MEDIA_MIB");
    let mib: usize = mib.ok().and_then(|mib| mib.parse().ok()).unwrap_or(1024);
    let file: Vec<Vec<u8>> = (0..mib).map(block).collect();
    println!("| {mib} MiB | |\n|---|---|");

    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let mut written = fs::File::create(&from).unwrap();
    for block in &file {
        written.write_all(block).unwrap();
    }
    written.sync_all().unwrap();
    let start = Instant::now();
    fs::copy(&from, &to).unwrap();
    row("copied, not synced", mib, start.elapsed());
    fs::File::open(&to).unwrap().sync_all().unwrap();
    row("copied and synced", mib, start.elapsed());
    drop(folder);

    let [ann, mut bob] = homes().await;
    let room = ann.me.create(json!({"preset": "private_chat"})).await;
    ann.me.invite(&room, &bob.me.user_id).await.ok();
    bob.me.is(&room, "invite").await;
    bob.me.join(&room).await.ok();
    let before = resident_mib(ann.node.pid(), "VmRSS:");
    let start = Instant::now();
    let at = upload(&ann, &file).await;
    row("up, synced", mib, start.elapsed());
    for what in ["down", "down again"] {
        let start = Instant::now();
        download(&ann, &at, mib * MIB).await;
        row(what, mib, start.elapsed());
    }
    let most = resident_mib(ann.node.pid(), "VmHWM:");
    println!("| memory, more than before at most | {:.0} MiB |", most - before);
    let start = Instant::now();
    download(&bob, &at, mib * MIB).await;
    row("from another node", mib, start.elapsed());
    let most = resident_mib(bob.node.pid(), "VmHWM:");
    println!("| memory of who fetched, in all at most | {most:.0} MiB |");
}
