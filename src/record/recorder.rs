//! The sending end of the channel: admits interceptions, and holds the settings of what they record.
//!
//! The queue itself is unbounded, so that an event is never waited for, nor lost. [`Places`] bounds what may enter it.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    Events, Fact, Interception,
    events::Sender,
    places::{Entry, Place, Places},
    price::{Price, Pricing},
    text::TextLimits,
};

const DEFAULT_WAIT: Duration = Duration::from_secs(5);
const DEFAULT_QUEUED_BYTES: usize = 256 << 20;

/// The sending end, which the layer gets; clones share the channel.
///
/// See the [module docs](super) for an example.
#[derive(Clone)]
pub struct Recorder {
    sender: Sender,
    places: Arc<Places>,
    allow_unrecorded: bool,
    wait: Duration,
    limits: TextLimits,
    pricing: Option<Pricing>,
}

/// Why an interception was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// No place came free in time: the consumer is behind, or the actor holds its share.
    Busy,
    /// The consumer is gone.
    Closed,
}

// === impl Recorder ===

impl Recorder {
    /// Makes a channel that admits `max_interceptions` at a time, counted from the start of each until its last event is
    /// received. 0 counts as 1.
    #[must_use]
    pub fn channel(max_interceptions: usize) -> (Self, Events) {
        let places = Places::new(max_interceptions, DEFAULT_QUEUED_BYTES);
        let (sender, events) = Events::channel(Arc::clone(&places));
        let recorder = Self {
            sender,
            places,
            allow_unrecorded: false,
            wait: DEFAULT_WAIT,
            limits: TextLimits::default(),
            pricing: None,
        };
        (recorder, events)
    }

    /// Lets requests through unrecorded when [`Events`] was dropped. A consumer that is only slow still holds them
    /// back.
    #[must_use]
    pub fn allow_unrecorded(mut self) -> Self {
        self.allow_unrecorded = true;
        self
    }

    /// How long a request waits for its place before it is answered 503; 5 s by default.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// How many places one actor may hold once half of all are taken; an eighth of all by default. 0 counts as 1.
    /// Requests without an [`Actor`](crate::Actor) have no such limit.
    ///
    /// This holds for all clones.
    #[must_use]
    pub fn max_places_per_actor(self, places: usize) -> Self {
        self.places.set_actor_places(places);
        self
    }

    /// How many bytes of events may wait to be received before new requests wait as for a place; 256 MiB by default.
    /// Requests that have a place go on, and record all that they do.
    ///
    /// This holds for all clones.
    #[must_use]
    pub fn max_queued_bytes(self, bytes: usize) -> Self {
        self.places.set_max_queued(bytes);
        self
    }

    /// The longest prompt, thought, tool error, metadata value or JSON of arguments that is recorded whole, in bytes;
    /// 64 KiB by default. A longer one is cut, and ends with a note of its length; longer arguments become cut text.
    #[must_use]
    pub fn max_text(mut self, bytes: usize) -> Self {
        self.limits.text = bytes;
        self
    }

    /// The longest id, name, path or client header that is recorded whole, in bytes; 1 KiB by default. A longer one is
    /// cut, and ends with a note of its length.
    #[must_use]
    pub fn max_id(mut self, bytes: usize) -> Self {
        self.limits.id = bytes;
        self
    }

    /// Sets the hook that says what a round cost; without one, no event has a cost. See [`Price`] for an example.
    ///
    /// A model without a price is named in the log once, and its rounds have the cost `null`, never 0.
    #[must_use]
    pub fn price(mut self, price: impl Price) -> Self {
        self.pricing = Some(Pricing::new(price));
        self
    }

    /// How many interceptions could begin now; for a metric.
    #[must_use]
    pub fn free_places(&self) -> usize {
        self.places.free()
    }

    /// Whether [`Events`] was dropped, so that nothing is recorded any more; for a check of readiness.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.places.is_closed()
    }

    /// Admits an interception of `actor` and records the result of `started`, once it is admitted.
    ///
    /// # Errors
    ///
    /// [`Unavailable::Busy`] when no place came free in time; [`Unavailable::Closed`] at once when the consumer is gone
    /// or goes, unless the user chose to run on unrecorded.
    pub(crate) async fn begin(
        &self,
        actor: Option<&str>,
        started: impl FnOnce() -> Fact,
    ) -> Result<Interception, Unavailable> {
        match self.place(actor).await {
            Ok(place) => {
                let started = started();
                let priced = self.pricing.as_ref().and_then(|pricing| pricing.begin(&started));
                Ok(Interception::begin(
                    self.sender.clone(),
                    place,
                    self.limits,
                    priced,
                    started,
                ))
            }
            Err(Unavailable::Closed) if self.allow_unrecorded => Ok(Interception::unrecorded()),
            Err(unavailable) => Err(unavailable),
        }
    }

    async fn place(&self, actor: Option<&str>) -> Result<Place, Unavailable> {
        // Most find a place free, and need no timer.
        let waiting = match self.places.enter(actor) {
            Entry::Taken(place) => return Ok(place),
            Entry::Closed => return Err(Unavailable::Closed),
            Entry::Waits(waiting) => waiting,
        };
        match tokio::time::timeout(self.wait, waiting.place()).await {
            Ok(Some(place)) => Ok(place),
            Ok(None) => Err(Unavailable::Closed),
            Err(_elapsed) => Err(Unavailable::Busy),
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("free_places", &self.places.free())
            .field("queued_bytes", &self.places.queued())
            .field("is_closed", &self.places.is_closed())
            .field("allow_unrecorded", &self.allow_unrecorded)
            .finish_non_exhaustive()
    }
}
