//! How an owner learns that an actor it started has ended.

use actix::{Message, Recipient};

/// An actor ended.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Down<K: Send + 'static> {
    /// Which one.
    pub key: K,
    /// Which start of it.
    pub generation: u64,
    /// It ended by a panic.
    pub panicked: bool,
}

/// A field of the actor; its drop tells the owner, after a panic too.
#[derive(Debug)]
pub struct DownGuard<K: Clone + Send + 'static> {
    key: K,
    generation: u64,
    owner: Recipient<Down<K>>,
}

impl<K: Clone + Send + 'static> DownGuard<K> {
    /// Makes the guard of one start of an actor.
    pub fn new(key: K, generation: u64, owner: Recipient<Down<K>>) -> Self {
        Self { key, generation, owner }
    }
}

impl<K: Clone + Send + 'static> Drop for DownGuard<K> {
    fn drop(&mut self) {
        self.owner.do_send(Down {
            key: self.key.clone(),
            generation: self.generation,
            panicked: std::thread::panicking(),
        });
    }
}
