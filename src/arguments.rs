//! The arguments of the program: here and not in `main.rs`, so that its manual and its completions are made of
//! them too (`examples/manual.rs`).

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// A Matrix homeserver with no server in the middle: it runs here, for you, and finds the others.
#[derive(Parser, Debug)]
#[command(version, about)]
pub struct Arguments {
    /// The configuration file; `config.json` of the working folder where there is one.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// The folder with keys and database.
    #[arg(long, value_name = "DIR", global = true, env = "MESSAGEHUB_DATA")]
    pub data: Option<PathBuf>,
    /// Opens no browser when the node is there.
    #[arg(long)]
    pub no_browser: bool,
    /// What else is wanted than a node.
    #[command(subcommand)]
    pub ask: Option<Ask>,
}

/// What can be asked of the command line.
#[derive(Subcommand, Debug)]
pub enum Ask {
    /// Tells who the running node is and whom it is connected to.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tells what waits for servers that are off, and what became of what waited.
    Outbox {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tells what is wrong here and what to change. Exit code: 0 all well, 1 warnings, 2 problems.
    Doctor {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Prints a new secret for libp2p.privateNetworkSecret.
    NetworkSecret,
    /// Puts Element into its folder: fetches the release that is pinned, or takes a file.
    Element {
        /// What to do.
        #[command(subcommand)]
        what: ElementCommand,
    },
    /// Looks at every byte of the database and its journal, while the node is stopped. Exit code: 0 all is
    /// whole, 2 something is damaged.
    Fsck,
    /// Makes a damaged database anew from its journal, or a damaged journal from the database, while the
    /// node is stopped. A start does the first by itself.
    Rebuild,
    /// Writes all that this node is into one sealed file: identity, rooms, messages, keys, media. The node may
    /// run. The passphrase is asked for, or taken from MESSAGEHUB_PASSPHRASE.
    Backup {
        /// The file.
        file: PathBuf,
        /// Overwrites it where it is there.
        #[arg(long)]
        force: bool,
    },
    /// Makes a data folder of a backup: an empty one, on a machine that takes the place of the old one.
    Restore {
        /// The file.
        file: PathBuf,
        /// The old node is gone; do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Writes the identity down in 24 words, or begins a node with one that was written down.
    Identity {
        /// Which of both.
        #[command(subcommand)]
        what: IdentityCommand,
    },
    /// Prints a login token of the running node: for one use, within two minutes.
    LoginToken,
    /// Sets a password, by which clients can log in that know nothing else. It is asked for twice, or
    /// read from standard input where that is no terminal.
    Password {
        /// Whose: a name of somebody who registered here. Left out, your own.
        user: Option<String>,
        /// Logs all devices of that person out.
        #[arg(long)]
        log_out: bool,
    },
}

/// What can be done about the identity.
#[derive(Subcommand, Debug)]
pub enum IdentityCommand {
    /// Prints the 24 words.
    Export {
        /// Do not ask whether somebody is looking.
        #[arg(long)]
        yes: bool,
    },
    /// Begins a node, in an empty data folder, with the identity of 24 words: they are asked for, or read
    /// from standard input. Rooms and messages are in backups.
    Import {
        /// The old node is gone; do not ask.
        #[arg(long)]
        yes: bool,
    },
}

/// What can be done about Element.
#[derive(Subcommand, Debug)]
pub enum ElementCommand {
    /// Gets Element, or replaces it. The node may run; what it serves changes at once.
    Install {
        /// The release's archive, where it was brought here by other means.
        #[arg(long, value_name = "TARBALL")]
        file: Option<PathBuf>,
    },
}
