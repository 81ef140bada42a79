//! Files and folders for one account alone, and what it takes until they are on disk.
//!
//! On Unix a mode says who may read a file. On Windows files inherit that from their folder, and the folder
//! of an account is its own: nothing is set there, and [`is_private_by_place`] tells where that does not
//! hold.

use std::{
    fs::{DirBuilder, File, Metadata, OpenOptions},
    io,
    path::Path,
};

#[cfg(unix)]
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};

/// Lets what is made from here on be for the owner of the process alone.
#[cfg(unix)]
pub fn make_private_from_here() {
    use rustix::{fs::Mode, process::umask};
    umask(Mode::RWXG | Mode::RWXO);
}

/// Lets what is made from here on be for the owner of the process alone: Windows goes by folders.
#[cfg(windows)]
pub fn make_private_from_here() {}

/// Lets a file that is made be for its owner only.
#[cfg(unix)]
pub fn owner_only(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600)
}

/// Lets a file that is made be for its owner only: Windows goes by folders.
#[cfg(windows)]
pub fn owner_only(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

/// Makes a folder for its owner only, and those above it.
pub fn make_private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    builder.mode(0o700);
    builder.recursive(true).create(folder)
}

/// Returns the mode of a file where it lets other accounts in; none on Windows, which has no modes.
#[cfg(unix)]
pub fn open_mode(meta: &Metadata) -> Option<u32> {
    /// What group and others may do.
    const OTHERS: u32 = 0o077;
    let mode = meta.mode() & 0o7777;
    (mode & OTHERS != 0).then_some(mode)
}

/// Returns the mode of a file where it lets other accounts in; none on Windows, which has no modes.
#[cfg(windows)]
pub fn open_mode(_: &Metadata) -> Option<u32> {
    None
}

/// Takes a file from all but its owner.
#[cfg(unix)]
pub fn close_to_others(path: &Path) -> io::Result<()> {
    let mode = std::fs::metadata(path)?.mode();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode & 0o7700))
}

/// Takes a file from all but its owner: Windows goes by folders.
#[cfg(windows)]
pub fn close_to_others(path: &Path) -> io::Result<()> {
    std::fs::metadata(path).map(drop)
}

/// Tells whether a folder is one in which everybody may make files, like `/tmp`.
#[cfg(unix)]
pub fn is_shared_by_all(meta: &Metadata) -> bool {
    const STICKY: u32 = 0o1000;
    meta.mode() & STICKY != 0
}

/// Tells whether a folder is one in which everybody may make files: Windows does not tell without being
/// asked about each account.
#[cfg(windows)]
pub fn is_shared_by_all(_: &Metadata) -> bool {
    false
}

/// Tells whether a folder is closed to others by where it is, or by what [`close_to_others`] does.
#[cfg(unix)]
pub fn is_private_by_place(_: &Path) -> bool {
    true
}

/// Tells whether a folder is closed to others by where it is: below the profile of the account.
#[cfg(windows)]
pub fn is_private_by_place(folder: &Path) -> bool {
    let profile = etcetera::home_dir().ok().and_then(|home| home.canonicalize().ok());
    match (folder.canonicalize(), profile) {
        (Ok(folder), Some(profile)) => folder.starts_with(profile),
        _ => false,
    }
}

/// Returns who owns a file and who is running, where they are two: why a mounted folder cannot be used.
#[cfg(unix)]
pub fn foreign_owner(path: &Path) -> Option<(u32, u32)> {
    let (owner, me) = (std::fs::metadata(path).ok()?.uid(), rustix::process::geteuid().as_raw());
    (owner != me && me != 0).then_some((owner, me))
}

/// Returns who owns a file and who is running, where they are two: on Windows accounts have no numbers.
#[cfg(windows)]
pub fn foreign_owner(_: &Path) -> Option<(u32, u32)> {
    None
}

/// Makes the names in a folder durable.
#[cfg(unix)]
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Makes the names in a folder durable: NTFS keeps a journal of them, and folders cannot be opened as files.
#[cfg(windows)]
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    std::fs::metadata(folder).map(drop)
}

/// Opens a file so that it can be synced: to read it is enough on Unix, Windows wants more.
pub fn open_to_sync(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(cfg!(windows)).open(path)
}

/// Writes all of a folder to its disk: at once, since it may have thousands of files.
#[cfg(target_os = "linux")]
pub fn sync_all_in(folder: &Path) -> io::Result<()> {
    rustix::fs::syncfs(File::open(folder)?)?;
    Ok(())
}

/// Writes all of a folder to its disk, file by file.
#[cfg(not(target_os = "linux"))]
pub fn sync_all_in(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => sync_all_in(&path)?,
            false => open_to_sync(&path)?.sync_all()?,
        }
    }
    sync_folder(folder)
}

/// Writes at a place of a file, all of it.
#[cfg(unix)]
pub fn write_all_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    file.write_all_at(bytes, at)
}

/// Writes at a place of a file, all of it.
#[cfg(windows)]
pub fn write_all_at(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt as _;
    while !bytes.is_empty() {
        let written = file.seek_write(bytes, at)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(written..).unwrap_or_default();
        at = at.saturating_add(written as u64);
    }
    Ok(())
}

/// Returns when a file was changed last: seconds and nanoseconds since 1970.
#[cfg(unix)]
pub fn changed_at(meta: &Metadata) -> (i64, i64) {
    (meta.mtime(), meta.mtime_nsec())
}

/// Returns when a file was changed last: seconds since 1601 and what is over, in nanoseconds.
#[cfg(windows)]
pub fn changed_at(meta: &Metadata) -> (i64, i64) {
    use std::os::windows::fs::MetadataExt as _;
    const IN_A_SECOND: u64 = 10_000_000;
    let ticks = meta.last_write_time();
    ((ticks / IN_A_SECOND).cast_signed(), (ticks % IN_A_SECOND).cast_signed() * 100)
}

/// Returns how many bytes of the disk a file takes; of one with holes less than its length.
#[cfg(unix)]
pub fn allocated(meta: &Metadata) -> u64 {
    meta.blocks().saturating_mul(512)
}

/// Returns how many bytes of the disk a file takes: Windows tells the length, which is the most.
#[cfg(windows)]
pub fn allocated(meta: &Metadata) -> u64 {
    meta.len()
}

/// Returns how many bytes the disk of a folder has left for this account.
#[cfg(unix)]
pub fn free_space(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Returns how many bytes the disk of a folder has left for this account.
#[cfg(windows)]
pub fn free_space(folder: &Path) -> io::Result<u64> {
    fs4::available_space(folder)
}

/// Tells whether this account may read a folder and make files in it. Nothing is made.
#[cfg(unix)]
pub fn may_write_in(folder: &Path) -> bool {
    use rustix::fs::{Access, access};
    access(folder, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// Tells whether this account may read a folder and make files in it. Only a try tells: a file is made
/// that is gone when it is closed.
#[cfg(windows)]
pub fn may_write_in(folder: &Path) -> bool {
    use std::os::windows::fs::OpenOptionsExt as _;
    /// `FILE_FLAG_DELETE_ON_CLOSE`.
    const GONE_WHEN_CLOSED: u32 = 0x0400_0000;
    let name = format!(".messagehub-{}", std::process::id());
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).custom_flags(GONE_WHEN_CLOSED);
    std::fs::read_dir(folder).is_ok() && options.open(folder.join(name)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_written_at_a_place_stands_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "0123456789").unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        write_all_at(&file, b"ab", 4).unwrap();
        write_all_at(&file, b"yz", 9).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "0123ab678yz");
        open_to_sync(&path).unwrap().sync_all().unwrap();
        sync_folder(folder.path()).unwrap();
        sync_all_in(folder.path()).unwrap();
    }

    #[test]
    fn what_is_made_is_closed_and_what_is_open_can_be() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        make_private_folder(&inner).unwrap();
        let path = inner.join("key");
        owner_only(OpenOptions::new().write(true).create_new(true)).open(&path).unwrap();
        for place in [&inner, &path] {
            assert_eq!(open_mode(&fs::metadata(place).unwrap()), None, "{}", place.display());
        }
        #[cfg(unix)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            assert_eq!(open_mode(&fs::metadata(&path).unwrap()), Some(0o644));
        }
        close_to_others(&path).unwrap();
        assert_eq!(open_mode(&fs::metadata(&path).unwrap()), None);
    }

    #[test]
    fn room_and_leave_to_write() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_space(folder.path()).unwrap() > 0);
        assert!(may_write_in(folder.path()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "looking leaves nothing");
        assert!(!may_write_in(&folder.path().join("not/there")));
        assert!(free_space(&folder.path().join("not/there")).is_err());
    }
}
