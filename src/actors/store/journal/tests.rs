//! A journal in a temporary folder: what is cut short, what is damaged, and what is whole.

use super::*;

const ID: [u8; 16] = [7; 16];

fn changes(number: u64) -> Changes {
    let value = vec![u8::try_from(number).unwrap(); 20];
    let key = |key: u64| key.to_be_bytes().to_vec();
    [(key(number), Some(value)), (key(number - 1), None)].into()
}

/// A journal of some groups, in files of some bytes; and where each of them ended.
fn written(folder: &Path, groups: u64, file_max: u64) -> (Journal, Vec<Place>) {
    let mut journal = Journal::create(folder, ID, file_max).unwrap();
    let mut places = vec![journal.place()];
    for number in 1..=groups {
        places.push(journal.append(number - 1, &Changes::new(), &changes(number)).unwrap());
    }
    (journal, places)
}

/// How many groups of [`written`] are read, and why no more.
fn read(folder: &Path) -> (u64, Stop) {
    let files = files(folder).unwrap();
    let Some(mut reader) = Reader::from_start(folder, &files).unwrap() else {
        let file = path_of(folder, files[0].first);
        return (0, Stop::Damaged { file, at: 0, why: "its beginning" });
    };
    let mut number = reader.place().number;
    loop {
        match reader.next() {
            Ok(record) => {
                number += 1;
                assert_eq!(reader.place().number, number);
                assert_eq!(record.followed, number - 1);
                assert_eq!(record.changes, changes(number), "nothing but what was written");
            }
            Err(stop) => return (number, stop),
        }
    }
}

#[test]
fn each_beginning_of_a_journal_is_one_and_goes_on() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("journal");
    let (_, places) = written(&folder, 5, u64::MAX);
    let path = path_of(&folder, 1);
    let whole = fs::read(&path).unwrap();
    for len in HEADER..=whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        let expected = places.iter().rposition(|place| place.offset <= len as u64).unwrap();
        let (groups, stop) = read(&folder);
        assert_eq!(groups, expected as u64, "{len} bytes");
        let is_end = places[expected].offset == len as u64;
        match stop {
            Stop::End => assert!(is_end),
            Stop::Torn { at, .. } => assert!(!is_end && at == places[expected].offset),
            other => panic!("{len} bytes: {other:?}"),
        }
        let found = files(&folder).unwrap();
        let mut journal =
            Journal::open_at(&folder, ID, found, places[expected], 0, u64::MAX).unwrap();
        journal.append(groups, &Changes::new(), &changes(groups + 1)).unwrap();
        assert!(matches!(read(&folder), (now, Stop::End) if now == groups + 1), "{len} bytes");
    }
}

#[test]
fn a_flipped_bit_is_named_and_nothing_behind_it_is_taken() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("journal");
    let (_, places) = written(&folder, 6, 400);
    let found = files(&folder).unwrap();
    assert!(found.len() > 2, "several files: {found:?}");
    let last = places.last().unwrap();
    for file in &found {
        let path = path_of(&folder, file.first);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&path, &damaged).unwrap();
            let intact = places.iter().rposition(|place| {
                place.file < file.first || (place.file == file.first && place.offset <= at as u64)
            });
            let (groups, stop) = read(&folder);
            assert!(groups <= intact.unwrap_or(0) as u64, "byte {at} of {}", file.first);
            match stop {
                Stop::Damaged { file, .. } => assert_eq!(file, path),
                // Nothing is behind the last one: the database and its mark know that it was there.
                Stop::Torn { file, .. } => assert!(file == path && groups + 1 == last.number),
                other => panic!("byte {at}: {other:?}"),
            }
        }
        fs::write(&path, &whole).unwrap();
    }
    assert!(matches!(read(&folder), (6, Stop::End)));
}

#[test]
fn files_follow_each_other_and_a_missing_one_is_noticed() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("journal");
    let (mut journal, places) = written(&folder, 12, 400);
    let found = files(&folder).unwrap();
    assert_eq!(found, journal.files());
    assert_eq!(journal.len(), found.iter().map(|file| file.len).sum::<u64>());
    journal.remove_oldest(found[1].first).unwrap();
    assert_eq!(files(&folder).unwrap(), found, "only the oldest one goes");
    journal.remove_oldest(found[0].first).unwrap();
    assert!(matches!(read(&folder), (12, Stop::End)), "the rest is read from its own beginning");
    let end = places[usize::try_from(found[1].first).unwrap() - 1];
    let mut reader = Reader::from_place(&folder, ID, journal.files(), end).unwrap().unwrap();
    assert_eq!(reader.next().unwrap().changes, changes(found[1].first), "after the end of it");
    let before = Place { number: end.number - 1, ..end };
    assert!(Reader::from_place(&folder, ID, journal.files(), before).unwrap().is_none());
    fs::remove_file(path_of(&folder, found[2].first)).unwrap();
    let (groups, stop) = read(&folder);
    assert_eq!(groups + 1, found[2].first);
    assert!(matches!(stop, Stop::Damaged { file, .. } if file == path_of(&folder, found[3].first)));
    let others = parent.path().join("others");
    written(&others, 12, 400);
    let place = journal.place();
    assert!(Reader::from_place(&folder, [8; 16], journal.files(), place).unwrap().is_none());
}

#[test]
fn a_file_that_was_begun_and_not_finished_is_removed() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("journal");
    let (journal, places) = written(&folder, 3, u64::MAX);
    drop(journal);
    for bytes in [0, 1, HEADER] {
        fs::write(path_of(&folder, 4), vec![0; bytes]).unwrap();
        let (groups, stop) = read(&folder);
        assert!(groups == 3 && matches!(stop, Stop::Torn { .. }), "{bytes}: {stop:?}");
        let found = files(&folder).unwrap();
        Journal::open_at(&folder, ID, found, places[3], 0, u64::MAX).unwrap();
        assert!(matches!(read(&folder), (3, Stop::End)));
    }
}
