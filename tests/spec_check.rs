//! Two nodes against the specification's own definitions: what they answer to a whole scenario,
//! and to the same requests made wrong in one way each. `tests/spec_check` has the checker.

use std::path::Path;

use tokio::process::Command;

mod common;

use common::{Home, homes, skip};

#[tokio::test]
async fn the_answers_are_as_the_specification_defines_them() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/spec_check"));
    let python = folder.join(".venv/bin/python");
    if !python.exists() {
        return skip("its packages are not installed: run tests/pip_install tests/spec_check");
    }
    let [ann, bob]: [Home; 2] = homes().await;
    let mut command = Command::new(python);
    command.current_dir(folder).kill_on_drop(true).args(["spec-check", "drive"]);
    command.arg(ann.node.base()).args(["--token", ann.me.token()]);
    command.args(["--url2", &bob.node.base(), "--token2", bob.me.token()]);
    let status = command.status().await.unwrap();
    assert!(status.success(), "spec-check: {status}");
}
