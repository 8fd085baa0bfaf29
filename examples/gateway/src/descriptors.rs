//! Bounds the connections by the limit of open files: without a bound file descriptors run out, for existing
//! connections as well.

/// More than any machine serves. On some systems "unlimited" is a number so large that nobody can allocate as much.
#[cfg(unix)]
const MOST: u64 = 1 << 20;

/// Raises the soft limit of open files to the hard one, and returns how many connections leave a third of them free,
/// for connections to providers, records and tool servers.
#[cfg(unix)]
pub fn connections() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return usize::MAX;
    };
    let wanted = hard.min(MOST).max(soft);
    let files = match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
        Ok(()) => wanted,
        Err(error) => {
            tracing::warn!(%error, soft, "cannot raise the limit of open files");
            soft
        }
    };
    share(files)
}

#[cfg(not(unix))]
pub fn connections() -> usize {
    usize::MAX
}

/// Two thirds.
#[cfg(unix)]
fn share(files: u64) -> usize {
    usize::try_from(files / 3 * 2).unwrap_or(usize::MAX).max(1)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_third_stays_free() {
        assert_eq!([share(0), share(96), share(1024)], [1, 64, 682]);
        assert!(share(u64::MAX) > 1 << 30);
    }
}
