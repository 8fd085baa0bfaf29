//! Ctrl-C and SIGTERM as one stream: the first asks for a drain, the second for an end. SIGHUP separately.

use std::io;

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Installed before anything is served, so that no signal is missed.
#[cfg(unix)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

#[cfg(not(unix))]
pub struct Signals(());

// === impl Signals ===

#[cfg(unix)]
impl Signals {
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The name of the next signal.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    pub fn install() -> io::Result<Self> {
        Ok(Self(()))
    }

    pub async fn next(&mut self) -> &'static str {
        match tokio::signal::ctrl_c().await {
            Ok(()) => "Ctrl-C",
            // Without a handler the system ends the process by itself.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Calls `reopen` at each SIGHUP. Does nothing on systems that have none.
///
/// # Errors
///
/// What the system said.
pub fn on_hangup(reopen: impl Fn() + Send + 'static) -> io::Result<()> {
    #[cfg(unix)]
    {
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                reopen();
            }
        });
    }
    #[cfg(not(unix))]
    drop(reopen);
    Ok(())
}
