//! Never losing an identity or a history: damages that are mended, backups that are restored on another
//! machine, 24 words.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not covered by allow-*-in-tests")]

use std::{fs, path::Path, process::Output};

use serde_json::json;

mod common;

use common::{Node, client, home};

const PASSPHRASE: &str = "correct horse battery";

/// Runs a subcommand with a passphrase in the environment.
async fn run(node: &Node, passphrase: &str, arguments: &[&str]) -> Output {
    let mut command = common::node::command(node.config_file().parent().unwrap());
    command.args(arguments).arg("--data").arg(node.data()).env("RUST_LOG", "error");
    command.env("MESSAGEHUB_PASSPHRASE", passphrase);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// The error of a command, which is one line.
fn refused(output: &Output) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(!output.status.success() && said.trim_end().lines().count() == 1, "{output:?}");
    said
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Damages a byte in the middle of what a file holds.
fn damage(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let used = bytes.iter().rposition(|byte| ![0, 255].contains(byte)).unwrap();
    bytes.iter_mut().skip(used / 2).take(3000).for_each(|byte| *byte ^= 0x55);
    fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn a_backup_of_a_running_node_is_the_same_person_on_another_machine() {
    let friend = home(&[]).await;
    let mut old = home(&[&friend.node]).await;
    old.node.connected_to(&friend.me).await;
    let room = old.me.create_with(&[&friend.me]).await;
    let mut member = friend.me.clone();
    member.is(&room, "invite").await;
    friend.me.join(&room).await.ok();
    old.me.sees_member(&room, &friend.me.user_id, "join").await;
    old.me.send(&room, "before the backup").await;
    member.reads(&room, "before the backup").await;

    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("messagehub.backup");
    let file = file.to_str().unwrap();
    done(&run(&old.node, PASSPHRASE, &["backup", file]).await);
    let said = refused(&run(&old.node, PASSPHRASE, &["backup", file]).await);
    assert!(said.contains("--force"), "{said}");
    done(&run(&old.node, PASSPHRASE, &["backup", file, "--force"]).await);
    let sealed = fs::read(file).unwrap();
    let text = b"before the backup";
    assert!(!sealed.windows(text.len()).any(|window| window == text), "it is sealed");
    old.me.send(&room, "after the backup").await;
    member.reads(&room, "after the backup").await;
    old.node.kill();

    let mut new = Node::new(&friend.node.addresses().await);
    done(&run(&new, PASSPHRASE, &["restore", file, "--yes"]).await);
    let said = refused(&run(&new, PASSPHRASE, &["restore", file, "--yes"]).await);
    assert!(said.contains("not empty"), "{said}");
    new.start_again().await;
    // The session of before goes on, with the device and its token.
    let url = format!("{}/_matrix/client/v3/account/whoami", new.base());
    let whoami = reqwest::Client::new().get(url).bearer_auth(old.me.token());
    let whoami = client::ask(whoami, "whoami").await.ok();
    assert_eq!(whoami["user_id"], json!(old.me.user_id));
    assert_eq!(whoami["device_id"], json!(old.me.device_id));
    let me = new.log_in().await;
    assert_eq!(me.user_id, old.me.user_id);
    assert!(me.texts(&room).await.contains(&"before the backup".to_owned()));
    new.connected_to(&friend.me).await;
    me.send(&room, "from the new machine").await;
    member.reads(&room, "from the new machine").await;
    // What the backup lacks, others in the room have.
    common::eventually("what was said after the backup", async || {
        me.texts(&room).await.contains(&"after the backup".to_owned()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_backup_that_is_not_whole_is_named_and_nothing_is_restored() {
    let home = home(&[]).await;
    let room = home.me.create(json!({})).await;
    home.me.send(&room, "kept").await;
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("backup");
    let name = file.to_str().unwrap();
    let said = refused(&run(&home.node, "short", &["backup", name]).await);
    assert!(said.contains("too short") && !file.exists(), "{said}");
    done(&run(&home.node, PASSPHRASE, &["backup", name]).await);
    let whole = fs::read(&file).unwrap();
    let changed = |at: usize| {
        let mut bytes = whole.clone();
        bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1);
        bytes
    };
    let half = whole.iter().take(whole.len() / 2).copied().collect();
    let other = Node::new(&[]);
    for (what, bytes, passphrase, expected) in [
        ("another passphrase", whole.clone(), "not the right one", "passphrase"),
        ("a changed byte", changed(whole.len() / 2), PASSPHRASE, "damaged"),
        ("a cut", half, PASSPHRASE, "damaged"),
        ("its last byte", changed(whole.len() - 1), PASSPHRASE, "damaged"),
        ("its first byte", changed(0), PASSPHRASE, "no backup"),
        ("nothing", Vec::new(), PASSPHRASE, "no backup"),
    ] {
        fs::write(&file, bytes).unwrap();
        let said = refused(&run(&other, passphrase, &["restore", name, "--yes"]).await);
        assert!(said.contains(expected) && said.contains(name), "{what}: {said}");
        assert_eq!(fs::read_dir(other.data()).unwrap().count(), 0, "{what}: something is there");
    }
    fs::write(&file, whole).unwrap();
    let said = refused(&run(&other, PASSPHRASE, &["restore", name]).await);
    assert!(said.contains("--yes"), "{said}");
    done(&run(&other, PASSPHRASE, &["restore", name, "--yes"]).await);
}

#[tokio::test]
async fn a_damaged_database_is_named_and_made_anew_from_the_journal() {
    let mut home = home(&[]).await;
    let room = home.me.create(json!({})).await;
    for n in 0..50 {
        home.me.send(&room, &format!("{n}")).await;
    }
    let said = refused(&home.node.run(&["fsck"]).await);
    assert!(said.contains("in use"), "{said}");
    home.node.stop().await;
    let said = done(&home.node.run(&["fsck"]).await);
    assert!(said.contains("journal: ") && said.contains("all rows are there"), "{said}");
    damage(&home.node.data().join("db/db"));
    let found = home.node.run(&["fsck"]).await;
    let said = String::from_utf8(found.stdout).unwrap();
    assert!(found.status.code() == Some(2) && said.contains("database: the database"), "{said}");
    // By itself at a start, and by command.
    home.node.start_again().await;
    assert!(home.node.log().contains("made anew from the journal"), "{}", home.node.log());
    assert_eq!(home.me.texts(&room).await.len(), 50);
    home.node.kill();
    damage(&home.node.data().join("db/db"));
    let said = done(&home.node.run(&["rebuild"]).await);
    assert!(said.contains("the database was made anew"), "{said}");
    let log = home.node.data().join("journal/00000000000000000001.log");
    damage(&log);
    let found = home.node.run(&["fsck"]).await;
    let said = String::from_utf8(found.stdout).unwrap();
    assert!(found.status.code() == Some(2) && said.contains(log.to_str().unwrap()), "{said}");
    let said = done(&home.node.run(&["rebuild"]).await);
    assert!(said.contains("the journal was made anew"), "{said}");
    let said = done(&home.node.run(&["rebuild"]).await);
    assert!(said.contains("nothing was changed"), "{said}");
    home.node.start_again().await;
    assert_eq!(home.me.texts(&room).await.len(), 50);
}

#[tokio::test]
async fn an_identity_comes_back_with_24_words() {
    let home = home(&[]).await;
    let said = refused(&home.node.run(&["identity", "export"]).await);
    assert!(said.contains("--yes"), "{said}");
    let words = done(&home.node.run(&["identity", "export", "--yes"]).await);
    assert_eq!(words.split_whitespace().count(), 24);
    let mut new = Node::new(&[]);
    let wrong = words.replacen(words.split(' ').nth(2).unwrap(), "messagehub", 1);
    let said = refused(&new.run_with(&["identity", "import", "--yes"], &wrong).await);
    assert!(said.contains("word 3 "), "{said}");
    done(&new.run_with(&["identity", "import", "--yes"], &words).await);
    let said = refused(&new.run_with(&["identity", "import", "--yes"], &words).await);
    assert!(said.contains("not empty"), "{said}");
    new.start_again().await;
    assert_eq!(new.log_in().await.user_id, home.me.user_id);
    assert!(!new.log().contains(words.trim()), "the words are in no log");
}
