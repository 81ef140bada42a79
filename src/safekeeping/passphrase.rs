//! Asks for the passphrase of a backup.

use std::io::{self, IsTerminal as _};

/// The variable that has it where nobody is at a terminal.
pub(super) const PASSPHRASE: &str = "MESSAGEHUB_PASSPHRASE";
/// Fewest characters: whoever finds a backup can try as long as he likes.
const CHARS_MIN: usize = 12;

/// Reads one that a new backup is made with: from the environment, or twice from the person.
pub(super) fn read_new() -> Result<String, String> {
    let passphrase = match from_environment() {
        Some(passphrase) => passphrase,
        None => {
            let passphrase = ask("A passphrase for the backup: ")?;
            if ask("The same again: ")? != passphrase {
                return Err("the two are not the same: nothing was written".to_owned());
            }
            passphrase
        }
    };
    check(passphrase)
}

/// Reads the one that a backup was made with.
pub(super) fn read() -> Result<String, String> {
    from_environment().map_or_else(|| ask("The passphrase of the backup: "), Ok)
}

fn from_environment() -> Option<String> {
    std::env::var(PASSPHRASE).ok().filter(|passphrase| !passphrase.is_empty())
}

fn ask(prompt: &str) -> Result<String, String> {
    if !io::stdin().is_terminal() {
        return Err(format!("nobody is there to ask for the passphrase: set {PASSPHRASE}"));
    }
    rpassword::prompt_password(prompt).map_err(|error| error.to_string())
}

fn check(passphrase: String) -> Result<String, String> {
    match passphrase.chars().count() < CHARS_MIN {
        true => Err(format!(
            "the passphrase is too short: {CHARS_MIN} characters at least, since whoever finds the \
             backup can try as long as he likes"
        )),
        false => Ok(passphrase),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_passphrase_is_none() {
        assert!(check("eleven char".to_owned()).is_err());
        assert_eq!(check("twelve chars".to_owned()).unwrap(), "twelve chars");
    }
}
