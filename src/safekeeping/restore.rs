//! `messagehub restore`: a data folder from a backup.
//!
//! Everything is unpacked beside its place first, checked, and a database is made of the journal; then
//! the parts are put into their place, the journal first: a start that finds it without keys says
//! that they are missing, and begins nobody new. Invariants: only names that a backup has are written, and
//! none outside of the folder; a folder in which something is, is not touched.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Write as _},
    path::Path,
};

use ruma::OwnedServerName;

use super::{
    SafekeepingError,
    backup::{JOURNAL, MEDIA},
    create, failed,
    sealed_file::{Opener, Refused},
};
use crate::{
    actors::{identity, store},
    data_folder::BACKED_UP,
    platform::files,
};

/// Where a backup is unpacked, in the data folder.
const COMING: &str = "restore.new";
/// What is put into its place before the files, in this order.
const PLACED: [&str; 4] = [JOURNAL, "db", "db.mark", MEDIA];
/// Longest name in a backup.
const NAME_MAX: usize = 256;

/// Restores a backup into an empty data folder; `tell` is told how many bytes of the file are read.
/// Returns whose it is.
pub(super) fn read(
    file: &Path,
    data: &Path,
    passphrase: &str,
    tell: impl FnMut(u64, u64),
) -> Result<Option<OwnedServerName>, SafekeepingError> {
    let coming = data.join(COMING);
    make_empty(data, &coming)?;
    let restored = unpack(file, &coming, passphrase, tell).and_then(|()| {
        let owner = identity::read_server_name(&coming)?;
        // What is not whole shows now.
        store::make_from_journal(&coming, owner.as_deref())?;
        Ok(owner)
    });
    let owner = match restored {
        Ok(owner) => owner,
        Err(error) => {
            let _ = fs::remove_dir_all(&coming);
            return Err(error);
        }
    };
    // Where this fails in the middle, it can be done again.
    put_in_place(&coming, data).map_err(|error| failed(data, &error))?;
    Ok(owner)
}

/// Checks that nothing is in a data folder but what an earlier try left, and removes that.
fn make_empty(data: &Path, coming: &Path) -> Result<(), SafekeepingError> {
    crate::data_folder::prepare(data).map_err(|error| failed(data, &error))?;
    let entries = fs::read_dir(data).map_err(|error| failed(data, &error))?;
    let is_left_over = coming.exists();
    let mut left_over = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let ours = PLACED.iter().chain(&BACKED_UP).chain(&[COMING]).any(|one| name == *one);
        if !(is_left_over && ours) {
            return Err(SafekeepingError::NotEmpty(data.display().to_string()));
        }
        left_over.push(entry.path());
    }
    for path in left_over {
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(|error| failed(&path, &error))?;
    }
    files::make_private_folder(coming).map_err(|error| failed(coming, &error))
}

fn unpack(
    path: &Path,
    coming: &Path,
    passphrase: &str,
    mut tell: impl FnMut(u64, u64),
) -> Result<(), SafekeepingError> {
    let name = || path.display().to_string();
    let damaged = |why: &str| SafekeepingError::Damaged { file: name(), why: why.to_owned() };
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (total, file) = opened.map_err(|error| failed(path, &error))?;
    let mut opener = match Opener::new(BufReader::with_capacity(1 << 20, file), passphrase) {
        Ok(opener) => opener,
        Err(Refused::Passphrase) => return Err(SafekeepingError::Passphrase(name())),
        Err(Refused::Foreign) => {
            return Err(failed(path, &"it is no backup of this or an older messagehub"));
        }
        Err(Refused::Failed(why)) => return Err(failed(path, &why)),
    };
    let broken = |error: io::Error| match error.kind() {
        io::ErrorKind::InvalidData => damaged("a seal is broken"),
        io::ErrorKind::UnexpectedEof => damaged("it ends too early"),
        _ => failed(path, &error),
    };
    let mut done = 0_u64;
    loop {
        let mut number = [0; 2];
        opener.read_exact(&mut number).map_err(broken)?;
        let len = usize::from(u16::from_be_bytes(number));
        if len == 0 {
            break;
        }
        let mut name = vec![0; len.min(NAME_MAX)];
        opener.read_exact(&mut name).map_err(broken)?;
        let name = String::from_utf8(name).ok().filter(|name| is_known(name) && name.len() == len);
        let name = name.ok_or_else(|| damaged("it has a file that no backup has"))?;
        let mut number = [0; 8];
        opener.read_exact(&mut number).map_err(broken)?;
        let len = u64::from_be_bytes(number);
        let to = coming.join(&name);
        let made = to.parent().map_or(Ok(()), fs::create_dir_all);
        let mut out = made.and_then(|()| create(&to)).map_err(|error| failed(&to, &error))?;
        let mut left = len;
        let mut piece = vec![0; 64 * 1024];
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            let read = opener.read(piece.get_mut(..want).unwrap_or_default()).map_err(broken)?;
            if read == 0 {
                return Err(damaged("it ends too early"));
            }
            let written = out.write_all(piece.get(..read).unwrap_or_default());
            written.map_err(|error| failed(&to, &error))?;
            left = left.saturating_sub(read as u64);
            done = done.saturating_add(read as u64);
            tell(done.min(total), total);
        }
        out.sync_all().map_err(|error| failed(&to, &error))?;
    }
    // Nothing may follow, and the last seal has to be the last.
    match opener.read(&mut [0]).map_err(broken)? {
        0 => Ok(()),
        _ => Err(damaged("something follows its end")),
    }
}

/// Tells whether a backup has such a file. Nothing else is ever written.
fn is_known(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    let hex = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    match parts.as_slice() {
        [file] => BACKED_UP.contains(file),
        [JOURNAL, file] => file.strip_suffix(".log").is_some_and(|number| {
            number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit())
        }),
        [MEDIA, shard, file] => {
            let (hash, kind) = file.split_once('.').unwrap_or((file, ""));
            let is_kind = kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            shard.len() == 2 && hex(shard) && hash.len() == 64 && hex(hash) && is_kind
        }
        _ => false,
    }
}

fn put_in_place(coming: &Path, data: &Path) -> io::Result<()> {
    // The keys last: they are the first of these.
    for name in PLACED.iter().chain(BACKED_UP.iter().rev()) {
        match fs::rename(coming.join(name), data.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    files::sync_folder(data)?;
    fs::remove_dir_all(coming)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_backup_has_is_written() {
        let hash = "a".repeat(64);
        for good in [
            "keys.json",
            "journal/00000000000000000001.log",
            &format!("media/aa/{hash}"),
            &format!("media/aa/{hash}.pieces"),
        ] {
            assert!(is_known(good), "{good}");
        }
        for bad in [
            "",
            "..",
            "../keys.json",
            "/etc/passwd",
            "db/db",
            "journal/1.log",
            "journal/../../0000000000000001.log",
            "media/aa/../../keys.json",
            &format!("media/zz/{hash}"),
            &format!("media/aa/{hash}./x"),
            &format!("media/aa/{hash}.../x"),
            "keys.json/",
            "C:\\keys.json",
        ] {
            assert!(!is_known(bad), "{bad}");
        }
    }
}
