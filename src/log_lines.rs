//! How a line of the log is written: here alone it is seen to that one event is one line, whoever
//! chose the words in it.

use std::{fmt::Write as _, io::Write as _};

use log::{
    Level, Record,
    kv::{Error, Key, Value, VisitSource},
};

use crate::{actors::store::DATABASE_LOG, proto::names::is_control};

/// What is logged unless `RUST_LOG` says otherwise. What `actix_http` calls errors are requests that are
/// none: whoever sends them is told, and nobody else can do anything about it.
const FILTER: &str = "warn,messagehub=info,libp2p_kad=error,libp2p_autonat=error,actix_http=off";

/// What the names of our own parts begin with.
const OURS: &str = "messagehub";

/// Sets the log up. Once, at the start.
pub fn start() {
    let env = env_logger::Env::default().default_filter_or(FILTER);
    env_logger::Builder::new()
        .filter_module(DATABASE_LOG, log::LevelFilter::Off)
        .parse_env(env)
        .format(|out, record| {
            let (time, level) = (out.timestamp(), record.level());
            let style = out.default_level_style(level);
            let from = origin(level, record.target()).map(|target| format!(" {target}"));
            let from = from.unwrap_or_default();
            writeln!(out, "[{time} {style}{level:<5}{style:#}{from}] {}", said(record))
        })
        .init();
}

/// Returns which part of which program a line comes from, where that helps: what this one says to
/// people they shall understand without it.
fn origin(level: Level, target: &str) -> Option<&str> {
    let ours =
        target == OURS || target.strip_prefix(OURS).is_some_and(|part| part.starts_with("::"));
    (level > Level::Info || !ours).then_some(target)
}

/// Returns the message with its values, on one line: what would steer a terminal is written out.
fn said(record: &Record<'_>) -> String {
    struct Values(String);
    impl<'kv> VisitSource<'kv> for Values {
        fn visit_pair(&mut self, key: Key<'kv>, value: Value<'kv>) -> Result<(), Error> {
            write!(self.0, " {key}={value}").map_err(Error::from)
        }
    }
    let mut values = Values(record.args().to_string());
    if let Err(error) = record.key_values().visit(&mut values) {
        let _ = write!(values.0, " (its values cannot be written: {error})");
    }
    one_line(&values.0)
}

fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match is_control(character) {
            true => line.extend(character.escape_default()),
            false => line.push(character),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_told_what_happened_and_not_in_which_part_of_the_program() {
        let part = "messagehub::actors::swarm";
        for (level, target, expected) in [
            (Level::Error, part, None),
            (Level::Warn, part, None),
            (Level::Info, part, None),
            (Level::Info, "messagehub", None),
            (Level::Debug, part, Some(part)),
            (Level::Trace, "messagehub", Some("messagehub")),
            (Level::Warn, "libp2p_kad::behaviour", Some("libp2p_kad::behaviour")),
            (Level::Info, "messagehubs", Some("messagehubs")),
        ] {
            assert_eq!(origin(level, target), expected, "{level} {target}");
        }
    }

    #[test]
    fn whatever_others_chose_stays_on_its_line() {
        let room_id = "!a\n[2026-01-01T00:00:00Z ERROR messagehub] all is lost\u{202e}\u{1b}[31m";
        let values = [("room_id", room_id), ("why", "x\ry")];
        let arguments = format_args!("unknown room {room_id}");
        let record = Record::builder().args(arguments).key_values(&values).build();
        let line = said(&record);
        assert!(!line.chars().any(is_control), "{line:?}");
        assert!(line.starts_with("unknown room !a\\n[2026"), "{line}");
        assert!(line.ends_with(r"lost\u{202e}\u{1b}[31m why=x\ry"), "{line}");
        assert_eq!(one_line("Zoë sagt: „ja“ 👋"), "Zoë sagt: „ja“ 👋");
    }
}
