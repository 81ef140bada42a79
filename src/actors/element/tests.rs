//! Against a stand-in for the release's host that answers what it is told to.

use std::{fs, path::PathBuf};

use sha2::{Digest as _, Sha256};
use tar::EntryType;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc::{self, Receiver},
};

use super::{unpack::tests::archive_of, *};

/// What the host says to a request: a whole HTTP answer, after which it hangs up.
type Answer = Box<dyn FnMut(&str) -> Vec<u8> + Send>;

/// A host of releases, and a person who wants one of it.
struct World {
    url: String,
    data: tempfile::TempDir,
    heard: Receiver<String>,
}

impl World {
    async fn new(mut answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/element.tar.gz", listener.local_addr().unwrap());
        let (tell, heard) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read_exact(&mut byte).await.is_err() {
                        break;
                    }
                    request.extend(byte);
                }
                let request = String::from_utf8(request).unwrap().to_lowercase();
                let _ = tell.send(request.clone()).await;
                let _ = stream.write_all(&answer(&request)).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { url, data: tempfile::tempdir().unwrap(), heard }
    }

    fn folder(&self) -> PathBuf {
        folder_in(self.data.path())
    }

    async fn bring(&self, archive: &[u8]) -> Result<(), ElementError> {
        let release =
            Release { version: "9.9".to_owned(), url: self.url.clone(), sha256: sum(archive) };
        bring(&release, None, &self.folder(), |_| ()).await
    }

    /// What each request since the last look asked for, from which byte on.
    fn asked(&mut self) -> Vec<Option<u64>> {
        let from = |request: String| {
            let (_, range) = request.split_once("\r\nrange: bytes=")?;
            range.split_once('-')?.0.parse().ok()
        };
        std::iter::from_fn(|| self.heard.try_recv().ok()).map(from).collect()
    }
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An archive of a release; it cannot be made much shorter by packing it.
fn archive() -> Vec<u8> {
    let noise: Vec<u8> =
        (0..8_000_u32).flat_map(|number| Sha256::digest(number.to_be_bytes())).collect();
    archive_of(&[
        ("element-v9.9/index.html", EntryType::Regular, b"<title>9.9"),
        ("element-v9.9/bundles/a.js", EntryType::Regular, &noise),
    ])
}

fn head(status: &str, length: usize, more: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{more}connection: close\r\n\r\n")
        .into_bytes()
}

/// What an honest host says: all, or the rest where it is asked for that of the same file.
fn honest(file: &[u8], etag: &str, request: &str) -> Vec<u8> {
    let tag = format!("etag: \"{etag}\"\r\n");
    let same = request.contains(&format!("if-range: \"{etag}\""));
    let from = request.split_once("range: bytes=").filter(|_| same);
    let from: Option<usize> = from.and_then(|(_, range)| range.split_once('-')?.0.parse().ok());
    match from {
        None => [head("200 OK", file.len(), &tag), file.to_vec()].concat(),
        Some(from) if from >= file.len() => {
            let more = format!("{tag}content-range: bytes */{}\r\n", file.len());
            head("416 Range Not Satisfiable", 0, &more)
        }
        Some(from) => {
            let (last, all) = (file.len() - 1, file.len());
            let more = format!("{tag}content-range: bytes {from}-{last}/{all}\r\n");
            [head("206 Partial Content", all - from, &more), file[from..].to_vec()].concat()
        }
    }
}

fn shown(world: &World) -> String {
    fs::read_to_string(world.folder().join("index.html")).unwrap_or_default()
}

#[tokio::test]
async fn a_release_is_fetched_and_served() {
    let file = archive();
    let given = file.clone();
    let mut world = World::new(Box::new(move |request| honest(&given, "1", request))).await;
    world.bring(&file).await.unwrap();
    assert_eq!((shown(&world).as_str(), world.asked()), ("<title>9.9", vec![None]));
    assert!(matches!(look(&world.folder()), Found::Installed(release) if release.version == "9.9"));
    let left = fs::read_dir(world.data.path()).unwrap().map(|file| file.unwrap().file_name());
    let mut left: Vec<_> = left.collect();
    left.sort();
    assert_eq!(left, ["element", "element.lock"], "nothing else is left");
}

#[tokio::test]
async fn a_break_goes_on_where_it_was_also_in_another_process() {
    let file = archive();
    let half = file.len() / 2;
    let (given, mut count) = (file.clone(), 0);
    // It breaks off in the middle each time, with a few bytes more.
    let mut world = World::new(Box::new(move |request| {
        count += 1;
        let mut answer = honest(&given, "1", request);
        if count <= 3 {
            let start = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
            answer.truncate(start + if count == 1 { half } else { 100 });
        }
        answer
    }))
    .await;
    let why = world.bring(&file).await.unwrap_err().to_string();
    assert!(why.contains(&world.url), "{why}");
    assert_eq!(shown(&world), "");
    world.bring(&file).await.unwrap();
    let half = half as u64;
    let asked = [None, Some(half), Some(half + 100), Some(half + 200)];
    assert_eq!((shown(&world).as_str(), world.asked()), ("<title>9.9", asked.to_vec()));
}

#[tokio::test]
async fn a_part_of_another_file_is_not_gone_on_with() {
    let file = archive();
    let (given, mut count) = (file.clone(), 0);
    let mut world = World::new(Box::new(move |request| {
        count += 1;
        let etag = if count == 1 { "old" } else { "new" };
        let mut answer = honest(&given, etag, request);
        if count == 1 {
            answer.truncate(5_000);
        }
        answer
    }))
    .await;
    world.bring(&file).await.unwrap();
    assert_eq!(world.asked().len(), 2);
    assert_eq!(shown(&world), "<title>9.9");
}

#[tokio::test]
async fn what_was_all_there_is_not_fetched_again() {
    let file = archive();
    let given = file.clone();
    let mut world = World::new(Box::new(move |request| honest(&given, "1", request))).await;
    // Killed after the last byte, before it was unpacked.
    let part = install::part_of(&world.folder());
    fs::write(&part, &file).unwrap();
    let release = Release { version: "9.9".to_owned(), url: world.url.clone(), sha256: sum(&file) };
    let note = serde_json::json!({"release": release, "validator": "\"1\""});
    fs::write(part.with_added_extension("json"), note.to_string()).unwrap();
    world.bring(&file).await.unwrap();
    assert_eq!(world.asked(), [Some(file.len() as u64)]);
    assert_eq!(shown(&world), "<title>9.9");
}

#[tokio::test]
async fn a_tampered_archive_is_not_unpacked_and_not_kept() {
    let file = archive();
    let mut given = file.clone();
    let middle = given.len() / 2;
    given[middle] ^= 1;
    let world = World::new(Box::new(move |request| honest(&given, "1", request))).await;
    let why = world.bring(&file).await.unwrap_err().to_string();
    assert!(why.contains("is not Element 9.9") && why.contains(&sum(&file)), "{why}");
    assert!(!install::part_of(&world.folder()).exists() && !world.folder().exists());
}

#[tokio::test]
async fn redirects_end_and_endless_ones_are_refused() {
    let file = archive();
    let given = file.clone();
    let world = World::new(Box::new(move |request| match request.starts_with("get /element") {
        true => head("302 Found", 0, "location: /elsewhere/file\r\n"),
        false => honest(&given, "1", request),
    }))
    .await;
    world.bring(&file).await.unwrap();
    assert_eq!(shown(&world), "<title>9.9");
    let circle = |_: &str| head("302 Found", 0, "location: /element.tar.gz\r\n");
    let world = World::new(Box::new(circle)).await;
    let why = world.bring(&file).await.unwrap_err().to_string();
    assert!(why.contains("redirects without end"), "{why}");
}

#[tokio::test]
async fn what_the_host_refuses_is_told_and_too_much_is_not_taken() {
    for (answer, words) in [
        (head("404 Not Found", 0, ""), "404"),
        (head("503 Service Unavailable", 0, ""), "503"),
        (head("200 OK", 400 << 20, ""), "more than 256 MiB"),
        (b"nonsense\r\n\r\n".to_vec(), "cannot be fetched"),
    ] {
        let world = World::new(Box::new(move |_| answer.clone())).await;
        let why = world.bring(b"x").await.unwrap_err().to_string();
        assert!(why.contains(words) && !why.contains('\n'), "{why}");
        assert!(!world.folder().exists());
    }
}

#[tokio::test]
async fn a_hostile_archive_that_was_pinned_writes_nothing_outside() {
    let file = archive_of(&[
        ("e/index.html", EntryType::Regular, b"x"),
        ("e/../../../escaped", EntryType::Regular, b"x"),
    ]);
    let given = file.clone();
    let world = World::new(Box::new(move |request| honest(&given, "1", request))).await;
    let why = world.bring(&file).await.unwrap_err().to_string();
    assert!(why.contains("would not be in Element's folder"), "{why}");
    assert!(!world.data.path().join("escaped").exists() && !world.folder().exists());
}

#[tokio::test]
async fn a_file_of_ones_own_has_to_be_the_release() {
    let mut world = World::new(Box::new(|_| panic!("nobody is to be asked"))).await;
    let (file, tarball) = (archive(), world.data.path().join("element.tar.gz"));
    fs::write(&tarball, &file).unwrap();
    let release = Release { sha256: sum(&file), ..Release::default() };
    bring(&release, Some(&tarball), &world.folder(), |_| ()).await.unwrap();
    assert_eq!(shown(&world), "<title>9.9");
    assert!(tarball.exists(), "it is the person's");
    let why = bring(&Release::default(), Some(&tarball), &world.folder(), |_| ()).await;
    let why = why.unwrap_err().to_string();
    assert!(why.contains(&*tarball.to_string_lossy()), "{why}");
    assert!(world.asked().is_empty());
}
