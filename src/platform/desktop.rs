//! Whether somebody sits in front of a screen, and their browser.

use std::env;

/// What a process can know of where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Surroundings {
    /// There is a screen to draw on; on Windows and macOS there always is.
    pub screen: bool,
    /// Somebody came from another machine.
    pub ssh: bool,
    /// It is a container: a browser in it would be nobody's.
    pub container: bool,
    /// The system started this process, and no person.
    pub service: bool,
    /// It runs as root: a browser would, too.
    pub root: bool,
}

impl Surroundings {
    /// Looks around.
    pub fn look() -> Self {
        let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        Self {
            screen: !needs_display() || is_set("DISPLAY") || is_set("WAYLAND_DISPLAY"),
            ssh: ["SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY"].into_iter().any(is_set),
            container: is_container(),
            service: is_service(),
            root: is_root(),
        }
    }

    /// Tells whether the browser that would open is one that somebody sees and wants.
    pub fn is_desktop(&self) -> bool {
        let Self { screen, ssh, container, service, root } = *self;
        screen && !ssh && !container && !service && !root
    }
}

fn needs_display() -> bool {
    cfg!(not(any(windows, target_os = "macos")))
}

fn is_container() -> bool {
    env::var_os("container").is_some()
        || ["/.dockerenv", "/run/.containerenv"]
            .iter()
            .any(|file| std::fs::exists(file).is_ok_and(|is| is))
}

/// systemd tells a process of its own which one that is; what is below a desktop inherits the variable, and
/// is another process. launchd has no console for its services.
fn is_service() -> bool {
    let told = env::var("SYSTEMD_EXEC_PID").ok().and_then(|pid| pid.parse::<u32>().ok());
    told == Some(std::process::id())
        || env::var_os("NOTIFY_SOCKET").is_some()
        || env::var("XPC_SERVICE_NAME").is_ok_and(|name| name.starts_with("org.messagehub"))
}

#[cfg(unix)]
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(windows)]
fn is_root() -> bool {
    false
}

/// Opens a page in the browser of whoever sits here. Blocks until that is told what to open.
pub fn open(url: &str) -> std::io::Result<()> {
    webbrowser::open(url)
}

/// Tells whether this process has a console that was opened for it alone and closes with it: it was double-
/// clicked.
#[cfg(windows)]
pub fn has_own_console() -> bool {
    use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
    let Ok(mut system) = System::new() else { return false };
    system.refresh_processes_specifics(
        ProcessesToUpdate::All,
        false,
        ProcessRefreshKind::nothing(),
    );
    let parent = system
        .process(Pid::from_u32(std::process::id()))
        .and_then(|process| process.parent())
        .and_then(|parent| system.process(parent));
    parent.is_some_and(|parent| parent.name().eq_ignore_ascii_case("explorer.exe"))
}

/// Tells whether this process has a console that was opened for it alone: not on this system.
#[cfg(not(windows))]
pub fn has_own_console() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_is_opened_for_who_sees_it_and_for_nobody_else() {
        let desk = Surroundings { screen: true, ..Surroundings::default() };
        assert!(desk.is_desktop());
        for elsewhere in [
            Surroundings::default(),
            Surroundings { ssh: true, ..desk },
            Surroundings { container: true, ..desk },
            Surroundings { service: true, ..desk },
            Surroundings { root: true, ..desk },
        ] {
            assert!(!elsewhere.is_desktop(), "{elsewhere:?}");
        }
    }
}
