//! The scheduling policies of the processes and threads, which share few cores: by `chrt`, of util-linux.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::{fs, io};

/// Starts a program that runs when a core is idle, and rarely else. A lower `nice` alone would not do: such a thread keeps the
/// core until its slice of up to 4 ms is over.
pub(crate) const IDLE: [&str; 3] = ["chrt", "--idle", "0"];

/// Starts a program that interrupts all others. Needs `CAP_SYS_NICE`.
const REALTIME: [&str; 3] = ["chrt", "--fifo", "2"];

/// The priority of the gateway's workers: below [`REALTIME`], above threads without one.
const WORKERS: &str = "1";

/// [`REALTIME`], or nothing where that is not allowed.
pub(crate) fn realtime() -> &'static [&'static str] {
    static IS_ALLOWED: OnceLock<bool> = OnceLock::new();
    let is_allowed = *IS_ALLOWED.get_or_init(|| {
        let [program, policy, priority] = REALTIME;
        let is_allowed = runs(Command::new(program).args([policy, priority, "true"]));
        if !is_allowed {
            eprintln!("no real-time priority: latencies include waits for a core, of up to 4 ms each");
        }
        is_allowed
    });
    if is_allowed { &REALTIME } else { &[] }
}

/// Gives the calling thread real-time priority, where that is allowed.
pub(crate) fn raise_own() {
    if let Ok(own) = fs::read_link("/proc/thread-self") {
        raise(&own, REALTIME[2]);
    }
}

/// Gives a gateway's workers real-time priority, and no other of its threads: not those for vast work, nor the record writer.
pub(crate) fn raise_workers(gateway: u32) -> io::Result<()> {
    for thread in fs::read_dir(format!("/proc/{gateway}/task"))? {
        let thread = thread?.path();
        // The main thread is a worker, too.
        let is_main = thread.ends_with(gateway.to_string());
        if is_main || fs::read_to_string(thread.join("comm"))?.starts_with("worker-") {
            raise(&thread, WORKERS);
        }
    }
    Ok(())
}

/// Sets the priority of a thread, by its directory in `/proc`. Threads that it starts do not inherit it.
fn raise(thread: &Path, priority: &str) {
    let mut command = Command::new("chrt");
    command.args(["--reset-on-fork", "--fifo", "--pid", priority]);
    command.arg(thread.file_name().unwrap_or_default());
    if !realtime().is_empty() && !runs(&mut command) {
        eprintln!("cannot set the priority of {}", thread.display());
    }
}

fn runs(command: &mut Command) -> bool {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
