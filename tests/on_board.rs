//! Element on board: a real node fetches it from a stand-in for the release's host, also when it is killed
//! while it does, and a person without the Internet gives it a file.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::{fs, process::Output, time::Duration};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, Header};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};

use common::{
    eventually,
    node::{Node, free_port, own_address},
};

fn archive() -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    let noise: Vec<u8> =
        (0..40_000_u32).flat_map(|number| Sha256::digest(number.to_be_bytes())).collect();
    for (name, content) in [
        ("element-v9.9/index.html", b"<title>Element 9.9".as_slice()),
        ("element-v9.9/a.js", &noise),
    ] {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append_data(&mut header, name, content).unwrap();
    }
    let tar = archive.into_inner().unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, &tar).unwrap();
    packed.finish().unwrap()
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A host that gives a file slowly: a piece, and then the rest only from the second request on. Returns
/// its address, and a count of the bytes that it was asked for from.
async fn host(file: Vec<u8>) -> (String, tokio::sync::mpsc::Receiver<usize>) {
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let url = format!("http://{}/element-v9.9.tar.gz", listener.local_addr().unwrap());
    let (tell, asked) = tokio::sync::mpsc::channel(64);
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let (mut from, mut line) = (0, String::new());
            while stream.read_line(&mut line).await.unwrap() > 2 {
                if let Some(range) = line.to_lowercase().strip_prefix("range: bytes=") {
                    from = range.trim().trim_end_matches('-').parse().unwrap();
                }
                line.clear();
            }
            let _ = tell.send(from).await;
            let (rest, all) = (&file[from..], file.len());
            let range = match from {
                0 => "200 OK\r\n".to_owned(),
                _ => format!("206 Partial\r\ncontent-range: bytes {from}-{}/{all}\r\n", all - 1),
            };
            let head =
                format!("HTTP/1.1 {range}etag: \"1\"\r\ncontent-length: {}\r\n\r\n", rest.len());
            stream.write_all(head.as_bytes()).await.unwrap();
            if number == 0 {
                stream.write_all(&rest[..all / 3]).await.unwrap();
                stream.flush().await.unwrap();
                // Whoever waits is killed meanwhile.
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(600)).await;
                    drop(stream);
                });
            } else {
                let _ = stream.write_all(rest).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    (url, asked)
}

/// Returns a node that serves Element, not started yet, and where it does.
fn with_element(settings: Value) -> (Node, String) {
    let mut node = Node::new(&[]);
    let element = format!("{}:{}", own_address(), free_port());
    node.configure(|config| {
        config["element"] = settings;
        config["element"]["listenAddress"] = json!(element);
    });
    (node, format!("http://{element}/"))
}

async fn page(url: &str) -> Option<String> {
    reqwest::get(url).await.ok()?.text().await.ok()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

#[tokio::test]
async fn the_first_start_fetches_element_also_when_it_is_killed_halfway() {
    let file = archive();
    let (url, mut asked) = host(file.clone()).await;
    let release = json!({"version": "9.9", "url": url, "sha256": sum(&file)});
    let (mut node, element) = with_element(release);
    node.start_again().await;
    let comes = eventually("the page says how far it is", async || {
        page(&element).await.filter(|page| page.contains("MiB."))
    })
    .await;
    assert!(comes.contains("is on its way") && comes.contains("http-equiv=\"refresh\""), "{comes}");
    let status = node.run(&["status"]).await;
    assert!(said(&status).contains("Element is being fetched"), "{}", said(&status));
    let busy = node.run(&["element", "install"]).await;
    assert!(
        !busy.status.success() && said(&busy).contains("by another process"),
        "{}",
        said(&busy)
    );
    assert_eq!(asked.recv().await, Some(0));

    node.kill();
    node.start_again().await;
    eventually("Element is served", async || {
        page(&element).await.filter(|page| page.contains("<title>Element 9.9"))
    })
    .await;
    let second = asked.recv().await.unwrap();
    assert!(second > 0 && second <= file.len() / 3, "it goes on where it was: {second}");
    let status = node.run(&["status"]).await;
    assert!(!said(&status).contains("being fetched"), "{}", said(&status));

    // It is there: nobody is asked again.
    node.kill();
    node.start_again().await;
    assert!(page(&element).await.unwrap().contains("<title>Element 9.9"));
    assert!(asked.try_recv().is_err());
}

#[tokio::test]
async fn without_the_internet_a_file_does() {
    // Nobody listens there.
    let nowhere = format!("http://{}:{}/element.tar.gz", own_address(), free_port());
    let file = archive();
    let release = json!({"version": "9.9", "url": nowhere, "sha256": sum(&file)});
    let (mut node, element) = with_element(release);
    node.start_again().await;
    let failed = eventually("the page says what is wrong", async || {
        page(&element).await.filter(|page| page.contains("did not come"))
    })
    .await;
    assert!(failed.contains(&nowhere) && failed.contains("element install --file"), "{failed}");
    let me = node.log_in().await;
    assert!(me.server_name().len() > 50, "the node itself runs");

    let brought = node.data().join("element.tar.gz");
    fs::write(&brought, [&file[..100], b"x".as_slice(), &file[100..]].concat()).unwrap();
    let install = ["element", "install", "--file", brought.to_str().unwrap()];
    let wrong = node.run(&install).await;
    assert!(!wrong.status.success() && said(&wrong).contains("SHA-256"), "{}", said(&wrong));
    assert!(page(&element).await.unwrap().contains("did not come"));
    fs::write(&brought, &file).unwrap();
    let right = node.run(&install).await;
    assert!(right.status.success(), "{}", said(&right));
    assert!(page(&element).await.unwrap().contains("<title>Element 9.9"));
}

#[tokio::test]
async fn nobody_is_asked_where_that_is_not_wanted_and_files_of_a_person_stay() {
    let file = archive();
    let (url, mut asked) = host(file.clone()).await;
    let release = json!({"version": "9.9", "url": url, "sha256": sum(&file)});
    let (mut node, element) = with_element(release.clone());
    node.configure(|config| config["element"]["fetch"] = json!(false));
    node.start_again().await;
    assert!(page(&element).await.unwrap().contains("not fetched by itself"));
    node.stop().await;

    // Files that were put there by hand.
    fs::create_dir_all(node.data().join("element")).unwrap();
    fs::write(node.data().join("element/index.html"), "by hand").unwrap();
    node.configure(|config| config["element"]["fetch"] = json!(true));
    node.start_again().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(page(&element).await.unwrap(), "by hand");
    assert!(asked.try_recv().is_err(), "nobody was asked");

    // A folder that a person chose is that person's.
    node.stop().await;
    let own = node.data().join("own");
    fs::create_dir_all(&own).unwrap();
    node.configure(|config| config["element"]["path"] = json!(own));
    node.start_again().await;
    assert!(page(&element).await.unwrap().contains("not fetched by itself"));
    let refused = node.run(&["element", "install"]).await;
    assert!(
        !refused.status.success() && said(&refused).contains("element.path"),
        "{}",
        said(&refused)
    );
    assert!(asked.try_recv().is_err(), "nobody was asked");
}
