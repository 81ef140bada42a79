//! Work for the processor (signatures, state resolution) off the actor threads.

use futures::FutureExt as _;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// A job did not finish: it panicked. A bug of ours, answered as an error.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a computation failed unexpectedly; please report the log lines before this one")]
pub struct Panicked;

/// The pool: one thread less than there are processors, and at least one.
#[derive(Debug, Clone)]
pub struct Cpu(Arc<rayon::ThreadPool>);

impl Cpu {
    /// Starts the pool.
    pub fn start() -> Result<Self, rayon::ThreadPoolBuildError> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(processors.saturating_sub(1).max(1))
            .thread_name(|number| format!("cpu-{number}"))
            .build()?;
        Ok(Self(Arc::new(pool)))
    }

    /// Runs a job. It does no I/O, and is skipped if the caller is gone before it begins.
    pub fn run<T, F>(&self, job: F) -> impl Future<Output = Result<T, Panicked>> + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (reply, done) = tokio::sync::oneshot::channel();
        self.0.spawn(move || {
            if reply.is_closed() {
                return;
            }
            if let Ok(value) = catch_unwind(AssertUnwindSafe(job)) {
                let _ = reply.send(value);
            }
        });
        done.map(|value| value.map_err(|_| Panicked))
    }
}
