//! The targets of records: a database, a file that is rotated, and one that is deleted while it is written.

use std::{ffi::OsStr, fs};

use http::{Method, StatusCode};

use crate::harness::{Gateway, scratch};
use crate::records::Records;

#[tokio::test]
async fn sighup_opens_the_record_file_anew_and_no_record_is_lost() {
    let mut gateway = Gateway::start(&[]).await;
    assert_eq!(gateway.ask("before").await.0, StatusCode::OK);
    // The writer lags by milliseconds: a line written after the move would land in the moved file.
    let rotated = scratch("jsonl.1");
    fs::rename(&gateway.records, &rotated).expect("the file is there");
    gateway.signal_by_name("HUP").await;
    gateway.until_logged("will be opened anew").await;
    assert_eq!(gateway.ask("after").await.0, StatusCode::OK);
    gateway.until_logged("the record file is opened anew").await;

    let records = gateway.records.clone();
    gateway.signal().await;
    let (status, log, _) = gateway.end_unread().await;
    assert_eq!(status.code(), Some(0), "{log}");
    let all = [&rotated, &records].map(|path| fs::read_to_string(path).expect("both are there"));
    assert!(all[1].contains(r#""prompt":"after""#), "{all:?}");
    let joined = scratch("joined.jsonl");
    fs::write(&joined, all.concat()).expect("a file can be written");
    assert_eq!(Records::read(&joined).outcomes()["completed"], 2);
}

#[tokio::test]
async fn a_deleted_record_file_is_an_error_in_the_log_and_a_new_one_takes_its_place() {
    let mut gateway = Gateway::start(&[]).await;
    fs::remove_file(&gateway.records).expect("the file is there");
    assert_eq!(gateway.ask("still recorded").await.0, StatusCode::OK);
    gateway.until_logged("the record file was deleted").await;
    gateway.signal().await;
    let (status, log, records) = gateway.end().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(records.outcomes()["completed"], 1);
}

#[tokio::test]
async fn records_go_to_sqlite() {
    let file = scratch("db");
    let target = format!("sqlite:{}", file.display());
    let arguments = ["--record", &target].map(OsStr::new);
    let gateway = Gateway::start_recording(&arguments, scratch("none")).await;
    assert_eq!(gateway.ask("stored").await.0, StatusCode::OK);
    gateway.signal().await;
    let (status, log, _) = gateway.end().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("all records are written"), "{log}");
    // The sink's own tests read it back; here the prompt's text in the file is enough.
    let stored = fs::read(&file).expect("the database is there");
    assert!(stored.windows(6).any(|bytes| bytes == b"stored"));
}

#[tokio::test]
async fn a_record_writer_that_ends_while_requests_are_served_is_an_error_in_the_log_at_once() {
    let file = scratch("db");
    // No spool can be opened there.
    fs::create_dir_all(format!("{}.spool", file.display())).expect("a folder can be made");
    let target = format!("sqlite:{}", file.display());
    let arguments = ["--record", &target].map(OsStr::new);
    let mut gateway = Gateway::start_recording(&arguments, scratch("none")).await;
    gateway.until_logged("the record writer ended").await;
    assert_eq!(gateway.ask("unrecorded").await.0, StatusCode::SERVICE_UNAVAILABLE);
    let (head, reason) = gateway.ask_admin(Method::GET, "/readyz", &[]).await;
    assert_eq!(
        (head.status, reason.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "the record writer has ended\n")
    );
    gateway.signal().await;
    let (status, log, _) = gateway.end().await;
    assert_eq!(status.code(), Some(1), "{log}");
}
