//! Element's user interface in a browser: people on nodes of their own, and two of one node, who do what people do in a chat.
//!
//! `tests/element/build` builds Element from npm, `tests/element/scenario.mjs` is what is done in it.

use std::{env, path::Path};

use serde_json::json;
use tokio::process::Command;

mod common;

use common::{
    Node,
    node::{free_port, own_address},
    scenario::{SIDES, run},
    skip,
};

/// Where the scenario is.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/element");
/// Where `tests/element/build` puts Element's files.
const BUILT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/element");
/// The browser, where `CHROMIUM` names no other one.
const CHROMIUM: &str = "/usr/bin/chromium";

#[tokio::test]
async fn people_on_nodes_of_their_own_chat_in_element() {
    let chromium = env::var("CHROMIUM").unwrap_or_else(|_| CHROMIUM.to_owned());
    if !Path::new(&chromium).exists() {
        return skip(format_args!("there is no {chromium}: install chromium"));
    }
    if !Path::new(BUILT).join(".built").exists() {
        return skip("Element is not built: run tests/element/build");
    }
    let mut nodes: Vec<Node> = Vec::new();
    let mut command = Command::new("node");
    command.arg("scenario.mjs").current_dir(FOLDER).env("CHROMIUM", chromium);
    for side in SIDES {
        let mut known = Vec::new();
        for node in &nodes {
            known.extend(node.addresses().await);
        }
        let element = format!("{}:{}", own_address(), free_port());
        let mut node = Node::new(&known);
        node.configure(|config| {
            // The first is a household.
            config["accounts"] = json!({"registration": known.is_empty()});
            config["element"] = json!({"listenAddress": element, "path": BUILT, "fetch": false});
        });
        node.start_again().await;
        // The first login makes who somebody is, and only then others can be told of the node.
        node.log_in().await.post("v3/logout", json!({})).await.ok();
        command.env(format!("ELEMENT_{side}"), format!("http://{element}"));
        nodes.push(node);
    }
    run(command, &mut nodes.iter_mut().collect::<Vec<_>>()).await;
}
