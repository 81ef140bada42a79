//! The work budget: actix mailboxes do not bound anything, so work is counted where it enters.
//!
//! Work enters by http and by the Swarm and takes a [`Permit`] there, without waiting. The permit
//! rides in the message and is freed with the reply; inside, sending is then safe. Clients and other
//! servers have budgets apart: nobody outside takes the places of the node's own person.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::AskError;

/// A place in the work budget, freed when dropped.
#[derive(Debug)]
pub struct Permit(#[expect(dead_code, reason = "held for its Drop")] OwnedSemaphorePermit);

/// A budget of places.
#[derive(Debug, Clone)]
pub struct Admission {
    places: Arc<Semaphore>,
    most: usize,
    refused: Arc<AtomicU64>,
}

/// How a budget is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkCount {
    /// Places that are taken.
    pub in_hand: usize,
    /// All places.
    pub places: usize,
    /// How often there was none.
    pub refused: u64,
}

impl Admission {
    /// Makes a budget of `places`.
    pub fn new(places: usize) -> Self {
        let refused = Arc::default();
        Self { places: Arc::new(Semaphore::new(places)), most: places, refused }
    }

    /// Takes a place, or fails at once.
    pub fn admit(&self) -> Result<Permit, AskError> {
        let permit = Arc::clone(&self.places).try_acquire_owned();
        permit.map(Permit).map_err(|_| {
            self.refused.fetch_add(1, Relaxed);
            AskError::Overloaded
        })
    }

    /// Tells how it is used.
    pub fn count(&self) -> WorkCount {
        WorkCount {
            in_hand: self.most.saturating_sub(self.places.available_permits()),
            places: self.most,
            refused: self.refused.load(Relaxed),
        }
    }
}
