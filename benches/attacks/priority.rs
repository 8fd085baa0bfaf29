//! Who runs first on the cores that all share, by `chrt` of util-linux. All but the gateway stand for other machines, so they
//! neither wait for its threads nor make them wait.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::{fs, io};

/// Starts a program that runs only while nobody else wants the core. A lower `nice` alone would not do: such a thread keeps the
/// core until its slice of up to 4 ms is over.
pub(crate) const IDLE: [&str; 3] = ["chrt", "--idle", "0"];

/// Starts a program that runs as soon as it can. Only `root` may.
const FIRST: [&str; 3] = ["chrt", "--fifo", "2"];

/// The priority of the gateway's workers: below [`FIRST`], above all other threads.
const WORKERS: &str = "1";

/// [`FIRST`], or nothing where that is not allowed.
pub(crate) fn first() -> &'static [&'static str] {
    static IS_ALLOWED: OnceLock<bool> = OnceLock::new();
    let is_allowed = *IS_ALLOWED.get_or_init(|| {
        let [program, policy, priority] = FIRST;
        let is_allowed = runs(Command::new(program).args([policy, priority, "true"]));
        if !is_allowed {
            eprintln!("not allowed to run first: latencies include waits for a core, of up to 4 ms each");
        }
        is_allowed
    });
    if is_allowed { &FIRST } else { &[] }
}

/// Makes the calling thread run as soon as it can, where that is allowed.
pub(crate) fn run_first() {
    if let Ok(own) = fs::read_link("/proc/thread-self") {
        set(&own, FIRST[2]);
    }
}

/// Makes the workers of a gateway run before its other threads.
pub(crate) fn run_workers_first(gateway: u32) -> io::Result<()> {
    for thread in fs::read_dir(format!("/proc/{gateway}/task"))? {
        let thread = thread?.path();
        let is_first = thread.ends_with(gateway.to_string());
        if is_first || fs::read_to_string(thread.join("comm"))?.starts_with("worker-") {
            set(&thread, WORKERS);
        }
    }
    Ok(())
}

/// Sets the priority of a thread, by its directory in `/proc`.
fn set(thread: &Path, priority: &str) {
    let id = thread.file_name().unwrap_or_default();
    if !first().is_empty() && !runs(Command::new("chrt").args(["--fifo", "--pid", priority]).arg(id)) {
        eprintln!("cannot set the priority of {thread:?}");
    }
}

fn runs(command: &mut Command) -> bool {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
