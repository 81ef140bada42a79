//! Two nodes driven by clients that other people wrote: matrix-js-sdk (Element's engine) and
//! matrix-nio. `tests/clients/install` installs them.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not covered by allow-*-in-tests")]

use std::path::Path;

use tokio::process::Command;

mod common;

use common::{Home, homes, scenario::run, skip};

/// Where the scenarios are.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

/// Runs a scenario with two freshly started nodes; its last words are shown.
async fn scenario(interpreter: &Path, installed: &str, script: &str) {
    let folder = Path::new(FOLDER);
    if !folder.join(installed).exists() {
        return skip("the clients are not installed: run tests/clients/install");
    }
    let [ann, bob]: [Home; 2] = homes().await;
    let mut command = Command::new(interpreter);
    command.arg(script).current_dir(folder).kill_on_drop(true);
    for (side, home) in [("A", &ann), ("B", &bob)] {
        command.env(format!("HOMESERVER_{side}"), home.node.base());
        command.env(format!("LOGIN_TOKEN_{side}"), home.node.login_token().await);
    }
    let status = command.status().await.unwrap();
    assert!(status.success(), "{script}: {status}");
}

#[tokio::test]
async fn matrix_js_sdk_talks_across_two_nodes() {
    scenario(Path::new("node"), "node_modules/matrix-js-sdk", "js-sdk.mjs").await;
}

#[tokio::test]
async fn matrix_nio_talks_across_two_nodes() {
    let python = Path::new(FOLDER).join(".venv/bin/python");
    scenario(&python, ".venv/bin/python", "nio_scenario.py").await;
}

/// Runs a scenario that asks for the end and the start of nodes, with two freshly started ones.
async fn asking(interpreter: &Path, installed: &str, script: &str, more: &[(&str, &str)]) {
    let folder = Path::new(FOLDER);
    if !folder.join(installed).exists() {
        return skip("the clients are not installed: run tests/clients/install");
    }
    let [mut ann, mut bob]: [Home; 2] = homes().await;
    let mut command = Command::new(interpreter);
    command.arg(script).current_dir(folder).envs(more.iter().copied());
    run(command, &mut [&mut ann.node, &mut bob.node]).await;
}

#[tokio::test]
async fn an_encrypted_room_is_read_on_all_devices_though_each_node_is_off_for_a_while() {
    let script = "js-sdk-encrypted.mjs";
    asking(Path::new("node"), "node_modules/matrix-js-sdk", script, &[]).await;
}

#[tokio::test]
async fn matrix_nio_encrypts_across_two_nodes_though_each_is_killed() {
    let python = Path::new(FOLDER).join(".venv/bin/python");
    asking(&python, ".venv/bin/python", "nio_encrypted.py", &[]).await;
}

/// Many encrypted messages through a cut and the end of each node.
async fn many(messages: &str, cut_s: &str) {
    let more = [("MESSAGES", messages), ("CUT_S", cut_s)];
    asking(Path::new("node"), "node_modules/matrix-js-sdk", "js-sdk-many.mjs", &more).await;
}

#[tokio::test]
async fn a_hundred_encrypted_messages_are_all_read_through_a_cut_and_two_kills() {
    many("100", "5").await;
}

#[tokio::test]
#[ignore = "takes minutes; the short form of it above is run by all"]
async fn a_thousand_encrypted_messages_are_all_read_through_a_cut_and_two_kills() {
    many("1000", "30").await;
}
