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

#[tokio::test]
async fn an_encrypted_room_is_read_on_all_devices_though_each_node_is_off_for_a_while() {
    let folder = Path::new(FOLDER);
    if !folder.join("node_modules/matrix-js-sdk").exists() {
        return skip("the clients are not installed: run tests/clients/install");
    }
    let [mut ann, mut bob]: [Home; 2] = homes().await;
    let mut command = Command::new("node");
    command.arg("js-sdk-encrypted.mjs").current_dir(folder);
    run(command, &mut [&mut ann.node, &mut bob.node]).await;
}
