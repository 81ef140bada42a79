//! The login pages: the owner of this node gets a login token; a web page, another account of the
//! machine, and another machine do not.
//!
//! A password is for other clients (`client/session.rs`); these pages know none. Who uses a browser in an account of this machine that may log in
//! (`presence.rs`) is taken for the person; whoever else comes, from wherever, needs a token that
//! `messagehub login-token` prints to who may read the data folder. A browser that may log in can be
//! led here by any page, so people are told from pages:
//! - only top-level navigation gets anything (`source.rs`); what a page can fetch or frame is refused;
//! - Element, which this node serves itself, gets its token at once; any other address (`target.rs`) is
//!   named on a page (`pages.rs`), and the person has to press a button there;
//! - pressing it sends a token that only the page held, bound to a `SameSite=Strict` cookie and to
//!   that very address (`sso.rs`);
//! - no answer here carries a CORS header (`http/mod.rs`), and a `Host` that is not ours is refused
//!   for the whole server, so no page can get our origin by rebinding its domain.

pub mod approve;
pub mod pages;
pub mod presence;
pub(in crate::http) mod source;
pub mod sso;
mod target;
