//! Handlers: what is another server's is looked for, comes, and is kept.

use std::collections::HashSet;

use actix::{
    ActorFutureExt as _, AsyncContext as _, Context, Handler, ResponseActFuture, WrapFuture as _,
    fut,
};
use ruma::CanonicalJsonObject;
use tokio::sync::watch;

use super::{
    actor::{MediaActor, Rows, row_of},
    fetch::Fetch,
    library::{Entry, Party},
    messages::{BeginFetch, EndFetch, FetchOver, MediaError, Place, Progress},
};
use crate::{
    actors::{
        clock::now_ms,
        store::{Row, StoreError},
    },
    config::limits,
    proto::media::{MediaName, Statement},
};

type Kept<T> = ResponseActFuture<MediaActor, Result<T, MediaError>>;

impl MediaActor {
    /// Has something fetched, once for all who wait for it.
    pub(super) fn arrival(
        &mut self,
        name: &MediaName,
        ctx: &mut Context<Self>,
    ) -> Result<watch::Receiver<Progress>, MediaError> {
        if let Some(arrival) = self.fetches.get(name) {
            return Ok(arrival.clone());
        }
        if self.fetches.len() >= limits::MEDIA_FETCHES {
            return Err(MediaError::Busy("files of others are being fetched"));
        }
        let (progress, arrival) = watch::channel(Progress::default());
        let (links, this) = (self.links.clone(), ctx.address());
        actix::spawn(Fetch { links, this, name: name.clone(), progress }.run());
        self.fetches.insert(name.clone(), arrival.clone());
        Ok(arrival)
    }

    /// Removes parts of files that are not being fetched, the oldest first, where they take too much.
    pub(super) fn tidy_parts(&self) {
        let wanted = self
            .fetches
            .values()
            .filter_map(|progress| progress.borrow().found.as_ref().map(|found| found.hash));
        let wanted: HashSet<_> = wanted.collect();
        let most = self.library.config().max_bytes.checked_div(limits::MEDIA_PARTS_SHARE);
        self.files.tidy_parts(&wanted, most.unwrap_or_default());
    }

    /// Keeps what is known of a file that is here.
    fn keep<T: 'static>(
        &mut self,
        statement: Statement,
        signed: &CanonicalJsonObject,
        answer: T,
    ) -> Kept<T> {
        let Statement { name, hash, size, content_type, file_name } = statement;
        let now = now_ms();
        let (hash, owner) = (Some(hash), None);
        let entry = Entry { hash, size, content_type, file_name, owner, created: now, used: now };
        let row = row_of(&name, &entry);
        let signed = serde_json::to_vec(signed)
            .map_err(|_| StoreError::Corrupt { what: "statement on media" });
        let MediaName { server_name, media_id } = name.clone();
        let statement = Row::MediaStatement(server_name, media_id);
        let rows = row.and_then(|row| Ok(vec![row, (statement, Some(signed?))]));
        self.settle(name, entry, rows, answer)
    }

    /// Takes a file that is here into the library, and answers when its rows are on disk; where they do not
    /// get there, it is let go of again.
    pub(super) fn settle<T: 'static>(
        &mut self,
        name: MediaName,
        entry: Entry,
        rows: Result<Rows, MediaError>,
        answer: T,
    ) -> Kept<T> {
        self.library.insert(name.clone(), entry);
        self.unsettled.insert(name.clone());
        let links = self.links.clone();
        let written = async move { links.write(rows?).await };
        Box::pin(written.into_actor(self).map(move |written, act, _| {
            act.unsettled.remove(&name);
            if let Err(error) = written {
                let dropped = act.library.drop_all(vec![name]);
                act.clear(&dropped);
                return Err(error);
            }
            act.came.send_replace(());
            Ok(answer)
        }))
    }
}

impl Handler<BeginFetch> for MediaActor {
    type Result = Kept<Option<Place>>;

    fn handle(&mut self, msg: BeginFetch, _: &mut Context<Self>) -> Self::Result {
        let BeginFetch { statement, signed } = msg;
        if self.library.has_file(&statement.hash) {
            return self.keep(statement, &signed, None);
        }
        let party = Party::Server(statement.name.server_name.clone());
        let (name, free) = (Some(statement.name.clone()), self.files.free());
        let place = self.library.reserve(party, name, Some(statement.size), free);
        let place = place.map(|(number, _, dropped)| {
            self.clear(&dropped);
            Some(Place { number, path: self.files.part(&statement.hash) })
        });
        self.tidy_parts();
        Box::pin(fut::ready(place))
    }
}

impl Handler<EndFetch> for MediaActor {
    type Result = Kept<()>;

    fn handle(&mut self, msg: EndFetch, _: &mut Context<Self>) -> Self::Result {
        let EndFetch { place, statement, signed, pieces } = msg;
        self.library.release(place.number);
        let Some(pieces) = pieces else { return Box::pin(fut::ready(Ok(()))) };
        // By another name it may have come meanwhile.
        if !self.library.has_file(&pieces.hash)
            && let Err(error) = self.files.keep(&place.path, &pieces)
        {
            return Box::pin(fut::ready(Err(error.into())));
        }
        self.keep(statement, &signed, ())
    }
}

impl Handler<FetchOver> for MediaActor {
    type Result = ();

    fn handle(&mut self, FetchOver(name): FetchOver, _: &mut Context<Self>) {
        self.fetches.remove(&name);
    }
}
