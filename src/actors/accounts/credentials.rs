//! What Accounts is asked about who somebody is: logging in, proving it again, registering, passwords.

use std::{fmt, net::IpAddr};

use actix::Message;
use ruma::OwnedUserId;

use super::{
    messages::{AccountError, Profile},
    sessions::{LoggedIn, Session},
    tokens::{NoSession, TokenHash},
    uia::{Matter, Operation, Stage},
};

/// Asks whose an access token is. Sent for every request.
#[derive(Message, Debug)]
#[rtype(result = "Result<Session, NoSession>")]
pub struct Authenticate {
    /// The token.
    pub token: TokenHash,
    /// Where it comes from.
    pub from: Option<IpAddr>,
}

/// Trades a login token, or a password, for a device with an access token. The first one makes the
/// identity.
#[derive(Message)]
#[rtype(result = "Result<LoggedIn, AccountError>")]
pub struct LogIn {
    /// What it is traded for.
    pub by: LogInBy,
    /// The device that logs in.
    pub device: NewDevice,
}

/// What somebody logs in by.
pub enum LogInBy {
    /// A login token, for the owner of the node.
    Token(String),
    /// A password.
    Password {
        /// A name, or a whole user id.
        user: String,
        /// The password.
        password: String,
        /// Where it comes from.
        from: IpAddr,
    },
}

/// A device that logs in.
#[derive(Debug, Clone, Default)]
pub struct NewDevice {
    /// The device to go on with; none: a new one.
    pub device_id: Option<String>,
    /// Name of a new device.
    pub display_name: Option<String>,
    /// Whether the client takes an access token that ends, and a refresh token.
    pub refreshes: bool,
}

/// Trades a refresh token for the next access token and refresh token.
#[derive(Message)]
#[rtype(result = "Result<LoggedIn, AccountError>")]
pub struct RefreshTokens(pub String);

/// Asks whether anybody can log in by a password.
#[derive(Message, Debug)]
#[rtype(result = "bool")]
pub struct AnyPassword;

// ---------------------------------------------------------------- user-interactive authentication

/// Asks whether somebody has proven that an operation is wanted, and by what it can be.
#[derive(Message, Debug)]
#[rtype(result = "Result<Confirmed, AccountError>")]
pub struct Confirm {
    /// What is wanted.
    pub operation: Operation,
    /// Who wants it; none: somebody who registers.
    pub by: Option<Session>,
    /// The proof.
    pub attempt: Option<Attempt>,
    /// Where it comes from.
    pub from: IpAddr,
}

/// A try to prove it.
#[derive(Debug)]
pub struct Attempt {
    /// The session that [`Confirm`] answered before.
    pub session: Option<String>,
    /// By what.
    pub proof: Proof,
}

/// By what somebody proves it.
pub enum Proof {
    /// What was done on a page, if anything was.
    Page,
    /// Nothing.
    Dummy,
    /// The password.
    Password {
        /// A name, or a whole user id.
        user: String,
        /// The password.
        password: String,
    },
    /// The token that lets people register.
    RegistrationToken(String),
    /// What this server does not know.
    Unknown,
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Page => "Page",
            Self::Dummy => "Dummy",
            Self::Password { .. } => "Password(..)",
            Self::RegistrationToken(_) => "RegistrationToken(..)",
            Self::Unknown => "Unknown",
        })
    }
}

/// Whether an operation was proven to be wanted.
#[derive(Debug)]
pub enum Confirmed {
    /// It was, for this one time.
    Yes,
    /// Not yet.
    NotYet(Challenge),
}

/// What is still to be proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The session to go on with.
    pub session: String,
    /// By one of these.
    pub stages: Vec<Stage>,
    /// Why the try was not good enough.
    pub error: Option<&'static str>,
}

/// Asks what a session is about that a page is to show.
#[derive(Message, Debug)]
#[rtype(result = "Option<Matter>")]
pub struct ReadMatter(pub String);

/// The owner of the node approved a session on a page. Tells whether it counts. Whoever sends it has made
/// sure that it was them.
#[derive(Message, Debug)]
#[rtype(result = "bool")]
pub struct Approve(pub String);

// ---------------------------------------------------------------- passwords and people

/// Sets a password. Whoever sends it has made sure that the person wants it. Answers whose it is.
#[derive(Message)]
#[rtype(result = "Result<OwnedUserId, AccountError>")]
pub struct SetPassword {
    /// Whose.
    pub whose: Whose,
    /// The new one.
    pub password: String,
    /// Who is logged out by it.
    pub log_out: LogOut,
}

/// Whom somebody means.
#[derive(Debug, Clone)]
pub enum Whose {
    /// This user.
    User(OwnedUserId),
    /// Who is called so here; none: the owner of the node.
    Named(Option<String>),
}

/// Which devices are logged out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogOut {
    /// None.
    Nobody,
    /// All but this one.
    AllBut(String),
    /// All.
    Everybody,
}

/// Asks whether somebody can register by a name.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), AccountError>")]
pub struct CheckName(pub String);

/// Asks whether a token lets people register.
#[derive(Message)]
#[rtype(result = "Result<bool, AccountError>")]
pub struct CheckRegistrationToken {
    /// The token.
    pub token: String,
    /// Where it comes from.
    pub from: IpAddr,
}

/// Makes a new user. Sent once that is confirmed.
#[derive(Message)]
#[rtype(result = "Result<Registered, AccountError>")]
pub struct Register {
    /// The name; none: one is made up.
    pub localpart: Option<String>,
    /// The password.
    pub password: String,
    /// The device that is logged in; none: none is.
    pub device: Option<NewDevice>,
}

/// Somebody registered.
pub struct Registered {
    /// Who.
    pub user_id: OwnedUserId,
    /// Their session.
    pub session: Option<LoggedIn>,
}

/// Ends an account: it is logged out everywhere, leaves its rooms, and nobody is called so again. Sent
/// once that is confirmed.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), AccountError>")]
pub struct Deactivate(pub OwnedUserId);

/// The rooms are there: those whose account ended leave what they have not left yet. Sent once, at start.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct LeaveRooms;

/// Somebody of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPerson {
    /// Who.
    pub user_id: OwnedUserId,
    /// How they are shown.
    pub profile: Profile,
    /// How many devices they have logged in.
    pub devices: usize,
    /// Whether they have a password.
    pub has_password: bool,
}

/// Asks for all people of this node.
#[derive(Message, Debug)]
#[rtype(result = "Vec<LocalPerson>")]
pub struct ListPeople;
