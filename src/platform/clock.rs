//! The time since the machine was started, with the time that it slept.

/// Returns the milliseconds since this machine was started, those included in which it slept.
#[cfg(all(unix, not(target_os = "macos")))]
pub fn uptime_ms() -> u64 {
    of_clock(rustix::time::ClockId::Boottime)
}

/// Returns the milliseconds since this machine was started, those included in which it slept: macOS counts
/// them in this clock.
#[cfg(target_os = "macos")]
pub fn uptime_ms() -> u64 {
    of_clock(rustix::time::ClockId::Monotonic)
}

#[cfg(unix)]
fn of_clock(clock: rustix::time::ClockId) -> u64 {
    let at = rustix::time::clock_gettime(clock);
    let ms = at.tv_sec.saturating_mul(1000).saturating_add(at.tv_nsec / 1_000_000);
    u64::try_from(ms).unwrap_or_default()
}

/// Returns the milliseconds since this was asked first, those included in which the machine slept: Windows'
/// performance counter, which `Instant` reads, counts them. Whoever measures spans needs no more.
#[cfg(windows)]
pub fn uptime_ms() -> u64 {
    use std::{sync::LazyLock, time::Instant};
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGAN.elapsed().as_millis()).unwrap_or(u64::MAX)
}
