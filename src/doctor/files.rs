//! What lies on the disk: configuration, data folder, and the space that is left.

use std::{fs, io, path::Path};

use super::Finding;
use crate::{
    config::Config,
    data_folder,
    platform::{
        files::{free_space, may_write_in},
        words::System,
    },
};

/// Below this the node cannot keep what comes in an evening of pictures: 100 MiB.
const SPACE_MIN: u64 = 100 * 1024 * 1024;
/// Below this somebody should look soon: 1 GiB.
const SPACE_LOW: u64 = 1024 * 1024 * 1024;

/// Reads the configuration as a start would.
pub(super) fn configuration(file: Option<&Path>) -> Result<(Config, Finding), Finding> {
    const CHECK: &str = "configuration";
    match Config::load(file) {
        Ok(config) => {
            let from = match file {
                Some(file) => file.display().to_string(),
                None if Path::new("config.json").exists() => "config.json".to_owned(),
                None => "the defaults, since there is no config.json".to_owned(),
            };
            Ok((config, Finding::ok(CHECK, format!("it can be read: {from}"))))
        }
        Err(error) => Err(Finding::problem(
            CHECK,
            error.to_string(),
            "correct it: the node does not start with it, and ports and network were not looked at",
        )),
    }
}

/// Looks at the data folder and at the space around it.
pub(super) fn data_folder(data: &Path) -> Vec<Finding> {
    const CHECK: &str = "data folder";
    let shown = data.display();
    let place = match fs::metadata(data) {
        Ok(meta) if !meta.is_dir() => {
            let text = format!("{shown} is no folder");
            return vec![Finding::problem(CHECK, text, "name another one with --data")];
        }
        Ok(_) => data,
        // It is made at the first start: what counts is the nearest folder that is there.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            data.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."))
        }
        Err(error) => {
            let text = format!("{shown} cannot be looked at: {error}");
            return vec![Finding::problem(CHECK, text, "run this as the user who runs messagehub")];
        }
    };
    if !may_write_in(place) {
        let text = format!("{} cannot be written to by you", place.display());
        return vec![Finding::problem(CHECK, text, System::HERE.take_folder())];
    }
    let text = match place == data {
        true => format!("{shown} can be written to"),
        false => format!("{shown} is not there yet and can be made"),
    };
    vec![Finding::ok(CHECK, text), space(place)]
}

/// Says why the node ended, where it ended for something that a person has to decide.
pub(super) fn last_word(data: &Path) -> Option<Finding> {
    let why = data_folder::last_word(data)?;
    let advice = "decide which of the two goes on: one identity can be used in one place only";
    Some(Finding::problem("last run", why, advice))
}

fn space(place: &Path) -> Finding {
    const CHECK: &str = "disk space";
    match free_space(place) {
        Ok(free) => judge_space(free),
        Err(error) => {
            let text = format!("{} does not tell its space: {error}", place.display());
            Finding::not_tested(CHECK, text, System::HERE.look_at_space())
        }
    }
}

fn judge_space(free: u64) -> Finding {
    const CHECK: &str = "disk space";
    let text = format!("{} MiB are free", free / (1024 * 1024));
    let advice = "make room, or move the data folder: a node that cannot write ends";
    match free {
        ..SPACE_MIN => Finding::problem(CHECK, text, advice),
        SPACE_MIN..SPACE_LOW => Finding::warning(CHECK, text, advice),
        _ => Finding::ok(CHECK, text),
    }
}

/// Says whether this node is in a private network, and how well that is closed.
pub(super) fn private_network(config: &Config) -> Finding {
    const CHECK: &str = "network";
    match (&config.libp2p.private_network_secret, config.secret_weakness()) {
        (None, _) => Finding::ok(CHECK, "public: whoever you give your id to can find you"),
        (Some(_), Some(why)) => Finding::warning(
            CHECK,
            format!("private, but its secret is weak: {why}"),
            "set one that `messagehub network-secret` prints, on all nodes: a weak one can be \
             guessed by whoever records a connection",
        ),
        (Some(_), None) => Finding::ok(
            CHECK,
            "private: nodes with the same secret, over TCP and private addresses only",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn folders() {
        let folder = tempfile::tempdir().unwrap();
        let levels =
            |data: &Path| data_folder(data).iter().map(|finding| finding.level).collect::<Vec<_>>();
        assert_eq!(levels(folder.path()).first(), Some(&Level::Ok));
        let new = folder.path().join("not/there/yet");
        assert_eq!(levels(&new).first(), Some(&Level::Ok));
        assert!(!new.exists(), "looking makes nothing");
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        assert_eq!(levels(&file), [Level::Problem]);
        assert_eq!(levels(&file.join("below")).first(), Some(&Level::Problem));
    }

    #[test]
    fn why_the_node_ended_is_told_until_it_starts_again() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(last_word(folder.path()), None);
        data_folder::leave_last_word(folder.path(), "a copy runs elsewhere");
        let finding = last_word(folder.path()).unwrap();
        assert!(finding.level == Level::Problem && finding.text.contains("a copy"));
        data_folder::forget_last_word(folder.path());
        assert_eq!(last_word(folder.path()), None);
    }

    #[test]
    fn space_is_judged_by_what_is_left() {
        for (free, level) in [
            (0, Level::Problem),
            (SPACE_MIN - 1, Level::Problem),
            (SPACE_MIN, Level::Warning),
            (SPACE_LOW, Level::Ok),
        ] {
            assert_eq!(judge_space(free).level, level, "{free}");
        }
    }

    #[test]
    fn the_secret_is_judged_and_never_shown() {
        let mut config = Config::default();
        assert_eq!(private_network(&config).level, Level::Ok);
        for (secret, level) in
            [("hunter2 hunter2", Level::Warning), ("wq7Zt-3kXb9-RmV2c-8LpYs", Level::Ok)]
        {
            config.libp2p.private_network_secret = Some(secret.to_owned());
            let finding = private_network(&config);
            assert_eq!(finding.level, level, "{secret}");
            assert!(!finding.in_words().contains(secret));
        }
    }
}
