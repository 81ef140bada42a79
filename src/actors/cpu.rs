//! Work for the processor (signatures, state resolution) off the actor threads.
//!
//! Invariant: what others send in is worked on beside our own work and never before it. Each has
//! threads of its own, and the system shares the processors out among them.

use futures::FutureExt as _;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// A job did not finish: it panicked. A bug of ours, answered as an error.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a computation failed unexpectedly; please report the log lines before this one")]
pub struct Panicked;

/// The pools: each has one thread less than there are processors, and at least one.
#[derive(Debug, Clone)]
pub struct Cpu {
    own: Arc<ThreadPool>,
    others: Arc<ThreadPool>,
}

impl Cpu {
    /// Starts the pools.
    pub fn start() -> Result<Self, ThreadPoolBuildError> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let pool = |name: &'static str| {
            let pool = ThreadPoolBuilder::new()
                .num_threads(processors.saturating_sub(1).max(1))
                .thread_name(move |number| format!("{name}-{number}"))
                .build()?;
            Ok(Arc::new(pool))
        };
        Ok(Self { own: pool("cpu")?, others: pool("cpu-others")? })
    }

    /// Runs a job. It does no I/O, and is skipped if the caller is gone before it begins.
    pub fn run<T, F>(&self, job: F) -> impl Future<Output = Result<T, Panicked>> + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        run(&self.own, job)
    }

    /// Runs a job on what others sent in, unverified: that can be any amount.
    pub fn run_for_others<T, F>(
        &self,
        job: F,
    ) -> impl Future<Output = Result<T, Panicked>> + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        run(&self.others, job)
    }
}

fn run<T, F>(pool: &ThreadPool, job: F) -> impl Future<Output = Result<T, Panicked>> + use<T, F>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let (reply, done) = tokio::sync::oneshot::channel();
    pool.spawn(move || {
        if reply.is_closed() {
            return;
        }
        if let Ok(value) = catch_unwind(AssertUnwindSafe(job)) {
            let _ = reply.send(value);
        }
    });
    done.map(|value| value.map_err(|_| Panicked))
}
