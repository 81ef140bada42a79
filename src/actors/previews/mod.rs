//! Previews: shows what is behind the links that people write.
//!
//! It runs only where the person wants it (`media.previews`), since making a preview tells a stranger's
//! server that a link was read. Invariants: a server is asked at addresses that were checked, at every hop
//! (`src/web_ask.rs`); what it answers is bounded in bytes and time; a picture is taken for what its bytes
//! say that it is, and given out by this node, so that no client asks the stranger.

mod actor;
mod make;
mod messages;
mod page;
mod picture;

pub use actor::{PreviewsActor, PreviewsLinks};
pub use messages::*;
