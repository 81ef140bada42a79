//! The shell: looks whether the release is there, and brings it where it is not, again and again.

use std::{path::PathBuf, time::Duration};

use actix::{Actor, ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Found, Loaded, bring, install};
use crate::config::Release;

/// How long after a failure it is tried again, doubling up to the second.
const AGAIN: Duration = Duration::from_secs(60);
const AGAIN_MAX: Duration = Duration::from_secs(60 * 60);
/// What is said of the download in the log: each time that so many percent more came.
const TOLD_PERCENT: u64 = 10;

/// What is done so that Element is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Nothing: it is there, or nobody is to be asked for it.
    #[default]
    None,
    /// It comes.
    Loading(Loaded),
    /// It came, and is put into its folder.
    Unpacking,
    /// It did not come; it is tried again. Why, and after how many seconds.
    Failed(String, u64),
}

/// What the actor is made of.
#[derive(Debug, Clone)]
pub struct ElementParts {
    /// The release that is to be there.
    pub release: Release,
    /// Element's folder.
    pub folder: PathBuf,
}

/// Brings Element. Made only where it is to be fetched.
#[derive(Debug)]
pub struct ElementActor {
    parts: ElementParts,
    work: watch::Sender<Work>,
    pause: Duration,
}

impl ElementActor {
    /// Makes the actor; who holds the other end of `work` sees what it is at.
    pub fn new(parts: ElementParts, work: watch::Sender<Work>) -> Self {
        Self { parts, work, pause: AGAIN }
    }

    fn go(&mut self, ctx: &mut Context<Self>) {
        let (parts, work) = (self.parts.clone(), self.work.clone());
        let brought = async move {
            let ElementParts { release, folder } = &parts;
            let place = folder.clone();
            let found = tokio::task::spawn_blocking(move || {
                // What was begun before is ended first, unless somebody is at it.
                if let Ok(_lock) = install::Lock::take(&place)
                    && let Err(error) = install::recover(&place)
                {
                    log::warn!("{error}");
                }
                install::look(&place)
            });
            match found.await {
                Ok(Found::ByHand) => return Ok(false),
                Ok(Found::Installed(there)) if there.sha256 == release.sha256 => return Ok(false),
                _ => {}
            }
            log::info!("Element {} is fetched from {}", release.version, release.url);
            let mut told = 0;
            let working = |now: Work| {
                if let Work::Loading(Loaded { bytes, total: Some(total) }) = now
                    && bytes * 100 >= (told + TOLD_PERCENT) * total
                {
                    told = bytes * 100 / total.max(1);
                    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
                    log::info!("Element: {:.1} of {:.1} MiB", mib(bytes), mib(total));
                }
                work.send_replace(now);
            };
            bring(release, None, folder, working).await.map(|()| true)
        };
        ctx.spawn(brought.into_actor(self).map(|brought, act, ctx| {
            let now = match brought {
                Ok(new) => {
                    if new {
                        log::info!("Element {} is there", act.parts.release.version);
                    }
                    Work::None
                }
                Err(error) => {
                    let pause = act.pause;
                    log::warn!("Element is not there: {error}; next try in {} s", pause.as_secs());
                    act.pause = (pause * 2).min(AGAIN_MAX);
                    ctx.run_later(pause, Self::go);
                    Work::Failed(error.to_string(), pause.as_secs())
                }
            };
            act.work.send_replace(now);
        }));
    }
}

impl Actor for ElementActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.go(ctx);
    }
}
