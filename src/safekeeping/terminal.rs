//! Backups and words as the person at a terminal meets them: questions, progress, and a line at the end.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::Path,
};

use indicatif::{ProgressBar, ProgressStyle};
use ruma::ServerName;

use super::{backup, passphrase, restore, words};

/// Longest line that is read, in bytes.
const LINE_MAX: u64 = 4096;

/// `messagehub backup FILE`.
pub fn back_up(data: &Path, file: &Path, force: bool) -> Result<String, String> {
    if file.exists() && !force {
        // Before anybody types for nothing.
        return Err(super::SafekeepingError::Exists(file.display().to_string()).to_string());
    }
    let passphrase = passphrase::read_new()?;
    let bar = bar("backup");
    let tell = |done, total| show(&bar, done, total);
    let written = backup::write(data, file, &passphrase, force, tell);
    bar.finish_and_clear();
    let bytes = written.map_err(|error| error.to_string())?;
    Ok(format!(
        "{} has all of {}, {} KiB; without the passphrase nobody can read it, you neither",
        file.display(),
        data.display(),
        bytes.div_ceil(1024)
    ))
}

/// `messagehub restore FILE`.
pub fn bring_back(data: &Path, file: &Path, yes: bool) -> Result<String, String> {
    confirm(
        yes,
        "Two nodes with one identity contradict each other, and others believe neither. Is the node that \
         this backup was made of gone, or stopped for good?",
    )?;
    let passphrase = passphrase::read()?;
    let bar = bar("restore");
    let tell = |done, total| show(&bar, done, total);
    let restored = restore::read(file, data, &passphrase, tell);
    bar.finish_and_clear();
    let owner = restored.map_err(|error| error.to_string())?;
    Ok(format!("{} is restored: {}", data.display(), name(owner.as_deref())))
}

/// `messagehub identity export`.
pub fn export(data: &Path, yes: bool) -> Result<String, String> {
    confirm(
        yes,
        "Whoever reads these 24 words can be you for everybody you know, for ever. Is nobody looking?",
    )?;
    words::export(data).map_err(|error| error.to_string())
}

/// `messagehub identity import`.
pub fn import(data: &Path, yes: bool) -> Result<String, String> {
    confirm(
        yes,
        "Two nodes with one identity contradict each other, and others believe neither. Is the node that \
         had it gone, or stopped for good?",
    )?;
    let input = if io::stdin().is_terminal() {
        rpassword::prompt_password("The 24 words (they are not shown): ")
            .map_err(|error| error.to_string())?
    } else {
        line()?
    };
    let seed = words::seed_of(&input)?;
    let owner = words::import(data, seed).map_err(|error| error.to_string())?;
    Ok(format!(
        "{} is {} again, without rooms and messages: those are in backups, and at others in the rooms",
        data.display(),
        name(Some(&owner))
    ))
}

fn name(owner: Option<&ServerName>) -> String {
    owner.map_or_else(|| "nobody has logged in there yet".to_owned(), ToString::to_string)
}

/// Asks for a yes, unless it was given already.
fn confirm(yes: bool, question: &str) -> Result<(), String> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(format!("{question} Nobody is there to ask: add --yes if so"));
    }
    let _ = write!(io::stderr(), "{question} [y/N] ");
    match line()?.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err("nothing was done".to_owned()),
    }
}

fn line() -> Result<String, String> {
    let mut line = String::new();
    let read = io::Read::take(io::stdin().lock(), LINE_MAX).read_line(&mut line);
    read.map_err(|error| error.to_string())?;
    Ok(line)
}

fn bar(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::no_length().with_style(
        ProgressStyle::with_template("{msg} {wide_bar} {bytes} of {total_bytes}, {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_message(what);
    bar
}

fn show(bar: &ProgressBar, done: u64, total: u64) {
    bar.set_length(total);
    bar.set_position(done);
}
