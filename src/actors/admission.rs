//! The work budget: actix mailboxes do not bound anything, so work is counted where it enters.
//!
//! Work enters by http and by the Swarm and takes a [`Permit`] there, without waiting. The permit
//! rides in the message and is freed with the reply; inside, sending is then safe. Clients and other
//! servers have budgets apart: nobody outside takes the places of the node's own person.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::AskError;

/// A place in the work budget, freed when dropped.
#[derive(Debug)]
pub struct Permit(#[expect(dead_code, reason = "held for its Drop")] OwnedSemaphorePermit);

/// A budget of places.
#[derive(Debug, Clone)]
pub struct Admission(Arc<Semaphore>);

impl Admission {
    /// Makes a budget of `places`.
    pub fn new(places: usize) -> Self {
        Self(Arc::new(Semaphore::new(places)))
    }

    /// Takes a place, or fails at once.
    pub fn admit(&self) -> Result<Permit, AskError> {
        let permit = Arc::clone(&self.0).try_acquire_owned();
        permit.map(Permit).map_err(|_| AskError::Overloaded)
    }
}
