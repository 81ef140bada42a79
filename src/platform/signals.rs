//! How the system says that this process is to end.

/// Resolves when it is to: on Ctrl-C or SIGTERM.
#[cfg(unix)]
pub async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        log::error!("cannot listen for signals; only SIGKILL stops this node");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Resolves when it is to: on Ctrl-C, Ctrl-Break, when its console is closed, when the person logs off or
/// the machine is shut down. After the last three Windows waits for about 5 seconds.
#[cfg(windows)]
pub async fn told_to_stop() {
    use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_logoff, ctrl_shutdown};
    let (Ok(mut interrupt), Ok(mut broken), Ok(mut closed), Ok(mut logoff), Ok(mut shutdown)) =
        (ctrl_c(), ctrl_break(), ctrl_close(), ctrl_logoff(), ctrl_shutdown())
    else {
        log::error!("cannot listen to the console; end this node in the Task Manager");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = broken.recv() => {}
        _ = closed.recv() => {}
        _ = logoff.recv() => {}
        _ = shutdown.recv() => {}
    }
}
