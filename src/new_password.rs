//! Reads a new password from the person at the terminal, or from whoever is in front of standard input.

use std::io::{self, BufRead as _, IsTerminal as _};

/// Longest line that is read, in bytes: longer than any password may be.
const LINE_MAX: u64 = 4096;

/// Asks twice, without showing what is typed; where standard input is no terminal, reads one line of it.
pub fn read() -> Result<String, String> {
    if !io::stdin().is_terminal() {
        return line(io::stdin().lock());
    }
    let ask = |prompt: &str| rpassword::prompt_password(prompt).map_err(|error| error.to_string());
    let password = ask("New password: ")?;
    if ask("The same again: ")? != password {
        return Err("the two are not the same: nothing was changed".to_owned());
    }
    Ok(password)
}

fn line(input: impl io::BufRead) -> Result<String, String> {
    let mut password = String::new();
    let mut input = input.take(LINE_MAX);
    input.read_line(&mut password).map_err(|error| error.to_string())?;
    if password.is_empty() {
        return Err("standard input holds no password".to_owned());
    }
    Ok(password
        .strip_suffix('\n')
        .map_or(password.as_str(), |line| line.strip_suffix('\r').unwrap_or(line))
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_read() {
        for (input, expected) in [
            ("secret word\nmore\n", Some("secret word")),
            ("secret\r\n", Some("secret")),
            (" spaces stay ", Some(" spaces stay ")),
            ("\n", Some("")),
            ("", None),
        ] {
            assert_eq!(line(input.as_bytes()).ok().as_deref(), expected, "{input:?}");
        }
        assert!(line(&b"\xff\n"[..]).is_err());
    }
}
