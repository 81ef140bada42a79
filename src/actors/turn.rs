//! Turns of those who read before they write, in one actor: the next one's turn comes when the one
//! before is done, or gave up.

use tokio::sync::oneshot;

/// The queue: it holds no more than its end.
#[derive(Debug, Default)]
pub struct Turns(Option<oneshot::Receiver<()>>);

/// A place in the queue. The next one's turn comes when this is dropped.
#[derive(Debug)]
pub struct Turn {
    before: Option<oneshot::Receiver<()>>,
    _after: oneshot::Sender<()>,
}

impl Turns {
    /// Takes the next place.
    pub fn take(&mut self) -> Turn {
        let (after, next) = oneshot::channel();
        Turn { before: self.0.replace(next), _after: after }
    }
}

impl Turn {
    /// Waits until all that came before are done, or gave up.
    pub async fn wait(&mut self) {
        if let Some(before) = self.before.take() {
            let _ = before.await;
        }
    }
}
