//! The page's memory is bounded, and shows the same from memory as from a database.

use tower_llm_bridge::record::{Recorder, price::ListPrices, sql::SqliteSink};

use super::*;
use crate::page::{
    hours::{self, HOURS},
    past,
};

#[tokio::test]
async fn memory_is_bounded_whatever_comes() {
    let page = Page::new();
    let mut observe = page.observer();
    let router = router(page);
    let start = now() - 3_600_000;
    let (mut unended, mut events) = (0, 0);
    for number in 0..30_000_u64 {
        let model = format!("model-{}-{}", number % 10_000, "x".repeat(200));
        let at = match number % 100 {
            0 if number % 10_000 == 0 => number * 360_000_000, // A clock that leaps.
            1 => 0,
            _ => start + number * 100,
        };
        let request = request(at, &model, Some(&format!("actor-{number}")), Some("0.000001"));
        // A third of them never ends.
        let seen = if number % 3 == 0 { 3 } else { 4 };
        unended += u64::from(seen == 3);
        for event in &request[..seen] {
            observe(event);
            events += 1;
        }
    }
    assert!(events > 100_000 && unended == 10_000);
    let mut feed = ask(&router, Method::GET, "/api/events", &[], Value::Null)
        .await
        .into_body();
    let all = message(&mut feed).await;
    assert_eq!(
        all["totals"],
        json!({ "started": 30_000, "ended": 20_000, "running": 8192 })
    );
    assert_eq!(
        (
            all["running"].as_array().map(Vec::len),
            all["ended"].as_array().map(Vec::len)
        ),
        (Some(50), Some(100))
    );
    assert_eq!(all["tools"].as_array().map(Vec::len), Some(513));
    let tools = all["tools"].as_array().into_iter().flatten();
    assert_eq!(
        tools.filter_map(|tool| tool["calls"].as_u64()).sum::<u64>(),
        30_000,
        "none is lost among the others"
    );
    assert!(all.to_string().len() < 300_000, "{}", all.to_string().len());
    for range in ["hours", "days"] {
        let pictures = history(&router, range).await;
        for by in ["models", "actors"] {
            let names: Vec<_> = pictures[by]
                .as_array()
                .into_iter()
                .flatten()
                .map(|one| &one["name"])
                .collect();
            assert_eq!((names.len(), names[11]), (12, &json!("other")));
        }
        let requests: u64 = pictures["times"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|time| time["requests"].as_u64())
            .sum();
        let tokens = |by: &str| -> u64 {
            let points = pictures[by]
                .as_array()
                .into_iter()
                .flatten()
                .flat_map(|one| one["points"].as_array().into_iter().flatten());
            points.filter_map(|point| point["input"].as_u64()).sum()
        };
        assert_eq!(
            (tokens("models"), tokens("actors")),
            (7 * requests, 7 * requests),
            "none is lost among the others"
        );
        assert!(pictures.to_string().len() < 100_000);
    }
}

#[test]
fn a_clock_that_leaps_keeps_the_hours_bounded_and_in_order() {
    let page = Page::new();
    let mut observe = page.observer();
    for hour in (0..500).chain((0..500).rev()) {
        request(hour * 3_600_000, "gpt-4o", None, None)
            .iter()
            .for_each(&mut observe);
    }
    let count = |ledger: &Ledger| ledger.hours.since(0).map(|hour| hour.counts().requests).sum::<u64>();
    assert_eq!(
        count(&lock(&page.ledger)),
        500 + 48,
        "what comes late counts to the oldest hour"
    );
    for hour in [0, 1_000_000, 7, 900] {
        request(hour * 3_600_000, "gpt-4o", None, None)
            .iter()
            .for_each(&mut observe);
    }
    let ledger = lock(&page.ledger);
    let hours: Vec<u64> = ledger.hours.since(0).map(hours::Hour::at).collect();
    assert_eq!(hours.len(), HOURS);
    assert!(hours.is_sorted(), "{hours:?}");
    assert_eq!(hours.last(), Some(&(1_000_000 * 3600)));
}

#[tokio::test]
async fn a_database_and_memory_tell_the_same_past() {
    let folder = std::env::temp_dir().join(format!("page-{}", Uuid::now_v7()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("records.db");
    let sink = SqliteSink::open(&file).expect("a database");
    let page = Page::new();
    let (recorder, events) = Recorder::channel(1024);
    let events = events.inspect(page.observer());
    let writer = std::thread::spawn(move || sink.run(events));
    let service = service_fn(|request: Request<RequestBody<Full<Bytes>>>| async move {
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        let asked: Value = serde_json::from_slice(&body).expect("JSON");
        let reply = json!({ "id": "chatcmpl-1", "model": asked["model"], "choices": [{ "message": { "role": "assistant", "content": "Hi" } }],
            "usage": { "prompt_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": { "cached_tokens": 5 } } });
        Ok::<_, Infallible>(Response::new(Full::from(reply.to_string())))
    });
    let pool = KeyPool::from_secrets([KEY]).expect("a key");
    let prices = ListPrices::of("openai");
    let service = BridgeLayer::new()
        .pool(pool)
        .recorder(recorder.price(prices))
        .layer(service);
    for number in 0..40 {
        let model = match number % 20 {
            0 => HOSTILE.to_owned(),
            1..5 => "gpt-4o".to_owned(),
            other => format!("model-{other}"),
        };
        let asked = json!({ "model": model, "messages": [{ "role": "user", "content": format!("say {HOSTILE}") }] });
        let request = Request::post("/v1/chat/completions")
            .body(Full::from(asked.to_string()))
            .expect("a request");
        let answer = service.clone().oneshot(request).await.expect("an answer");
        answer.into_body().collect().await.expect("a whole body");
    }
    drop(service);
    writer.join().expect("no panic").expect("no error");

    let kept = router(Page {
        ledger: Arc::clone(&page.ledger),
        ..Page::new()
    });
    let stored = router(page.history(Some(History::sqlite(&file))));
    for range in ["hours", "days"] {
        let (mut memory, mut database) = (history(&kept, range).await, history(&stored, range).await);
        assert_eq!(
            (memory["source"].take(), database["source"].take()),
            (json!("memory"), json!("database"))
        );
        assert_eq!(
            (memory["max_age"].take(), database["max_age"].take()),
            (json!(4), json!(20))
        );
        assert_eq!(memory, database);
        assert_eq!(memory["models"][0]["name"], json!("gpt-4o"));
        assert!(memory["models"][0]["points"][0]["costs"][0]["amount"].is_string());
        assert_eq!(memory["models"].as_array().map(Vec::len), Some(12));
    }
    let mut feed = ask(&stored, Method::GET, "/api/events", &[], Value::Null)
        .await
        .into_body();
    let all = message(&mut feed).await;
    assert_eq!(all["has_prompts"], json!(true));
    assert!(!all.to_string().contains("say <"), "prompts are fetched one by one");
    let id = all["ended"][0]["id"].as_str().expect("an id").to_owned();
    let (status, _, body) = get(&stored, &format!("/api/prompt/{id}")).await;
    assert_eq!(
        (status, serde_json::from_str::<Value>(&body).expect("JSON")),
        (StatusCode::OK, json!({ "prompts": [format!("say {HOSTILE}")] }))
    );
    let (_, _, body) = get(&stored, &format!("/api/prompt/{}", Uuid::now_v7())).await;
    assert_eq!(body, r#"{"prompts":[]}"#);
    for wrong in ["%27%20OR%201=1%20--", "1"] {
        assert_eq!(
            get(&stored, &format!("/api/prompt/{wrong}")).await.0,
            StatusCode::NOT_FOUND
        );
    }
    std::fs::remove_dir_all(&folder).expect("the folder goes");
    let broken = router(Page::new().history(Some(History::sqlite(&file))));
    let (status, _, body) = get(&broken, "/api/history/hours").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!body.contains("records.db"), "{body}");
}

#[test]
fn the_address_of_a_database_is_not_repeated() {
    let problem = History::postgres("postgres://user:s3cret@[/x")
        .err()
        .expect("it cannot be read");
    assert!(!problem.contains("s3cret"), "{problem}");
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_back_is_read_again() {
    let folder = std::env::temp_dir().join(format!("page-{}", Uuid::now_v7()));
    let file = folder.join("records.db");
    let router = router(Page::new().history(Some(History::sqlite(&file))));
    assert_eq!(
        get(&router, "/api/history/hours").await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
    std::fs::create_dir_all(&folder).expect("a folder");
    drop(SqliteSink::open(&file).expect("a database"));
    tokio::time::advance(past::REST).await;
    assert_eq!(history(&router, "hours").await["source"], json!("database"));
    std::fs::remove_dir_all(&folder).expect("the folder goes");
}
