//! What is a flood, and what only looks like one.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tokio::time::advance;

use super::*;

fn message(value: serde_json::Value) -> RxJsonRpcMessage<RoleClient> {
    serde_json::from_value(value).unwrap()
}

fn ping() -> RxJsonRpcMessage<RoleClient> {
    message(json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" }))
}

fn answer(id: i64) -> RxJsonRpcMessage<RoleClient> {
    message(json!({ "jsonrpc": "2.0", "id": id, "result": {} }))
}

/// Takes what is sent, until it is broken.
struct Wire(Arc<AtomicBool>);

impl Transport<RoleClient> for Wire {
    type Error = io::Error;

    fn send(&mut self, _item: TxJsonRpcMessage<RoleClient>) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let is_broken = self.0.load(Ordering::Relaxed);
        std::future::ready(if is_broken {
            Err(io::ErrorKind::BrokenPipe.into())
        } else {
            Ok(())
        })
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        None
    }

    async fn close(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_messages_a_second_pass_for_ever() {
    let flood = Flood::default();
    for _ in 0..50 {
        for _ in 0..MAX_UNSOLICITED {
            assert!(flood.pass(ping()).is_some());
        }
        advance(WINDOW).await;
    }
    assert_eq!(flood.reason(), None);
}

#[tokio::test(start_paused = true)]
async fn more_end_the_session() {
    let flood = Flood::default();
    for _ in 0..MAX_UNSOLICITED {
        flood.pass(ping());
    }
    assert!(flood.pass(ping()).is_none());
    advance(WINDOW).await;
    assert!(flood.pass(ping()).is_none(), "it does not recover");
    assert!(flood.noticed().await.contains("nobody asked for"));
}

#[tokio::test(start_paused = true)]
async fn answers_are_not_counted_and_progress_is_thrown_away() {
    let flood = Flood::default();
    for id in 0..5_000 {
        flood.ask(RequestId::Number(id));
        assert!(flood.pass(answer(id)).is_some());
    }
    let progress = json!({ "jsonrpc": "2.0", "method": "notifications/progress",
        "params": { "progressToken": 1, "progress": 1 } });
    for _ in 0..MAX_PROGRESS {
        assert!(flood.pass(message(progress.clone())).is_none());
    }
    assert_eq!(flood.reason(), None);
    flood.pass(message(progress));
    assert!(flood.reason().is_some());
}

#[tokio::test(start_paused = true)]
async fn answers_that_nobody_asked_for_are_a_flood() {
    let flood = Flood::default();
    flood.ask(RequestId::Number(7));
    flood.ask(RequestId::Number(8));
    for _ in 0..=MAX_UNSOLICITED {
        assert!(flood.pass(answer(7)).is_some());
    }
    assert!(flood.pass(answer(7)).is_none());
    assert!(flood.noticed().await.contains("nobody asked for"));
}

#[tokio::test(start_paused = true)]
async fn few_messages_of_many_bytes_are_a_flood() {
    let flood = Flood::default();
    for _ in 0..2 {
        flood.count_read(&vec![b'x'; 2 << 20]);
        assert!(flood.pass(ping()).is_some());
    }
    // An expected answer has no limit here.
    flood.ask(RequestId::Number(1));
    flood.count_read(&vec![b'x'; 8 << 20]);
    assert!(flood.pass(answer(1)).is_some());
    flood.count_read(b"x");
    assert!(flood.pass(ping()).is_none());
}

#[cfg(feature = "mcp-http")]
#[tokio::test(start_paused = true)]
async fn events_side_by_side_are_not_taken_for_each_other() {
    let flood = Flood::default();
    let vast = |id: i64| json!({ "jsonrpc": "2.0", "result": { "x": "y".repeat(4 << 20) }, "id": id }).to_string();
    for id in 0..8 {
        flood.ask(RequestId::Number(id));
    }
    for id in 0..8 {
        flood.count_event(&vast(id));
    }
    // This was sent after the answers, and is read before them.
    assert!(flood.pass(ping()).is_some());
    for id in 0..8 {
        assert!(flood.pass(answer(id)).is_some());
    }
    assert_eq!(flood.reason(), None);

    for data in [
        vast(7),
        vast(8),
        json!({ "method": "x", "id": 9, "params": "y".repeat(4 << 20) }).to_string(),
    ] {
        let flood = Flood::default();
        flood.ask(RequestId::Number(7));
        flood.ask(RequestId::Number(9));
        flood.count_event(&vast(7));
        assert_eq!(flood.reason(), None);
        flood.count_event(&data);
        assert!(flood.reason().is_some(), "{}", &data[data.len() - 20..]);
    }
}

#[cfg(feature = "mcp-http")]
#[tokio::test(start_paused = true)]
async fn events_without_a_message_are_counted() {
    for data in ["", "oops", "{}", "[1]", "null", r#"{"id":1.5}"#] {
        let flood = Flood::default();
        for _ in 0..MAX_IDLE_LINES {
            flood.count_event(data);
        }
        assert_eq!(flood.reason(), None, "{data}");
        flood.count_event(data);
        assert!(flood.reason().is_some(), "{data}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_given_up_may_be_answered_once() {
    let (flood, sent) = (Flood::default(), Arc::default());
    let mut guarded = Guarded::new(Wire(Arc::clone(&sent)), flood.clone());
    let mut send = async |value: serde_json::Value| {
        let sending = guarded.send(serde_json::from_value(value).unwrap());
        sending.await
    };
    let calls = i64::from(MAX_UNSOLICITED) + 100;
    let call = |id: i64| json!({ "jsonrpc": "2.0", "id": id, "method": "ping" });
    for id in 0..calls {
        send(call(id)).await.unwrap();
        let params = json!({ "requestId": id });
        send(json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params }))
            .await
            .unwrap();
    }
    assert!(flood.0.counts.lock().unwrap().asked.open.is_empty());
    for id in 0..calls {
        assert!(flood.pass(answer(id)).is_some(), "it was on its way");
    }
    assert_eq!(flood.reason(), None);
    for id in 0..=i64::from(MAX_UNSOLICITED) {
        flood.pass(answer(id));
    }
    assert!(flood.reason().is_some(), "and no second time");

    sent.store(true, Ordering::Relaxed);
    assert!(send(call(calls)).await.is_err());
    assert!(flood.0.counts.lock().unwrap().asked.open.is_empty(), "it never left");
}

#[test]
fn only_so_many_calls_that_were_given_up_are_remembered() {
    let mut asked = Asked::default();
    for id in 0..1_000 {
        asked.open.insert(RequestId::Number(id), false);
        asked.give_up(RequestId::Number(id));
    }
    assert_eq!(asked.given_up.len(), MAX_GIVEN_UP);
    assert!(asked.answer(&RequestId::Number(999)) && !asked.answer(&RequestId::Number(0)));
}

#[tokio::test(start_paused = true)]
async fn lines_are_counted_unless_they_are_messages() {
    let flood = Flood::default();
    for _ in 0..5 * MAX_IDLE_LINES {
        flood.count_read(b"{}\n");
        flood.ask(RequestId::Number(1));
        flood.pass(answer(1));
    }
    assert_eq!(flood.reason(), None);
    for _ in 0..=MAX_IDLE_LINES {
        flood.count_read(b"oops\n");
    }
    assert!(flood.reason().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_line_without_an_end_is_noticed_however_slow() {
    let flood = Flood::default();
    for _ in 0..=MAX_IDLE_BYTES >> 16 {
        flood.count_read(&[b'x'; 1 << 16]);
        advance(WINDOW).await;
    }
    assert!(flood.reason().is_some());
}
