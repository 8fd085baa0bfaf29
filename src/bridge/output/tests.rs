//! How the relay is kept while others do its work.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::*;
use crate::body::ResponseBody;
use crate::body::readers::Readers;
use crate::dialect::sse::Event;
use crate::dialect::turn::{Completion, ErrorWords};
use crate::rope::Rope;
use crate::types::Dialect;

const VAST: usize = 1 << 20;

/// A relay that says its name. While it reads an event it waits for whoever has the other end, if anybody does.
struct Named(&'static str, Option<mpsc::Receiver<()>>);

impl Relay for Named {
    fn begin_round(&mut self, _begun: bool) {}

    fn event(&mut self, _event: &Event<'_>, out: &mut BytesMut) -> Result<Progress, Fault> {
        if let Some(end) = &self.1 {
            let _ = end.recv();
        }
        out.extend_from_slice(b"event");
        Ok(Progress::Shown)
    }

    fn end(&mut self, _out: &mut BytesMut) -> bool {
        true
    }

    fn keep_alive(&mut self, out: &mut BytesMut) {
        out.extend_from_slice(self.0.as_bytes());
    }

    fn fail(&mut self, _error: ErrorWords<'_>, out: &mut BytesMut) {
        out.extend_from_slice(self.0.as_bytes());
    }

    fn msg_id(&self) -> &str {
        "id"
    }

    fn take_usage_changed(&mut self) -> bool {
        false
    }

    fn completion(&self) -> Completion {
        Completion::default()
    }

    fn turn(&mut self) -> Turn {
        Turn::default()
    }

    fn replay(&mut self) -> Rope {
        Rope::default()
    }

    fn held(&self) -> usize {
        0
    }
}

fn spare() -> Box<dyn Relay> {
    Box::new(Named("spare", None))
}

fn output(relay: Named, sink: Sink) -> Output {
    let intercepted = Intercepted {
        id: Uuid::nil(),
        key_attempts: 1,
    };
    Output::new(Box::new(relay), sink, oneshot::channel().0, intercepted)
}

fn vast_event() -> Decoder {
    let mut decoder = Decoder::new(2 * VAST);
    decoder.push(format!("data: {}\n\n", "x".repeat(VAST)).into());
    decoder
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_waits_for_a_place_is_kept_alive() {
    let (aside, sink) = (Aside::new(1), Sink::default());
    let (place, outlet) = (aside.place().await, sink.outlet());
    let left = Arc::new(Mutex::new(None));
    let (places, at_end) = (aside.clone(), Arc::clone(&left));
    let driver = Box::pin(async move {
        let mut output = output(Named("own", None), sink);
        output.silence.listen(Duration::from_secs(15));
        let mut decoder = vast_event();
        let relayed = output.relay_events(&mut decoder, usize::MAX, &places, spare).await;
        assert!(relayed.shows && relayed.fault.is_none());
        output.flush().await;
        assert_eq!(output.turn(VAST, &places, spare).await.calls.len(), 0);
        output.keep_alive().await;
        *at_end.lock().unwrap() = output.silence.pause();
    });
    let (readers, cut) = (Readers::default(), |_| Bytes::new());
    let mut body = ResponseBody::<Empty<Bytes>>::driven(driver, outlet, &readers, cut, Dialect::Messages);
    let mut next = async || {
        let frame = timeout(Duration::from_secs(60), body.frame())
            .await
            .expect("a keep-alive");
        frame.unwrap().unwrap().into_data().unwrap()
    };

    let begun = Instant::now();
    for seconds in [10, 20, 30] {
        assert_eq!(next().await, "own");
        assert_eq!((Instant::now() - begun).as_secs(), seconds);
    }
    drop(place);
    assert_eq!(next().await, "event");
    assert_eq!(next().await, "own", "its relay is back");
    assert!(body.frame().await.is_none());
    // The provider does not pay for our wait.
    assert_eq!(*left.lock().unwrap(), Some(Duration::from_secs(15)));
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_keep_alive_is_not_read_is_given_no_place() {
    let (aside, sink) = (Aside::new(1), Sink::default());
    let (place, outlet) = (aside.place().await, sink.outlet());
    let places = aside.clone();
    let driver = Box::pin(async move {
        let mut output = output(Named("own", None), sink);
        let _ = output.relay_events(&mut vast_event(), usize::MAX, &places, spare).await;
    });
    let (readers, cut) = (Readers::default(), |_| Bytes::new());
    let mut body = ResponseBody::<Empty<Bytes>>::driven(driver, outlet, &readers, cut, Dialect::Messages);
    let keep_alive = timeout(Duration::from_secs(60), body.frame()).await;
    assert_eq!(keep_alive.unwrap().unwrap().unwrap().into_data().unwrap(), "own");
    // Nobody polls the body from here on.
    drop(place);
    let _place = timeout(Duration::from_secs(60), aside.place())
        .await
        .expect("it is free");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_out_of_time_gets_its_relay_back() {
    let aside = Aside::new(1);
    let (end, ends) = mpsc::channel();
    let mut output = output(Named("own", Some(ends)), Sink::default());
    let mut decoder = vast_event();
    {
        let mut reading = pin!(output.relay_events(&mut decoder, usize::MAX, &aside, spare));
        // Time does not pass by itself while another thread is at work.
        assert!(timeout(Duration::ZERO, reading.as_mut()).await.is_err());
    }
    end.send(()).unwrap();
    output.recall().await;
    let failure = Failure::timeout();
    output.relay.fail(failure.words(), &mut output.out);
    assert_eq!(output.out, "eventown");
}

#[tokio::test(start_paused = true)]
async fn a_frame_of_many_events_is_relayed_in_runs() {
    let mut output = output(Named("own", None), Sink::default());
    let mut decoder = Decoder::new(VAST);
    decoder.push("data: 89\n\n".repeat(100).into());
    let mut runs = Vec::new();
    loop {
        let relayed = output.relay_events(&mut decoder, 95, &Aside::new(1), spare).await;
        runs.push(output.out.split().len() / "event".len());
        if !relayed.is_cut {
            break;
        }
    }
    // The last run finds that nothing is left.
    assert_eq!(runs, [10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_vast_event_without_its_end_is_read_on_another_thread() {
    let aside = Aside::new(1);
    let (end, ends) = mpsc::channel();
    let mut output = output(Named("own", Some(ends)), Sink::default());
    let mut decoder = Decoder::new(2 * VAST);
    decoder.push(format!("data: {}", "x".repeat(VAST)).into());
    assert!(!output.relay_events(&mut decoder, usize::MAX, &aside, spare).await.done);
    let mut ending = Box::pin(output.relay_end(&mut decoder, &aside, spare));
    assert!(timeout(Duration::ZERO, ending.as_mut()).await.is_err());
    end.send(()).unwrap();
    assert!(ending.await.done);
    assert_eq!(output.out, "event\n\n");
}
