//! The backlog against a list of lines, in memory and in a file, and over restarts.

use proptest::prelude::*;

use super::{
    super::backlog::{Backlog, Next, not_locked, second_path},
    *,
};

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<String>),
    Read,
    /// The process ends, and another one begins.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop::collection::vec("[a-z]{0,40}", 1..12).prop_map(Step::Append),
        3 => Just(Step::Read),
        1 => Just(Step::Restart),
    ]
}

fn lines(lines: &[String]) -> Vec<u8> {
    lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn lines_come_out_as_they_went_in(steps in prop::collection::vec(step(), 0..40), in_file in any::<bool>()) {
        let folder = Folder::new();
        let spool = folder.path("spool");
        let settings = settings(in_file.then_some(&*spool));
        let mut backlog = Backlog::open(&settings).unwrap();
        let mut model: VecDeque<String> = VecDeque::new();
        for step in steps {
            match step {
                Step::Append(new) => {
                    prop_assert!(backlog.append(&lines(&new)));
                    model.extend(new);
                }
                Step::Read if !model.is_empty() => {
                    let Next::Lines(read) = backlog.next(Duration::ZERO).unwrap() else {
                        panic!("something is there");
                    };
                    let count = read.iter().filter(|byte| **byte == b'\n').count();
                    prop_assert!((1..=7).contains(&count));
                    let expected: Vec<_> = model.drain(..count).collect();
                    prop_assert_eq!(&read, &lines(&expected));
                    backlog.forget(&read).unwrap();
                }
                Step::Restart if in_file => {
                    drop(backlog);
                    backlog = Backlog::open(&settings).unwrap();
                    // Stored lines may come again, until their file was emptied.
                    let all = in_files(&spool);
                    let count = |among: &[String], line| among.iter().filter(|other| *other == line).count();
                    for line in &model {
                        prop_assert!(count(&all, line) >= count(model.iter().cloned().collect::<Vec<_>>().as_slice(), line));
                    }
                    model = all.into();
                }
                Step::Read | Step::Restart => {}
            }
        }
        prop_assert_eq!(backlog.waiting(), model.len() as u64);
        backlog.close();
        while let Next::Lines(read) = backlog.next(Duration::from_secs(60)).unwrap() {
            let count = read.iter().filter(|byte| **byte == b'\n').count();
            prop_assert_eq!(&read, &lines(&model.drain(..count).collect::<Vec<_>>()));
            backlog.forget(&read).unwrap();
        }
        prop_assert!(model.is_empty());
    }
}

/// The lines of both files, as the next process reads them.
fn in_files(spool: &Path) -> Vec<String> {
    let texts = [spool, &second_path(spool)].map(|path| std::fs::read_to_string(path).unwrap());
    texts.concat().lines().map(str::to_owned).collect()
}

#[test]
fn the_files_stay_short_though_something_always_waits() {
    let folder = Folder::new();
    let spool = folder.path("spool");
    let settings = Settings {
        max_backlog: 2_000,
        ..settings(Some(&spool))
    };
    let backlog = Backlog::open(&settings).unwrap();
    let line = lines(&["x".repeat(99)]);
    let mut waiting = 0;
    for _ in 0..5_000 {
        while waiting < 15 {
            assert!(backlog.append(&line));
            waiting += 1;
        }
        let Next::Lines(read) = backlog.next(Duration::ZERO).unwrap() else {
            panic!("something is there");
        };
        waiting -= read.len() / 100;
        assert!(waiting > 0);
        backlog.forget(&read).unwrap();
        let lengths = [&*spool, &second_path(&spool)].map(|path| std::fs::metadata(path).unwrap().len());
        assert!(lengths[0] + lengths[1] <= 4_000, "{lengths:?}");
    }
}

#[test]
fn an_event_is_in_the_file_when_its_emission_returns() {
    let folder = Folder::new();
    let spool = folder.path("spool");
    let settings = Settings {
        max_backlog: 2_000,
        ..settings(Some(&spool))
    };
    let backlog = Arc::new(Backlog::open(&settings).unwrap());
    let (recorder, mut events) = Recorder::channel(1024);
    events.set_journal(backlog);
    let id = emit(&recorder, "u", [tokens(1)]);
    let written = in_files(&spool);
    assert_eq!(written.len(), 3);
    assert!(written.iter().all(|line| line.contains(&id)));
    // No emission waits for room: the events are queued, and the receiving thread waits.
    (0..10).for_each(|_| drop(emit(&recorder, "u", [tokens(1)])));
    let (written, mut queued) = (in_files(&spool).len(), Vec::new());
    while let Some((_, receipt)) = events.try_recv_with_receipt() {
        queued.push(receipt.is_written);
    }
    assert_eq!(queued.len(), 33);
    assert_eq!(queued.iter().filter(|is_written| **is_written).count(), written);
    assert!(written < 33);
}

#[test]
fn a_line_that_was_cut_off_is_forgotten() {
    let folder = Folder::new();
    let spool = folder.path("spool");
    let long = "x".repeat(200 << 10);
    for (text, whole) in [
        ("".to_owned(), ""),
        ("{\"half".to_owned(), ""),
        ("one\ntwo".to_owned(), "one\n"),
        (format!("one\n{long}"), "one\n"),
        ("one\ntwo\n".to_owned(), "one\ntwo\n"),
    ] {
        for file in [spool.clone(), second_path(&spool)] {
            std::fs::write(&file, &text).unwrap();
            drop(Backlog::open(&settings(Some(&spool))).unwrap());
            assert_eq!(std::fs::read_to_string(&file).unwrap(), whole);
        }
    }
}

#[test]
fn a_line_longer_than_one_read_comes_whole() {
    let folder = Folder::new();
    for spool in [None, Some(folder.path("spool"))] {
        let settings = Settings {
            batch: 1,
            ..settings(spool.as_deref())
        };
        let backlog = Backlog::open(&settings).unwrap();
        let long = ["x".repeat(3 << 20), "y".to_owned()];
        assert!(backlog.append(&lines(&long)));
        assert_eq!(backlog.next(Duration::ZERO).unwrap(), Next::Lines(lines(&long[..1])));
    }
}

#[test]
fn two_writers_do_not_share_a_spool() {
    let folder = Folder::new();
    let settings = settings(Some(&folder.path("spool")));
    let first = Backlog::open(&settings).unwrap();
    let second = Backlog::open(&settings).map(|_| ()).unwrap_err();
    assert_eq!(second.kind(), SqlErrorKind::Spool);
    assert!(second.to_string().contains("in use"), "{second}");
    // A file system without locks is not a lock that another process has.
    let broken = not_locked(std::fs::TryLockError::Error(io::ErrorKind::Unsupported.into()));
    assert_eq!(broken.kind(), SqlErrorKind::Spool);
    assert!(!broken.to_string().contains("in use"), "{broken}");
    drop(first);
    assert!(Backlog::open(&settings).is_ok());
}

#[test]
fn a_spool_that_cannot_be_opened_is_said() {
    let folder = Folder::new();
    let error = Backlog::open(&settings(Some(&folder.path("none").join("spool"))));
    assert_eq!(error.map(|_| ()).unwrap_err().kind(), SqlErrorKind::Spool);
}

#[test]
fn lines_that_are_no_events_are_set_aside() {
    let folder = Folder::new();
    let spool = folder.path("spool");
    std::fs::write(&spool, "not json\n{}\n{\"event\":\"party\"}\n\u{FFFD}\n").unwrap();
    let (recorder, events) = Recorder::channel(8);
    emit(&recorder, "u", []);
    drop(recorder);
    let summary = run(settings(Some(&spool)), Scripted::default(), events).unwrap();
    assert_eq!((summary.stored(), summary.set_aside()), (2, 4));
}
