//! Where data are kept unless a person says otherwise.
//!
//! | system | folder |
//! |---|---|
//! | Linux and others | `$XDG_DATA_HOME/messagehub`, else `~/.local/share/messagehub` |
//! | macOS | `~/Library/Application Support/messagehub` |
//! | Windows | `%LOCALAPPDATA%\messagehub`: what roams between machines would be two nodes with one identity |

use std::path::PathBuf;

use etcetera::BaseStrategy as _;

const NAME: &str = "messagehub";

/// Returns the folder for keys and database; none where the system names no home.
pub fn data() -> Option<PathBuf> {
    base().map(|folder| folder.join(NAME))
}

#[cfg(target_os = "macos")]
fn base() -> Option<PathBuf> {
    etcetera::base_strategy::Apple::new().ok().map(|places| places.data_dir())
}

#[cfg(windows)]
fn base() -> Option<PathBuf> {
    // Of the two the one that stays on this machine.
    etcetera::base_strategy::Windows::new().ok().map(|places| places.cache_dir())
}

#[cfg(not(any(target_os = "macos", windows)))]
fn base() -> Option<PathBuf> {
    etcetera::base_strategy::Xdg::new().ok().map(|places| places.data_dir())
}
