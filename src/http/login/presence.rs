//! Who is at the other end of a connection: an account of this machine that may log in, another one,
//! or somebody who cannot be told.
//!
//! On loopback both ends are sockets of this machine, and the system tells which account each of them
//! belongs to (`src/platform/accounts.rs`). Nothing that a request says counts. Invariant: who is not told
//! for certain is nobody, and so is who comes from an address that is not loopback (also ours: `0.0.0.0`
//! is where containers forward strangers to).

use std::{io, net::SocketAddr};

use actix_web::{HttpRequest, web};

use crate::{
    config::local_accounts::{LocalAccounts, name_of},
    platform::accounts::{find_account, plain, this_account},
};

/// Finds the account that holds the socket `of`, which is connected to the other one.
pub type FindAccount = fn(of: SocketAddr, connected_to: SocketAddr) -> io::Result<Option<u32>>;

/// Who asks for a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Visitor {
    /// Somebody at this machine, in an account that may log in.
    Person,
    /// Somebody at this machine, in another account.
    OtherAccount,
    /// Somebody elsewhere, as far as can be told.
    Elsewhere,
}

/// Whom this node takes for its person.
#[derive(Debug, Clone)]
pub struct Persons {
    /// The account whose node this is.
    owner: u32,
    accounts: LocalAccounts,
    find: FindAccount,
    listen: SocketAddr,
}

impl Persons {
    /// Those who run this process, and `others`; at a homeserver that listens at `listen`.
    pub fn at(listen: SocketAddr, others: &LocalAccounts) -> Self {
        let me = this_account();
        let sudo = std::env::var("SUDO_UID").ok();
        let mut these = own_accounts(me, sudo.as_deref());
        let owner = these.last().copied().unwrap_or(me);
        let accounts = match others {
            LocalAccounts::Any => LocalAccounts::Any,
            LocalAccounts::These(others) => {
                these.extend(others);
                LocalAccounts::These(these)
            }
        };
        Self { owner, accounts, find: find_account, listen }
    }

    #[cfg(test)]
    pub(in crate::http) fn for_test(listen: SocketAddr, these: &[u32], find: FindAccount) -> Self {
        let owner = these.first().copied().unwrap_or_default();
        Self { owner, accounts: LocalAccounts::These(these.to_vec()), find, listen }
    }

    /// Tells by presence whether somebody may log in.
    pub(in crate::http) async fn visitor(&self, request: &HttpRequest) -> Visitor {
        let Some(peer) = request.peer_addr().map(plain) else { return Visitor::Elsewhere };
        let listen = plain(self.listen);
        if !(peer.ip().is_loopback() && listen.ip().is_loopback()) {
            return Visitor::Elsewhere;
        }
        let LocalAccounts::These(these) = &self.accounts else { return Visitor::Person };
        let find = self.find;
        let found = web::block(move || find(peer, listen)).await;
        match found {
            Ok(Ok(Some(uid))) if these.contains(&uid) => Visitor::Person,
            Ok(Ok(Some(_))) => Visitor::OtherAccount,
            Ok(Ok(None)) => Visitor::Elsewhere,
            Ok(Err(error)) => {
                log::warn!(error:%; "this system does not tell who connects; logging in needs a token");
                Visitor::Elsewhere
            }
            Err(error) => {
                log::error!(error:%; "cannot look who connects");
                Visitor::Elsewhere
            }
        }
    }

    /// Returns what the account is called whose node this is.
    pub(in crate::http) fn owner(&self) -> String {
        name_of(self.owner)
    }
}

/// Returns the account that runs this process, and, where root does so for somebody by sudo, theirs.
fn own_accounts(me: u32, sudo_uid: Option<&str>) -> Vec<u32> {
    let by_sudo = (me == 0).then(|| sudo_uid?.parse().ok()).flatten();
    std::iter::once(me).chain(by_sudo).collect()
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn who_runs_it_and_whom_root_runs_it_for() {
        assert_eq!(own_accounts(1000, None), [1000]);
        assert_eq!(own_accounts(1000, Some("1001")), [1000], "anybody can set a variable");
        assert_eq!(own_accounts(0, Some("1001")), [0, 1001]);
        assert_eq!(own_accounts(0, Some("ann")), [0]);
    }

    #[actix_web::test]
    async fn only_an_account_on_loopback_that_may_is_the_person() {
        let by_port: FindAccount = |of, _| match of.port() {
            1 => Err(io::ErrorKind::PermissionDenied.into()),
            2 => Ok(None),
            port => Ok(Some(port.into())),
        };
        let at = |listen: &str| Persons::for_test(listen.parse().unwrap(), &[1000], by_port);
        let loopback = "127.84.48.2:80";
        for (listen, peer, expected) in [
            (loopback, "127.0.0.1:1000", Visitor::Person),
            (loopback, "[::ffff:127.0.0.1]:1000", Visitor::Person),
            ("[::1]:80", "[::1]:1000", Visitor::Person),
            (loopback, "127.0.0.1:1001", Visitor::OtherAccount),
            (loopback, "127.0.0.1:1", Visitor::Elsewhere),
            (loopback, "127.0.0.1:2", Visitor::Elsewhere),
            (loopback, "192.168.1.9:1000", Visitor::Elsewhere),
            ("0.0.0.0:80", "127.0.0.1:1000", Visitor::Elsewhere),
            ("192.168.1.5:80", "192.168.1.5:1000", Visitor::Elsewhere),
            ("[::]:80", "[::1]:1000", Visitor::Elsewhere),
        ] {
            let request = TestRequest::get().peer_addr(peer.parse().unwrap()).to_http_request();
            assert_eq!(at(listen).visitor(&request).await, expected, "{peer} at {listen}");
            let any = Persons { accounts: LocalAccounts::Any, ..at(listen) };
            let here = listen != "0.0.0.0:80" && listen != "[::]:80" && !peer.starts_with("192");
            let expected = if here { Visitor::Person } else { Visitor::Elsewhere };
            assert_eq!(any.visitor(&request).await, expected, "any: {peer} at {listen}");
        }
        let unknown = TestRequest::get().to_http_request();
        assert_eq!(at(loopback).visitor(&unknown).await, Visitor::Elsewhere);
    }
}
