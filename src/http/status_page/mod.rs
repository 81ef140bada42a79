//! The status page at `/`: what the node is at, for the person at the machine alone.
//!
//! Who it is shown to is told as on the login pages (`login/presence.rs`): an account of this machine that may
//! log in; any other browser needs a login token, for which it gets a pass. The page itself is opened by
//! navigation alone; what it fetches then (`events.rs`, the doctor) is given to our own page and to programs of
//! that account. Invariants: no answer of these has a CORS header, none is kept by the browser, and none may be
//! framed; nothing is loaded from anywhere else, and no script or style stands in the page itself.

mod access;
mod events;
mod files;
mod page;

pub use access::{OPEN_PATH, open};
pub use events::events;
pub use files::file;
pub use page::{examine, home, qr};
