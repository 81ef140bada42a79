//! Handlers: what our users upload.

use actix::{
    ActorFutureExt as _, AsyncContext as _, Context, Handler, ResponseActFuture, WrapFuture as _,
    fut,
};

use super::{
    actor::{MediaActor, row_of},
    library::{Entry, Party},
    messages::{
        AbandonUpload, BeginCopy, BeginUpload, CreateMedia, FinishUpload, MediaError, Upload,
    },
};
use crate::{
    actors::clock::now_ms,
    config::limits,
    proto::media::{MediaName, content_type, file_name},
};

impl Handler<BeginUpload> for MediaActor {
    type Result = Result<Upload, MediaError>;

    fn handle(&mut self, msg: BeginUpload, ctx: &mut Context<Self>) -> Self::Result {
        let BeginUpload { user_id, name, announced } = msg;
        if let Some(name) = &name {
            self.check_created(name, &user_id)?;
        }
        let name = name
            .unwrap_or_else(|| MediaName::new(user_id.server_name().to_owned(), rand::random()));
        self.begin(Party::User(user_id), name, announced, ctx)
    }
}

impl Handler<BeginCopy> for MediaActor {
    type Result = Result<Upload, MediaError>;

    fn handle(&mut self, msg: BeginCopy, ctx: &mut Context<Self>) -> Self::Result {
        let BeginCopy { server_name, announced } = msg;
        let name = MediaName::new(server_name.clone(), rand::random());
        self.begin(Party::Server(server_name), name, announced, ctx)
    }
}

impl MediaActor {
    fn begin(
        &mut self,
        party: Party,
        name: MediaName,
        announced: Option<u64>,
        ctx: &mut Context<Self>,
    ) -> Result<Upload, MediaError> {
        let free = self.files.free();
        let (number, most, dropped) = self.library.reserve(party, Some(name), announced, free)?;
        self.clear(&dropped);
        let abandon = Some(ctx.address().recipient());
        Ok(Upload { number, path: self.files.coming(number), most, abandon })
    }

    /// An id is filled once, by whom it was given to.
    fn check_created(&self, name: &MediaName, user_id: &ruma::UserId) -> Result<(), MediaError> {
        if name.server_name != user_id.server_name() {
            return Err(MediaError::Forbidden("that is another server's"));
        }
        let entry = self.library.get(name).ok_or(MediaError::NotFound)?;
        if entry.owner.as_deref() != Some(user_id) {
            return Err(MediaError::Forbidden("that id was given to somebody else"));
        }
        if entry.hash.is_some() || self.library.is_coming(name) {
            return Err(MediaError::CannotOverwrite);
        }
        Ok(())
    }
}

impl Handler<AbandonUpload> for MediaActor {
    type Result = ();

    fn handle(&mut self, AbandonUpload(number): AbandonUpload, _: &mut Context<Self>) {
        if self.library.release(number).is_some() {
            self.files.abandon(number);
        }
    }
}

impl Handler<FinishUpload> for MediaActor {
    type Result = ResponseActFuture<Self, Result<MediaName, MediaError>>;

    fn handle(&mut self, msg: FinishUpload, _: &mut Context<Self>) -> Self::Result {
        let FinishUpload { mut upload, pieces, content_type: declared, file_name: called } = msg;
        upload.abandon = None;
        let Some((party, Some(name))) = self.library.release(upload.number) else {
            return Box::pin(fut::ready(Err(MediaError::NotFound)));
        };
        let owner = match party {
            Party::User(user_id) => Some(user_id),
            Party::Server(_) => None,
        };
        if let Err(error) = self.files.keep(&upload.path, &pieces) {
            self.files.abandon(upload.number);
            return Box::pin(fut::ready(Err(error.into())));
        }
        let now = now_ms();
        let entry = Entry {
            hash: Some(pieces.hash),
            size: pieces.size,
            content_type: content_type(Some(&declared)),
            file_name: file_name(called.as_deref()),
            owner,
            created: now,
            used: now,
        };
        let rows = row_of(&name, &entry).map(|row| vec![row]);
        self.settle(name.clone(), entry, rows, name)
    }
}

impl Handler<CreateMedia> for MediaActor {
    type Result = ResponseActFuture<Self, Result<(MediaName, u64), MediaError>>;

    fn handle(&mut self, msg: CreateMedia, _: &mut Context<Self>) -> Self::Result {
        let name = MediaName::new(msg.user_id.server_name().to_owned(), rand::random());
        let now = now_ms();
        let row = match self.library.create(name.clone(), msg.user_id, now) {
            Ok(entry) => row_of(&name, entry),
            Err(error) => return Box::pin(fut::ready(Err(error))),
        };
        let links = self.links.clone();
        let written = async move { links.write(vec![row?]).await };
        Box::pin(written.into_actor(self).map(move |written, act, _| {
            if let Err(error) = written {
                act.library.drop_all(vec![name]);
                return Err(error);
            }
            Ok((name, now.saturating_add(limits::MEDIA_CREATED_MS)))
        }))
    }
}
