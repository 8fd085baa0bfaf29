//! Sessions of operators who logged in. An answer that is still being sent, such as an open page's feed, ends with its
//! session.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use uuid::Uuid;

/// The most sessions; one more ends the oldest.
pub(super) const MAX_SESSIONS: usize = 64;
/// After this time an operator has to log in again.
pub(super) const SESSION: Duration = Duration::from_secs(12 * 3600);

/// Random ids that stand for the token. They are not kept over a restart.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<Uuid, Session>>);

struct Session {
    end: Instant,
    /// Dropped with the session.
    over: watch::Sender<()>,
}

/// How long a session goes on.
pub(super) struct Term {
    end: Instant,
    over: watch::Receiver<()>,
}

/// A body that ends with a session, if not before.
struct Bound {
    body: Body,
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
}

// === impl Sessions ===

impl Sessions {
    pub(super) fn begin(&self) -> Uuid {
        let now = Instant::now();
        let mut sessions = self.lock();
        sessions.retain(|_, session| session.end > now);
        while sessions.len() >= MAX_SESSIONS
            && let Some(oldest) = sessions
                .iter()
                .min_by_key(|(_, session)| session.end)
                .map(|(id, _)| *id)
        {
            sessions.remove(&oldest);
        }
        // 122 random bits from a cryptographic generator.
        let id = Uuid::new_v4();
        let session = Session {
            end: now + SESSION,
            over: watch::Sender::new(()),
        };
        sessions.insert(id, session);
        id
    }

    /// How long the session by this id goes on, if there is one.
    pub(super) fn get(&self, id: Uuid) -> Option<Term> {
        let sessions = self.lock();
        // Its hash is keyed by the process, so the time of a look-up reveals nothing about the ids.
        let session = sessions.get(&id).filter(|session| session.end > Instant::now())?;
        Some(Term {
            end: session.end,
            over: session.over.subscribe(),
        })
    }

    pub(super) fn end(&self, id: Uuid) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Term ===

impl Term {
    /// Ends `body` with the session. A body of known length is complete already, and stays whole.
    pub(super) fn bound(self, body: Body) -> Body {
        if body.size_hint().exact().is_some() {
            return body;
        }
        Body::new(Bound {
            body,
            over: Box::pin(self.over()),
        })
    }

    async fn over(mut self) {
        tokio::select! {
            () = sleep_until(self.end) => {}
            // An error: its sender is gone.
            _ = self.over.changed() => {}
        }
    }
}

// === impl Bound ===

impl hyper::body::Body for Bound {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        Poll::Ready(ready!(Pin::new(&mut self.body).poll_frame(cx)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // Unknown: the session may end first.
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{
        BodyExt,
        channel::{Channel, Sender},
    };

    use super::*;

    /// A body that is sent over a session, and goes on for as long as its sender lives.
    fn open(sessions: &Sessions, id: Uuid) -> (Sender<Bytes>, Body) {
        let (sender, body) = Channel::<Bytes, Infallible>::new(1);
        (sender, sessions.get(id).expect("a session").bound(Body::new(body)))
    }

    async fn is_over((_sender, body): (Sender<Bytes>, Body)) -> bool {
        let over = tokio::time::timeout(Duration::from_secs(1), body.collect()).await;
        over.is_ok_and(|body| body.is_ok_and(|body| body.to_bytes().is_empty()))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_sent_over_a_session_ends_with_it_however_it_ends() {
        let sessions = Sessions::default();
        let (first, second) = (sessions.begin(), sessions.begin());
        let [ended, open_still] = [first, second].map(|id| open(&sessions, id));
        sessions.end(first);
        assert!(is_over(ended).await, "by a logout");
        assert!(sessions.get(first).is_none());
        assert!(!is_over(open_still).await, "another session goes on");

        let expires = open(&sessions, second);
        tokio::time::advance(SESSION).await;
        assert!(is_over(expires).await, "by its time");

        let oldest = sessions.begin();
        let pushed_out = open(&sessions, oldest);
        for _ in 0..MAX_SESSIONS {
            tokio::time::advance(Duration::from_secs(1)).await;
            sessions.begin();
        }
        assert!(is_over(pushed_out).await, "by too many others");
        assert_eq!(sessions.lock().len(), MAX_SESSIONS);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_whole_already_stays_whole() {
        let sessions = Sessions::default();
        let id = sessions.begin();
        let body = sessions.get(id).expect("a session").bound(Body::from("all of it"));
        sessions.end(id);
        assert_eq!(body.collect().await.expect("no error").to_bytes(), "all of it");
    }
}
