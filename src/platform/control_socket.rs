//! The way from the command line to the running node: for the account that owns the data folder, and for
//! nobody else.
//!
//! On Unix it is a socket in the data folder that only its owner may use. On Windows it is a named pipe.
//! Others may open a pipe there to read, which is no use to them: nothing is said that was not asked for.
//! Its name is made anew at each start, by chance, and written into a file of the data folder, so that
//! nobody can be there before the node; and nobody is asked while no node holds the folder, so that nobody
//! can be there after it.

#[cfg(unix)]
pub use unix::{Listener, connect, place};
#[cfg(windows)]
pub use windows::{Listener, connect, place};

#[cfg(unix)]
mod unix {
    use std::{
        fs, io,
        os::unix::fs::PermissionsExt as _,
        path::{Path, PathBuf},
    };

    use tokio::net::{UnixListener, UnixStream};

    const FILE: &str = "control.sock";

    /// Returns what a person is told of, where something is wrong.
    pub fn place(data: &Path) -> PathBuf {
        data.join(FILE)
    }

    /// Where the node listens.
    #[derive(Debug)]
    pub struct Listener(UnixListener);

    impl Listener {
        /// Listens. Only for who has the data folder locked: what is left over is removed.
        pub fn bind(data: &Path) -> io::Result<Self> {
            let path = place(data);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            Ok(Self(listener))
        }

        /// Waits for somebody who asks.
        pub async fn accept(&mut self) -> io::Result<UnixStream> {
            self.0.accept().await.map(|(stream, _)| stream)
        }
    }

    /// Connects to the running node. Where none runs the error is `NotFound` or `ConnectionRefused`.
    pub async fn connect(data: &Path) -> io::Result<UnixStream> {
        UnixStream::connect(place(data)).await
    }
}

#[cfg(windows)]
mod windows {
    use std::{
        fs::{self, OpenOptions},
        io,
        path::{Path, PathBuf},
        time::Duration,
    };

    use tokio::net::windows::named_pipe::{
        ClientOptions, NamedPipeClient, NamedPipeServer, ServerOptions,
    };

    use crate::data_folder;

    const FILE: &str = "control.pipe";
    /// `ERROR_PIPE_BUSY`: all that listen are being spoken to.
    const BUSY: i32 = 231;
    /// How often, and how far apart, a pipe is tried that is busy.
    const BUSY_TRIES: usize = 20;
    const BUSY_PAUSE: Duration = Duration::from_millis(50);
    /// Longest name that is read.
    const NAME_MAX: usize = 100;

    /// Returns what a person is told of, where something is wrong.
    pub fn place(data: &Path) -> PathBuf {
        data.join(FILE)
    }

    /// Where the node listens: the end that waits for the next who asks.
    #[derive(Debug)]
    pub struct Listener {
        name: String,
        file: PathBuf,
        next: NamedPipeServer,
    }

    impl Listener {
        /// Listens. Only for who has the data folder locked.
        pub fn bind(data: &Path) -> io::Result<Self> {
            let name = format!(r"\\.\pipe\messagehub-{:032x}", rand::random::<u128>());
            let next = ServerOptions::new().first_pipe_instance(true).create(&name)?;
            let file = place(data);
            // Whole or absent.
            let new = file.with_extension("new");
            fs::write(&new, &name)?;
            fs::rename(&new, &file)?;
            Ok(Self { name, file, next })
        }

        /// Waits for somebody who asks.
        pub async fn accept(&mut self) -> io::Result<NamedPipeServer> {
            self.next.connect().await?;
            let next = ServerOptions::new().create(&self.name)?;
            Ok(std::mem::replace(&mut self.next, next))
        }
    }

    impl Drop for Listener {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.file);
        }
    }

    /// Connects to the running node. Where none runs the error is `NotFound` or `ConnectionRefused`.
    pub async fn connect(data: &Path) -> io::Result<NamedPipeClient> {
        let name = fs::read_to_string(place(data))?;
        if !is_locked(data)? {
            // It was killed: whoever has that name now is somebody else.
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        if name.len() > NAME_MAX || !name.starts_with(r"\\.\pipe\messagehub-") {
            return Err(io::ErrorKind::InvalidData.into());
        }
        for _ in 0..BUSY_TRIES {
            match ClientOptions::new().open(&name) {
                Err(error) if error.raw_os_error() == Some(BUSY) => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                opened => return opened,
            }
        }
        ClientOptions::new().open(&name)
    }

    /// Tells whether a node holds the data folder.
    fn is_locked(data: &Path) -> io::Result<bool> {
        let lock = OpenOptions::new().write(true).open(data.join(data_folder::LOCK))?;
        match lock.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(fs::TryLockError::WouldBlock) => Ok(true),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}
