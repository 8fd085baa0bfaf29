//! System settings for a process that holds keys: no core dumps, and children that end with it.

use std::{ffi::OsString, process::ExitCode};

/// The first argument of a gateway that becomes a child of another one, whose process id follows.
const RUN_CHILD: &str = "--run-child";

/// Forbids core dumps, and reads of this process's memory, where keys are, by other processes. Linux only.
pub fn forbid_dumps() {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "core dumps of this process are not forbidden");
    }
}

/// A command line that runs `program`, and on Linux ends it when the gateway ends, however that is: a child server that
/// ignores the end of its input would live on after a `kill -9`.
///
/// The gateway starts itself, asks the system for a signal at its parent's end, and becomes the program ([`run_child`]).
pub fn ends_with_us<'a>(program: &'a str, arguments: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut words = Vec::new();
    if cfg!(target_os = "linux")
        && let Ok(own) = std::env::current_exe()
        && let Ok(own) = own.into_os_string().into_string()
    {
        words.extend([own, RUN_CHILD.into(), std::process::id().to_string()]);
    }
    words.push(program.to_owned());
    words.extend(arguments.map(str::to_owned));
    words
}

/// Becomes a child that [`ends_with_us`] asked for. Returns `None` if these arguments do not ask for one, and else only
/// when the program cannot be run.
pub fn run_child(arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let mut arguments = arguments.skip(1).peekable();
    arguments.next_if(|first| first == RUN_CHILD)?;
    #[cfg(target_os = "linux")]
    {
        use nix::{
            sys::{prctl, signal::Signal},
            unistd::getppid,
        };
        use std::os::unix::process::CommandExt;

        let parent = arguments.next()?.to_str()?.parse::<i32>().ok()?;
        let program = arguments.next()?;
        // The parent may have ended before the system was asked.
        if prctl::set_pdeathsig(Signal::SIGKILL).is_ok() && getppid().as_raw() != parent {
            return Some(ExitCode::FAILURE);
        }
        let error = std::process::Command::new(&program).args(arguments).exec();
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            format!("cannot run {}: {error}\n", program.display()).as_bytes(),
        );
    }
    Some(ExitCode::from(127))
}
