//! Element: has the client on board that a person opens in the browser. It alone owns the folder with
//! Element's files: it fetches the release that is pinned, checks it, unpacks it and puts it there.
//!
//! Invariants: nobody is asked but the host of the release, and nobody at all where `element.fetch` is
//! false or the folder is one that a person chose; what is served is all of a release, old or new, whenever
//! this is killed; files that a person put there are not replaced without being asked.

mod actor;
mod download;
mod install;
mod unpack;

pub use actor::{ElementActor, ElementParts, Work};
pub use download::{DownloadError, Loaded};
pub use install::{Found, InstallError, look};

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{config::Release, web_client};

/// Longest silence of the release's host.
const SILENCE: Duration = Duration::from_secs(60);

/// Why Element is not on board.
#[derive(Debug, thiserror::Error)]
pub enum ElementError {
    /// Its archive did not come.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// It could not be put into its folder.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// No host can be asked.
    #[error("{0}")]
    Client(String),
}

/// Returns Element's folder in that of a node's data.
pub fn folder_in(data: &Path) -> PathBuf {
    data.join("element")
}

/// Puts a release into Element's folder: the archive that is given, or the one that its host gives.
/// `working` hears how far it is.
pub async fn bring(
    release: &Release,
    archive: Option<&Path>,
    folder: &Path,
    mut working: impl FnMut(Work),
) -> Result<(), ElementError> {
    let _lock = install::Lock::take(folder)?;
    let part = install::part_of(folder);
    let from = match archive {
        Some(file) => {
            download::verify(release, file.to_owned(), &file.display().to_string()).await?;
            file.to_owned()
        }
        None => {
            let client = web_client::builder().map_err(ElementError::Client)?.read_timeout(SILENCE);
            let client = client.build().map_err(|error| ElementError::Client(error.to_string()))?;
            download::download(&client, release, &part, |loaded| working(Work::Loading(loaded)))
                .await?;
            part.clone()
        }
    };
    working(Work::Unpacking);
    let (release, to) = (release.clone(), folder.to_owned());
    let installed = tokio::task::spawn_blocking(move || install::install(&from, &release, &to));
    installed.await.map_err(|error| ElementError::Client(error.to_string()))??;
    download::forget(&part).await;
    Ok(())
}

#[cfg(test)]
mod tests;
