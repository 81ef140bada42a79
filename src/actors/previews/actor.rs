//! The shell of Previews: what is known, and what is being made.

use std::{collections::HashMap, num::NonZeroUsize, sync::Arc};

use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Recipient, ResponseFuture,
    WrapFuture as _,
};
use futures::{
    FutureExt as _,
    future::{LocalBoxFuture, Shared},
};
use lru::LruCache;
use ruma::OwnedUserId;
use url::Url;

use super::{
    make::make,
    messages::{Preview, PreviewError, ReadPreview},
};
use crate::{
    actors::{
        clock::uptime_ms,
        cpu::Cpu,
        media::{BeginCopy, FinishUpload},
        rate::{Bucket, Rate},
    },
    config::limits,
    web_ask::WebClient,
};

/// How long a preview is known, in milliseconds.
const KNOWN_MS: u64 = 60 * 60 * 1000;
/// The same where there is none.
const NONE_MS: u64 = 5 * 60 * 1000;
/// Longest link.
const LINK_LEN: usize = 2048;
const PREVIEWS: NonZeroUsize = NonZeroUsize::new(limits::PREVIEWS).unwrap();
/// Users whose share is remembered.
const USERS: NonZeroUsize = NonZeroUsize::new(limits::REGISTERED + 1).unwrap();
const SHARE: Rate = Rate { burst: limits::PREVIEWS_BURST, per_second: limits::PREVIEWS_PER_SECOND };

/// Whom Previews talks to.
#[derive(Debug, Clone)]
pub struct PreviewsLinks {
    /// Media: room for a picture.
    pub begin: Recipient<BeginCopy>,
    /// Media: a picture is there.
    pub finish: Recipient<FinishUpload>,
    /// Work for the processor.
    pub cpu: Cpu,
}

type Made = Result<Arc<Preview>, PreviewError>;

/// Owns the previews of links.
#[derive(Debug)]
pub struct PreviewsActor {
    links: PreviewsLinks,
    client: WebClient,
    /// What is known, and until when.
    known: LruCache<Url, (u64, Made)>,
    making: HashMap<Url, Shared<LocalBoxFuture<'static, Made>>>,
    shares: LruCache<OwnedUserId, Bucket<u64>>,
}

impl PreviewsActor {
    /// Makes one that asks like this.
    pub fn new(links: PreviewsLinks, client: WebClient) -> Self {
        Self {
            links,
            client,
            known: LruCache::new(PREVIEWS),
            making: HashMap::new(),
            shares: LruCache::new(USERS),
        }
    }

    /// Keeps what was made.
    fn made(&mut self, url: Url, made: Made) {
        self.making.remove(&url);
        let span = if made.is_ok() { KNOWN_MS } else { NONE_MS };
        self.known.put(url, (uptime_ms().saturating_add(span), made));
    }
}

impl Actor for PreviewsActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
    }
}

/// Returns a link as it is asked for: where in a page it leads is the browser's business.
fn asked(mut url: Url) -> Result<Url, PreviewError> {
    url.set_fragment(None);
    let secret = !url.username().is_empty() || url.password().is_some();
    if !matches!(url.scheme(), "http" | "https") || secret || url.as_str().len() > LINK_LEN {
        let shown = url.as_str().chars().take(100).collect();
        return Err(PreviewError::NoLink(shown));
    }
    Ok(url)
}

impl Handler<ReadPreview> for PreviewsActor {
    type Result = ResponseFuture<Made>;

    fn handle(&mut self, msg: ReadPreview, ctx: &mut Context<Self>) -> Self::Result {
        let ReadPreview { url, user_id } = msg;
        let url = match asked(url) {
            Ok(url) => url,
            Err(error) => return Box::pin(async { Err(error) }),
        };
        let now = uptime_ms();
        if let Some((until, made)) = self.known.get(&url)
            && now < *until
        {
            let made = made.clone();
            return Box::pin(async { made });
        }
        if let Some(making) = self.making.get(&url) {
            return Box::pin(making.clone());
        }
        let server_name = user_id.server_name().to_owned();
        let share = self.shares.get_or_insert_mut(user_id, || Bucket::full(SHARE, now));
        if self.making.len() >= limits::PREVIEWS_AT_ONCE || !share.take(1.0, now) {
            return Box::pin(async { Err(PreviewError::Busy) });
        }
        let (links, client) = (self.links.clone(), self.client.clone());
        let making = make(links, client, server_name, url.clone()).boxed_local().shared();
        self.making.insert(url.clone(), making.clone());
        let kept = making.clone().into_actor(self).map(|made, act, _| act.made(url, made));
        ctx.spawn(kept);
        Box::pin(making)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_to_a_page_and_holds_no_secret() {
        let ask = |link: &str| asked(link.parse().unwrap()).map(String::from);
        assert_eq!(ask("https://example.org/a?b#c").unwrap(), "https://example.org/a?b");
        let long = format!("https://example.org/{}", "a".repeat(LINK_LEN));
        for none in ["ftp://example.org/", "data:,x", "https://ann:secret@example.org/", &long] {
            assert!(matches!(ask(none), Err(PreviewError::NoLink(_))), "{none}");
        }
    }
}
