//! Who runs first on the cores that all share. Only the gateway's delays are of interest, so those who stand for other
//! machines neither wait for the gateway's threads nor make them wait. By `chrt`, of util-linux.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Starts a program that runs only while nobody else wants the core. A lower `nice` alone would not do: such a thread keeps the
/// core until its slice of up to 4 ms is over.
pub(crate) const IDLE: [&str; 3] = ["chrt", "--idle", "0"];

/// Starts a program that runs as soon as it can. Only `root` may.
const FIRST: [&str; 3] = ["chrt", "--fifo", "1"];

/// [`FIRST`], or nothing where that is not allowed.
pub(crate) fn first() -> &'static [&'static str] {
    static IS_ALLOWED: OnceLock<bool> = OnceLock::new();
    let is_allowed = *IS_ALLOWED.get_or_init(|| {
        let is_allowed = runs(&["true"]);
        if !is_allowed {
            eprintln!("not allowed to run first: latencies include waits for the gateway's threads of up to 4 ms each");
        }
        is_allowed
    });
    if is_allowed { &FIRST } else { &[] }
}

/// Makes the calling thread run as soon as it can, where that is allowed.
pub(crate) fn run_first() {
    let own = fs::read_link("/proc/thread-self");
    let own = own.as_deref().ok().and_then(|path| path.file_name()?.to_str());
    if let Some(own) = own.filter(|_| !first().is_empty())
        && !runs(&["--pid", own])
    {
        eprintln!("the bystander cannot run first");
    }
}

fn runs(what: &[&str]) -> bool {
    let [program, policy, priority] = FIRST;
    let mut command = Command::new(program);
    match what {
        ["--pid", id] => command.args([policy, "--pid", priority, id]),
        _ => command.args([policy, priority]).args(what),
    };
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
