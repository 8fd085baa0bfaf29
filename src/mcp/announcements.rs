//! Limits how often an announced change of a server's tools leads to a new listing.

use std::time::Duration;

use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Follows the first announcement at once, and each further one after twice the pause before. Otherwise a server that
/// announces changes without end would keep us listing its tools.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    /// The time of the last listing that was announced, and the least pause after it.
    last: Option<(Instant, Duration)>,
}

// === impl Announcements ===

impl Announcements {
    /// The time of the listing for an announcement that came at `now`.
    pub(super) fn next_listing(&mut self, now: Instant) -> Instant {
        let (at, pause) = match self.last {
            // Quiet for twice the pause that was due: a new series.
            Some((last, pause)) if now.saturating_duration_since(last) < pause.saturating_mul(2) => {
                (now.max(last + pause), (pause * 2).min(LONGEST_PAUSE))
            }
            _ => (now, FIRST_PAUSE),
        };
        self.last = Some((at, pause));
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_while_announcements_go_on() {
        let start = Instant::now();
        let mut announcements = Announcements::default();
        let mut now = start;
        let mut listings = Vec::new();
        for _ in 0..9 {
            let next = announcements.next_listing(now);
            listings.push((next - start).as_secs());
            now = next;
        }
        assert_eq!(listings, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_server_is_listed_at_once() {
        let start = Instant::now();
        let mut announcements = Announcements::default();
        announcements.next_listing(start);
        let soon = start + Duration::from_millis(100);
        assert_eq!(announcements.next_listing(soon), start + FIRST_PAUSE);
        let later = start + Duration::from_secs(6);
        assert_eq!(announcements.next_listing(later), later);
    }
}
