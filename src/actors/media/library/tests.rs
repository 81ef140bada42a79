//! The library by table, and by what must hold after whatever was done with it.

use proptest::prelude::*;
use ruma::user_id;

use super::*;
use crate::proto::server_keys::tests::secret_keys;

const NOW: u64 = 1_790_000_000_000;
const DAY: u64 = USED_EVERY_MS;
const FREE: u64 = u64::MAX;

fn config() -> MediaConfig {
    MediaConfig {
        max_upload_bytes: 100,
        max_bytes: 400,
        max_user_bytes: 250,
        ..MediaConfig::default()
    }
}

fn name(server: u8, id: u32) -> MediaName {
    MediaName { server_name: secret_keys(server).server_name(), media_id: id.to_string() }
}

fn ann() -> Party {
    Party::User(user_id!("@ann:x").to_owned())
}

fn server(seed: u8) -> Party {
    Party::Server(secret_keys(seed).server_name())
}

fn entry(party: &Party, hash: u8, size: u64, used: u64) -> Entry {
    let owner = match party {
        Party::User(user_id) => Some(user_id.clone()),
        Party::Server(_) => None,
    };
    let content_type = "image/png".to_owned();
    Entry {
        hash: Some([hash; 32]),
        size,
        content_type,
        file_name: None,
        owner,
        created: used,
        used,
    }
}

fn reserved(library: &mut Library, party: &Party, size: Option<u64>) -> Result<u64, String> {
    let reserved = library.reserve(party.clone(), None, size, FREE);
    reserved.map(|(_, most, _)| most).map_err(|error| error.to_string())
}

#[test]
fn a_file_is_there_once_and_as_long_as_a_name_is_left() {
    let mut library = Library::new(config());
    for (server, id) in [(1, 1), (1, 2), (2, 3)] {
        library.insert(name(server, id), entry(&super::tests::server(server), 7, 50, NOW));
    }
    assert_eq!(library.totals(), (3, 50));
    assert!(library.drop_all(vec![name(1, 1), name(2, 3)]).files.is_empty());
    assert_eq!(library.drop_all(vec![name(1, 2)]).files, [[7; 32]]);
    assert_eq!(library.totals(), (0, 0));
    assert!(library.drop_all(vec![name(1, 2)]).files.is_empty(), "said twice");
}

#[test]
fn nobody_takes_more_than_their_part_and_others_have_theirs() {
    let mut library = Library::new(config());
    assert_eq!(
        reserved(&mut library, &ann(), Some(101)).unwrap_err(),
        MediaError::TooLarge(100).to_string()
    );
    assert_eq!(
        reserved(&mut library, &ann(), None),
        Ok(100),
        "whoever does not say takes the most"
    );
    assert_eq!(reserved(&mut library, &ann(), Some(100)), Ok(100));
    assert_eq!(
        reserved(&mut library, &ann(), Some(51)).unwrap_err(),
        MediaError::UserFull.to_string()
    );
    assert_eq!(reserved(&mut library, &ann(), Some(50)), Ok(50));
    let bob = Party::User(user_id!("@bob:x").to_owned());
    assert_eq!(reserved(&mut library, &bob, Some(100)), Ok(100));
    // A quarter of all is the most that one server has here.
    assert!(reserved(&mut library, &server(2), Some(51)).is_err());
    assert_eq!(reserved(&mut library, &server(2), Some(50)), Ok(50));
    assert_eq!(reserved(&mut library, &bob, Some(1)).unwrap_err(), MediaError::Full.to_string());
    for number in 1..=5 {
        assert!(library.release(number).is_some());
        assert!(library.release(number).is_none());
    }
    assert_eq!(reserved(&mut library, &bob, Some(100)), Ok(100));
}

#[test]
fn uploads_at_once_are_counted() {
    let mut library = Library::new(config());
    for _ in 0..limits::MEDIA_UPLOADS_USER {
        reserved(&mut library, &ann(), Some(1)).unwrap();
    }
    assert!(reserved(&mut library, &ann(), Some(1)).unwrap_err().contains("at once"));
    let bob = Party::User(user_id!("@bob:x").to_owned());
    assert!(reserved(&mut library, &bob, Some(1)).is_ok());
    library.release(1);
    assert!(reserved(&mut library, &ann(), Some(1)).is_ok());
}

#[test]
fn what_nobody_looks_at_gives_way_and_what_is_ours_never() {
    let mut library = Library::new(config());
    library.insert(name(1, 1), entry(&ann(), 1, 90, NOW - 90 * DAY));
    library.insert(name(1, 2), entry(&ann(), 2, 90, NOW - 90 * DAY));
    library.insert(name(2, 3), entry(&server(2), 3, 90, NOW - 9 * DAY));
    library.insert(name(3, 4), entry(&server(3), 4, 90, NOW - 8 * DAY));
    let bob = Party::User(user_id!("@bob:x").to_owned());
    assert!(library.touch(&name(2, 3), NOW).is_some());
    assert!(library.touch(&name(2, 3), NOW + 1).is_none(), "once a day is enough");
    let (_, most, dropped) = library.reserve(bob.clone(), None, Some(100), FREE).unwrap();
    assert_eq!((most, dropped.names), (100, vec![name(3, 4)]));
    let (_, _, dropped) = library.reserve(bob.clone(), None, Some(100), FREE).unwrap();
    assert_eq!(dropped.names, [name(2, 3)]);
    assert!(library.reserve(bob, None, Some(100), FREE).is_err(), "ours stay");
    assert_eq!(library.totals(), (2, 180));
    // One server's own older ones give way to its new ones.
    let mut library = Library::new(config());
    library.insert(name(2, 1), entry(&server(2), 1, 60, NOW));
    library.insert(name(3, 2), entry(&server(3), 2, 60, NOW - DAY));
    let (_, _, dropped) = library.reserve(server(2), None, Some(60), FREE).unwrap();
    assert_eq!(dropped.names, [name(2, 1)]);
}

#[test]
fn the_disk_keeps_what_the_database_needs() {
    let mut library = Library::new(config());
    let left = limits::MEDIA_DISK_LEFT;
    for (free, size, good) in [(left, 1, false), (left + 50, 50, true), (left + 99, 50, false)] {
        let reserved = library.reserve(ann(), None, Some(size), free);
        assert_eq!(reserved.is_ok(), good, "{free}: {reserved:?}");
    }
    let (_, most, _) = library.reserve(ann(), None, None, left + 60).unwrap();
    assert_eq!(most, 10, "as much as there is");
}

#[test]
fn age_ends_what_others_sent_and_ids_without_content() {
    let mut library = Library::new(config());
    library.insert(name(1, 1), entry(&ann(), 1, 1, NOW - 300 * DAY));
    library.insert(name(2, 2), entry(&server(2), 2, 1, NOW - 31 * DAY));
    library.insert(name(2, 3), entry(&server(2), 3, 1, NOW - 29 * DAY));
    library.create(name(1, 4), user_id!("@ann:x").to_owned(), NOW - DAY - 1).unwrap();
    library.create(name(1, 5), user_id!("@ann:x").to_owned(), NOW).unwrap();
    let mut old = library.drop_old(NOW);
    old.names.sort();
    let mut wanted = vec![name(2, 2), name(1, 4)];
    wanted.sort();
    assert_eq!(old, Dropped { names: wanted, files: vec![[2; 32]] });
    assert_eq!(library.drop_old(NOW), Dropped::default());
    // Of what was lost with the disk, others' can be fetched again.
    let lost = library.drop_lost(&HashSet::new());
    assert_eq!(lost.names, [name(2, 3)]);
    assert!(library.get(&name(1, 1)).is_some());
}

#[test]
fn ids_that_wait_are_counted() {
    let mut library = Library::new(config());
    let ann = user_id!("@ann:x");
    for id in 0..limits::MEDIA_CREATED as u32 {
        library.create(name(1, id), ann.to_owned(), NOW).unwrap();
    }
    assert!(library.create(name(1, 1000), ann.to_owned(), NOW).is_err());
    assert!(library.create(name(1, 1000), user_id!("@bob:x").to_owned(), NOW).is_ok());
    library.insert(name(1, 0), entry(&super::tests::ann(), 1, 1, NOW));
    assert!(library.create(name(1, 1001), ann.to_owned(), NOW).is_ok());
}

#[derive(Debug, Clone)]
enum Step {
    Reserve(u8, u64),
    Release(u64),
    Insert(u8, u32, u8),
    Drop(u8, u32),
    Touch(u8, u32, u64),
    Age(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_u8, 1..120_u64).prop_map(|(who, size)| Step::Reserve(who, size)),
        (1..20_u64).prop_map(Step::Release),
        (1..4_u8, 0..8_u32, 0..6_u8).prop_map(|(who, id, hash)| Step::Insert(who, id, hash)),
        (1..4_u8, 0..8_u32).prop_map(|(who, id)| Step::Drop(who, id)),
        (1..4_u8, 0..8_u32, 0..100_u64).prop_map(|(who, id, day)| Step::Touch(who, id, day)),
        (0..100_u64).prop_map(Step::Age),
    ]
}

proptest! {
    /// Whatever is done: what is counted is what is there, and room that was kept was there.
    #[test]
    fn the_books_are_right(steps in prop::collection::vec(step(), 1..60)) {
        let mut library = Library::new(config());
        let party = |who: u8| if who == 1 { ann() } else { server(who) };
        for step in steps {
            match step {
                Step::Reserve(who, size) => {
                    let party = if who == 0 { ann() } else { party(who) };
                    if let Ok((_, most, _)) = library.reserve(party, None, Some(size), FREE) {
                        prop_assert!(most == size);
                        prop_assert!(library.bytes + library.reserved <= library.config.max_bytes);
                    }
                }
                Step::Release(number) => drop(library.release(number)),
                // Only what there was room for comes in.
                Step::Insert(who, id, hash) => {
                    let size = u64::from(hash) * 10;
                    if let Ok((number, ..)) = library.reserve(party(who), None, Some(size), FREE) {
                        library.release(number);
                        library.insert(name(who, id), entry(&party(who), hash, size, NOW));
                    }
                }
                Step::Drop(who, id) => drop(library.drop_all(vec![name(who, id)])),
                Step::Touch(who, id, day) => drop(library.touch(&name(who, id), NOW + day * DAY)),
                Step::Age(day) => drop(library.drop_old(NOW + day * DAY)),
            }
            let mut files = HashMap::new();
            for entry in library.media.values() {
                files.insert(entry.hash.unwrap(), entry.size);
            }
            prop_assert_eq!(files.values().sum::<u64>(), library.bytes);
            prop_assert_eq!(files.len(), library.files.len());
            let kept: u64 = library.reservations.values().map(|one| one.most).sum();
            prop_assert_eq!(kept, library.reserved);
            let of_all: u64 = library.parts.values().map(|part| part.bytes).sum();
            prop_assert_eq!(of_all, library.media.values().map(|entry| entry.size).sum::<u64>());
            let others = library.media.values().filter(|entry| entry.owner.is_none()).count();
            prop_assert_eq!(others, library.by_use.len());
        }
    }
}
