//! Who may listen on port 80.
//!
//! On Linux root may, and who has `CAP_NET_BIND_SERVICE`. A file that carries it as `+p` can be run by
//! everybody, also where it is not given (a container without it, a mount with `nosuid`); the program then
//! raises it by itself. (With `+ep` the system would refuse to run the file there.)

/// Returns where this program is, for a command that allows it something.
pub fn this_program() -> String {
    let program = std::env::current_exe().map(|program| program.display().to_string());
    program.unwrap_or_else(|_| "PROGRAM".to_owned())
}

/// Takes the leave to listen on low ports, where this process was given it and does not use it. Has to be
/// called before the first thread starts: each has its own.
#[cfg(target_os = "linux")]
pub fn allow() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let wanted = CapabilitySet::NET_BIND_SERVICE;
    let Ok(mut sets) = capabilities(None) else { return };
    if !sets.permitted.contains(wanted) || sets.effective.contains(wanted) {
        return;
    }
    sets.effective |= wanted;
    if let Err(error) = set_capabilities(None, sets) {
        log::debug!(error:%; "the leave to listen on low ports was given and cannot be taken");
    }
}

/// Takes the leave to listen on low ports: other systems ask for none, or know only root.
#[cfg(not(target_os = "linux"))]
pub fn allow() {}
