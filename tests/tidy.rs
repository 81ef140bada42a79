//! The rules of the house that a compiler does not check (CONTRIBUTING.md).
//!
//! Comments do not count, nor does what stands below `#[cfg(test)]` at the end of a file.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not covered by allow-*-in-tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A file of the crate: its path below `src/`, and its lines of code.
struct Source {
    path: String,
    text: String,
    code: Vec<(usize, String)>,
}

impl Source {
    fn read(root: &Path, file: &Path) -> Self {
        let path = file.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        let text = fs::read_to_string(file).unwrap();
        let code = text
            .lines()
            .enumerate()
            .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .map(|(number, line)| (number + 1, line.to_owned()))
            .collect();
        Self { path, text, code }
    }

    fn within(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }

    /// Returns `path:line: text` of each line of code that names one of the words as a whole.
    fn naming(&self, words: &[&str]) -> Vec<String> {
        let named = |line: &str| {
            words.iter().any(|word| {
                line.match_indices(word).any(|(start, _)| {
                    let name = |c: char| c.is_alphanumeric() || c == '_';
                    let before = line[..start].chars().next_back().is_some_and(name);
                    let after = line[start + word.len()..].chars().next().is_some_and(name);
                    !before && !after
                })
            })
        };
        let hits = self.code.iter().filter(|(_, line)| named(line));
        hits.map(|(number, line)| format!("src/{}:{number}: {}", self.path, line.trim())).collect()
    }
}

fn sources() -> Vec<Source> {
    let sources = sources_in("src");
    assert!(sources.len() > 20, "the sources were not found");
    sources
}

fn sources_in(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut folders: Vec<PathBuf> = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(Source::read(&root, &path));
            }
        }
    }
    sources
}

/// Checks that no file but those in `except` names a word; and none of `only`, where given.
fn nobody_names(words: &[&str], only: &[&str], except: &[&str], why: &str) {
    let hits: Vec<String> = sources()
        .iter()
        .filter(|source| only.is_empty() || source.within(only))
        .filter(|source| !source.within(except))
        .flat_map(|source| source.naming(words))
        .collect();
    assert!(hits.is_empty(), "{why}:\n{}", hits.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for() {
    for folder in ["src", "tests", "benches"] {
        for source in sources_in(folder) {
            let path = &source.path;
            assert!(source.text.starts_with("//! "), "{folder}/{path} begins without `//!`");
        }
    }
}

#[test]
fn the_database_stays_in_the_store() {
    nobody_names(&["sled"], &[], &["actors/store/"], "no sled type leaves the Store");
}

/// The database cannot step backwards over every key: that is the business of one file.
#[test]
fn ranges_are_turned_around_in_one_place() {
    let words = ["rev", "next_back", "DoubleEndedIterator", "get_lt", "pop_max"];
    let why = "read backwards by store/backwards.rs";
    nobody_names(&words, &["actors/store/"], &["actors/store/backwards.rs"], why);
}

#[test]
fn http_names_neither_database_nor_network() {
    let why = "http asks actors by messages";
    nobody_names(&["sled", "libp2p", "machine"], &["http/"], &[], why);
}

/// Of libp2p, the values `PeerId` and `Multiaddr` are known where peers are found or shown.
#[test]
fn libp2p_stays_in_the_swarm() {
    let values = [
        "actors/rendezvous/",
        "actors/relay_request/",
        "actors/network",
        "config",
        // It names the file of the key.
        "data_folder.rs",
        "doctor/",
        "node.rs",
        "status/settings.rs",
        "status/words.rs",
    ];
    let why = "libp2p is the Swarm's alone";
    let mut except = vec!["actors/swarm/"];
    except.extend(values);
    nobody_names(&["libp2p"], &[], &except, why);
    for source in sources().iter().filter(|source| source.within(&values)) {
        for line in source.naming(&["libp2p"]) {
            let rest = line.split("libp2p::").nth(1).unwrap_or_default();
            let names = rest.split(|c: char| !c.is_alphanumeric() && c != '_');
            let foreign: Vec<&str> = names
                .filter(|name| name.starts_with(|c: char| c.is_alphabetic()))
                .filter(|name| !["PeerId", "Multiaddr", "multiaddr", "Protocol"].contains(name))
                .filter(|_| line.contains("use libp2p"))
                .collect();
            assert!(foreign.is_empty(), "only PeerId and Multiaddr here: {line}");
        }
    }
}

#[test]
fn what_differs_between_systems_is_in_one_place() {
    let words = ["rustix", "libc", "fs4", "netdev", "sd_notify", "target_os", "/proc"];
    let why = "no system but through src/platform";
    // It measures its own process, as a test.
    let except = ["platform/", "actors/swarm/event_loop/swarms.rs"];
    nobody_names(&words, &[], &except, why);
    for source in sources().iter().filter(|source| !source.within(&except)) {
        for (number, line) in &source.code {
            let apart = ["std::os::", "cfg(unix)", "cfg(windows)", "cfg!(unix)", "cfg!(windows)"];
            let named = apart.iter().any(|word| line.contains(word));
            assert!(!named, "{why}: src/{}:{number}: {line}", source.path);
        }
    }
}

#[test]
fn the_protocol_is_pure() {
    let why = "proto does no I/O, reads no clock, logs nothing and knows no framework";
    let words = ["actix", "tokio", "libp2p", "sled", "SystemTime", "Instant", "log", "std::fs"];
    nobody_names(&words, &["proto/"], &[], why);
}

/// Machines, and whatever else says of itself that it is pure.
#[test]
fn machines_are_pure() {
    for source in sources() {
        let about = source.text.lines().take_while(|line| line.starts_with("//!"));
        let says_so = about
            .into_iter()
            .any(|line| ["Pure.", "Pure;", "Pure:"].iter().any(|word| line.contains(word)));
        let is_machine = source.path.contains("machine");
        let mut foreign = vec!["actix", "tokio", "sled", "SystemTime", "now_ms", "rand"];
        if is_machine {
            foreign.push("libp2p");
        }
        if is_machine || says_so {
            let hits = source.naming(&foreign);
            assert!(hits.is_empty(), "rules and nothing else:\n{}", hits.join("\n"));
        }
    }
}

#[test]
fn the_time_of_day_is_read_in_one_place() {
    nobody_names(&["SystemTime"], &[], &["actors/clock.rs"], "ask actors/clock.rs for the time");
}

#[test]
fn no_address_of_a_room_leaves_the_rooms() {
    let why = "whoever wants something of a room sends ToRoom to RoomState";
    nobody_names(&["RoomActor"], &[], &["actors/room/", "actors/room_state/"], why);
}

#[test]
fn every_queue_has_a_limit() {
    let words = ["unbounded_channel", "unbounded", "UnboundedSender", "UnboundedReceiver"];
    nobody_names(&words, &[], &[], "every queue has a named limit");
}

#[test]
fn actors_are_wired_in_one_place() {
    let why = "a registry returns dead addresses: wire in node.rs";
    nobody_names(&["from_registry", "SyncArbiter"], &[], &[], why);
}

#[test]
fn no_locks_are_shared() {
    let words = ["Mutex", "RwLock", "RefCell", "static mut", "OnceLock", "LazyLock"];
    nobody_names(&words, &["actors/", "http/", "node.rs"], &[], "state has one owner, an actor");
}

#[test]
fn the_documents_name_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents = [
        "README.md",
        "CONTRIBUTING.md",
        "ARCHITECTURE.md",
        "docs/PROTOCOL.md",
        "docs/walks.md",
        "docs/room.md",
        "docs/limits.md",
        "docs/map.md",
        "docs/actors.md",
        "docs/choices.md",
        "docs/glossary.md",
        "benches/README.md",
    ];
    for document in documents {
        let Ok(text) = fs::read_to_string(root.join(document)) else { continue };
        let folder = root.join(document).parent().unwrap().to_owned();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") {
                assert!(folder.join(path).exists(), "{document} links to {target}");
            }
        }
    }
}

#[test]
fn the_map_names_files_that_exist() {
    for document in [
        "ARCHITECTURE.md",
        "docs/map.md",
        "docs/actors.md",
        "docs/choices.md",
        "docs/glossary.md",
        "docs/walks.md",
        "docs/room.md",
        "docs/limits.md",
    ] {
        names_files_that_exist(document);
    }
}

/// Each section of `docs/actors.md` names every message that its actor takes.
#[test]
fn the_actors_are_described_with_all_that_they_take() {
    let document =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/actors.md")).unwrap();
    let sections: BTreeMap<&str, &str> =
        document.split("\n## ").filter_map(|section| section.split_once('\n')).collect();
    let mut taken: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources().iter().filter(|source| !source.path.contains("/tests")) {
        let code: Vec<&str> = source.code.iter().map(|(_, line)| line.as_str()).collect();
        for place in code.join(" ").split(" Handler<").skip(1) {
            let Some((message, rest)) = place.split_once("> for ") else { continue };
            let actor = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap();
            let Some(actor) = actor.strip_suffix("Actor") else { continue };
            let message = message.split('<').next().unwrap().rsplit("::").next().unwrap();
            if message.chars().all(char::is_alphanumeric) {
                taken.entry(actor.to_owned()).or_default().insert(message.to_owned());
            }
        }
    }
    assert!(taken.len() >= 15 && taken["Store"].len() > 20, "they were not found: {taken:?}");
    for (actor, messages) in taken {
        let section = sections.get(actor.as_str());
        let section = section.unwrap_or_else(|| panic!("docs/actors.md has no section {actor}"));
        let unnamed: Vec<_> =
            messages.iter().filter(|message| !section.contains(&format!("`{message}`"))).collect();
        assert!(unnamed.is_empty(), "docs/actors.md does not say that {actor} takes {unnamed:?}");
    }
}

/// Checks files that are named by their path, from the root or below `src/actors/`.
fn names_files_that_exist(document: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let actors = root.join("src/actors");
    let text = fs::read_to_string(root.join(document)).unwrap();
    // The files of a folder are named without it where the folder begins the row.
    let mut folder = "src";
    for line in text.lines() {
        if let Some(row) = line.strip_prefix("| `").and_then(|row| row.split('`').next()) {
            folder = row;
        }
        let places = [root.to_owned(), actors.clone(), root.join(folder), actors.join(folder)];
        for code in line.split('`').skip(1).step_by(2) {
            let is_path = code.ends_with(".rs") || (code.ends_with('/') && !code.starts_with('/'));
            let near = places.iter().any(|at| at.join(code).exists());
            // What every actor's folder has is no path: `actor.rs`.
            let common = ["mod.rs", "actor.rs", "messages.rs", "machine.rs", "machine/"];
            assert!(!is_path || near || common.contains(&code), "{document} names {code}");
        }
    }
}

/// Returns the paths that a source imports or names from the crate's root, each in full.
fn paths_from_the_root(text: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for part in text.split("crate::").skip(1) {
        // A tree of names: what is open, and the names that stand before it.
        let (mut before, mut name): (Vec<String>, String) = (Vec::new(), String::new());
        for character in part.chars() {
            match character {
                '{' => before.push(std::mem::take(&mut name)),
                ',' | '}' => {
                    if !name.is_empty() {
                        paths.push(format!("{}{name}", before.concat()));
                    }
                    name.clear();
                    if character == '}' {
                        before.pop();
                    }
                    if before.is_empty() {
                        break;
                    }
                }
                ':' | '_' => name.push(character),
                _ if character.is_alphanumeric() => name.push(character),
                _ if character.is_whitespace() && !before.is_empty() => {}
                _ => {
                    paths.push(std::mem::take(&mut name));
                    break;
                }
            }
        }
    }
    paths
}

#[test]
fn paths_are_read_out_of_trees() {
    let text =
        "use crate::{actors::{room::{A, B}, store::C}, proto::x};\nlet a = crate::actors::d::e();";
    let found = paths_from_the_root(text);
    let expected =
        ["actors::room::A", "actors::room::B", "actors::store::C", "proto::x", "actors::d::e"];
    assert_eq!(found, expected);
}

/// Whoever wants to understand an actor reads those below it, and no other.
#[test]
fn the_folders_of_actors_have_no_circle() {
    let folder_of = |path: &str| {
        let (folder, _) = path.strip_prefix("actors::")?.split_once("::")?;
        Some(folder.to_owned())
    };
    let mut below: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources() {
        let place = source.path.replace('/', "::");
        let Some(folder) = folder_of(&place) else { continue };
        // Of tests alone, said where they are declared.
        let tests = ["/tests", "/sim/", "/convergence.rs", "/swarms.rs"];
        if tests.iter().any(|test| source.path.contains(test)) {
            continue;
        }
        let text: String = source.code.iter().flat_map(|(_, line)| [line.as_str(), "\n"]).collect();
        let named = paths_from_the_root(&text).into_iter().filter_map(|path| folder_of(&path));
        below.entry(folder.clone()).or_default().extend(named.filter(|other| *other != folder));
    }
    let folders: Vec<String> = below.keys().cloned().collect();
    below.values_mut().for_each(|named| named.retain(|other| folders.contains(other)));
    // What stands on nothing that is left is taken away, again and again.
    loop {
        let free: Vec<String> = below
            .iter()
            .filter(|(_, named)| named.iter().all(|other| !below.contains_key(other)))
            .map(|(folder, _)| folder.clone())
            .collect();
        if free.is_empty() {
            break;
        }
        below.retain(|folder, _| !free.contains(folder));
    }
    assert!(below.is_empty(), "these folders of actors know each other in a circle: {below:#?}");
}
