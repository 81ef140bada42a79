//! `docker compose` on two machines, with a real engine each: `tests/docker/run`, with the program of this build.

use std::process::Command;

/// What the script ends with where it cannot run.
const SKIPPED: i32 = 77;

#[test]
fn docker_compose_runs_a_node_that_is_found_and_comes_back() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/docker/run");
    let status = Command::new(script).arg(env!("CARGO_BIN_EXE_messagehub")).status().unwrap();
    if status.code() == Some(SKIPPED) {
        // Also where nothing else is skipped: not every kernel lets an engine run.
        eprintln!("SKIPPED: no Docker engine can be started here (see above)");
        return;
    }
    assert!(status.success(), "{status}");
}
