//! Writes the manual page and the completions for shells, from the very arguments of the program:
//!
//!     cargo run --example manual -- FOLDER
//!
//! makes `messagehub.1` and one page for each command, and the completions for bash, zsh, fish and
//! PowerShell.

#![allow(clippy::print_stdout, reason = "a tool says what it made")]

use std::{error::Error, fs, path::PathBuf};

use clap::CommandFactory as _;
use clap_complete::{Shell, generate_to};
use messagehub::arguments::Arguments;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or("usage: cargo run --example manual -- FOLDER")?;
    fs::create_dir_all(&folder)?;
    let mut command = Arguments::command();
    clap_mangen::generate_to(command.clone(), &folder)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell] {
        generate_to(shell, &mut command, "messagehub", &folder)?;
    }
    for file in fs::read_dir(&folder)? {
        println!("{}", file?.path().display());
    }
    Ok(())
}
