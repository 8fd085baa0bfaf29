//! The decoder on whole streams and on every way to cut them, against a decoder without frames.

use bytes::Bytes;
use proptest::prelude::*;

use super::{Decoder, Event, PIECE, TooLong, missing_end};

const MAX: usize = 1 << 20;

/// All that is seen of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    raw: Vec<u8>,
    /// `None` if there is no `data` field.
    data: Option<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stream {
    events: Vec<Seen>,
    /// With whether the last line has its end.
    rest: Option<(Seen, bool)>,
}

fn see(event: Event<'_>) -> Seen {
    let data = event.data();
    for (offset, &byte) in data.iter().enumerate() {
        let raw = event.raw()[event.raw_offset(offset)];
        assert!(raw == byte || (byte == b'\n' && raw == b'\r'));
    }
    assert!(event.has_data() || data.is_empty());
    Seen {
        raw: event.raw().to_vec(),
        data: event.has_data().then(|| data.to_vec()),
    }
}

/// Decodes frames; a late LF goes to the event that it belongs to.
fn decode(frames: &[&[u8]], max: usize) -> Result<Stream, TooLong> {
    let mut decoder = Decoder::new(max);
    let mut events: Vec<Seen> = Vec::new();
    for frame in frames {
        decoder.push(Bytes::copy_from_slice(frame));
        while let Some(event) = decoder.next()? {
            let seen = see(event);
            if event.is_tail() {
                assert_eq!(
                    seen,
                    Seen {
                        raw: b"\n".to_vec(),
                        ..Seen::default()
                    }
                );
                events.last_mut().unwrap().raw.push(b'\n');
            } else {
                events.push(seen);
            }
        }
    }
    let rest = decoder
        .finish()
        .map(|rest| (see(rest), missing_end(rest.raw()).len() == 1));
    Ok(Stream { events, rest })
}

/// The same by the letter of the standard, line by line, from the whole stream.
fn model(stream: &[u8]) -> Stream {
    let mut events = Vec::new();
    let mut seen = Seen::default();
    let mut rest = stream;
    let mut line_ended = true;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
        let len = end.map_or(rest.len(), |end| {
            if rest[end..].starts_with(b"\r\n") {
                end + 2
            } else {
                end + 1
            }
        });
        line_ended = end.is_some();
        let mut line = &rest[..end.unwrap_or(rest.len())];
        if rest.len() == stream.len() {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        seen.raw.extend_from_slice(&rest[..len]);
        rest = &rest[len..];
        if line.is_empty() && line_ended {
            events.push(std::mem::take(&mut seen));
            continue;
        }
        if line.is_empty() {
            continue;
        }
        let colon = line.iter().position(|&byte| byte == b':');
        let value = colon.map_or(&b""[..], |colon| &line[colon + 1..]);
        if &line[..colon.unwrap_or(line.len())] == b"data" {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &mut seen.data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                data => *data = Some(value.to_vec()),
            }
        }
    }
    let rest = (!seen.raw.is_empty()).then_some((seen, line_ended));
    Stream { events, rest }
}

fn check(stream: &[u8]) {
    let expected = model(stream);
    for cut in 0..=stream.len() {
        let (left, right) = stream.split_at(cut);
        assert_eq!(decode(&[left, right], MAX).unwrap(), expected, "cut at {cut}");
    }
    let bytes: Vec<_> = stream.chunks(1).collect();
    assert_eq!(decode(&bytes, MAX).unwrap(), expected, "byte by byte");
    let raw = expected
        .events
        .iter()
        .chain(expected.rest.iter().map(|(rest, _)| rest))
        .flat_map(|seen| &seen.raw);
    assert!(raw.eq(stream), "bytes were lost");
}

/// The payloads of a stream's events, without those that have none.
fn payloads(stream: &[u8]) -> Vec<String> {
    check(stream);
    let events = model(stream).events;
    events
        .into_iter()
        .filter_map(|seen| seen.data)
        .map(|data| String::from_utf8(data).unwrap())
        .collect()
}

#[test]
fn reads_as_the_standard_says() {
    let cases: &[(&str, &[&str])] = &[
        ("", &[]),
        ("data: a\n\n", &["a"]),
        ("data: a\r\n\r\n", &["a"]),
        ("data: a\r\r", &["a"]),
        ("data: a\r\n\n", &["a"]),
        ("data: a\n\r\n", &["a"]),
        ("data: a\r\n\r", &["a"]),
        ("data: a\n\rdata: b\r\n\r\n\r\n\rdata:c\n\n", &["a", "b", "c"]),
        (
            "data:a\n\ndata:  b\n\ndata: \n\ndata:\n\ndata\n\n",
            &["a", " b", "", "", ""],
        ),
        ("data: a\ndata:b\r\ndata\rdata: d\n\n", &["a\nb\n\nd"]),
        ("data\ndata\n\n", &["\n"]),
        ("event: x\nid: 1\nretry: 2\ndata: a\nid: 3\n\n", &["a"]),
        ("event: x\n\nid\n\n:\n\n", &[]),
        (": a comment\ndata: a\n: more\n\n", &["a"]),
        (
            ":data: a\n\n data: b\n\nData: c\n\ndata : d\n\ndatax: e\n\ndat\n\n",
            &[],
        ),
        ("\u{feff}data: a\n\n\u{feff}data: b\n\n", &["a"]),
        ("\u{feff}\n\u{feff}data: a\n\ndata: b\n\n", &["b"]),
        ("\u{feff}\u{feff}data: a\n\n", &[]),
        ("\n\n\ndata: a\n\n\n\n", &["a"]),
        ("data: a:b: c\n\n", &["a:b: c"]),
        ("data: a\0b\n\n", &["a\0b"]),
        ("data: a\n", &[]),
        ("data: a", &[]),
    ];
    for (stream, expected) in cases {
        assert_eq!(payloads(stream.as_bytes()), *expected, "{stream:?}");
    }
}

#[test]
fn a_final_cr_completes_an_event_and_its_lf_comes_late() {
    let mut decoder = Decoder::new(MAX);
    decoder.push(Bytes::from_static(b"data: a\r\n\r"));
    assert_eq!(decoder.next().unwrap().unwrap().raw(), b"data: a\r\n\r");
    assert!(decoder.next().unwrap().is_none());
    decoder.push(Bytes::from_static(b"\ndata: b\r\n\r\n"));
    let tail = decoder.next().unwrap().unwrap();
    assert!(tail.is_tail() && !tail.has_data());
    assert_eq!(tail.raw(), b"\n");
    // Within one frame it comes along.
    assert_eq!(decoder.next().unwrap().unwrap().raw(), b"data: b\r\n\r\n");
    assert!(decoder.next().unwrap().is_none());
    assert!(decoder.finish().is_none());
}

#[test]
fn what_is_left_at_the_end_says_how_far_it_got() {
    let rest = |stream: &[u8]| {
        check(stream);
        decode(&[stream], MAX).unwrap().rest
    };
    assert_eq!(rest(b"data: a\n\n"), None);
    let (seen, line_ended) = rest(b"data: a\n\ndata: [DONE]\n").unwrap();
    assert_eq!((seen.data.as_deref(), line_ended), (Some(&b"[DONE]"[..]), true));
    let (seen, line_ended) = rest(b"data: {\"a\":").unwrap();
    assert_eq!((seen.data.as_deref(), line_ended), (Some(&b"{\"a\":"[..]), false));
    assert_eq!(rest(b": bye").unwrap().0.data, None);
    assert_eq!(rest(b"\xEF\xBB\xBF").unwrap().0.data, None);
}

#[test]
fn events_in_one_frame_are_not_copied() {
    let frame = Bytes::from_static(b"data: a\n\ndata: b\n\n");
    let mut decoder = Decoder::new(MAX);
    decoder.push(frame.clone());
    for start in [0, 9] {
        let event = decoder.next().unwrap().unwrap();
        assert_eq!(event.raw().as_ptr(), frame[start..].as_ptr());
        assert_eq!(event.data().as_ptr(), frame[start + 6..].as_ptr());
    }
    assert_eq!(decoder.held.capacity() + decoder.joined.capacity(), 0);
}

#[test]
fn frames_pushed_too_early_are_not_lost() {
    let mut decoder = Decoder::new(MAX);
    decoder.push(Bytes::from_static(b"data: a\n\ndata"));
    decoder.push(Bytes::from_static(b": b\n\n"));
    assert_eq!(decoder.next().unwrap().unwrap().data(), b"a");
    assert_eq!(decoder.next().unwrap().unwrap().data(), b"b");
}

#[test]
fn a_range_over_two_lines_maps_to_what_joins_them_too() {
    let mut decoder = Decoder::new(MAX);
    decoder.push(Bytes::from_static(b":x\r\ndata: {\"a\":\r\ndata:1}\r\n\r\n"));
    let event = decoder.next().unwrap().unwrap();
    assert_eq!(event.data(), b"{\"a\":\n1}");
    let map = |start, end| &event.raw()[event.raw_offset(start)..event.raw_offset(end)];
    assert_eq!(map(1, 4), b"\"a\"");
    assert_eq!(map(6, 7), b"1");
    assert_eq!(map(4, 7), b":\r\ndata:1");
    assert_eq!(map(0, 8), b"{\"a\":\r\ndata:1}");
}

#[test]
fn too_long_is_too_long_however_it_comes() {
    for (stream, len) in [
        (&b"data: 12345\n\n"[..], 13),
        (b"data: 12345\r\n\r\n", 14),
        (b"data: 12345\r\r", 13),
        (b"data: 12345", 11),
        (b"data: 12345\r\n", 13),
        (b"data: 1\ndata: 2\n\n", 17),
    ] {
        for cut in 0..=stream.len() {
            let (left, right) = stream.split_at(cut);
            let repeated = [b"data: x\n\n", left].concat();
            assert!(decode(&[left, right], len).is_ok(), "{stream:?} cut at {cut}");
            assert_eq!(
                decode(&[left, right], len - 1),
                Err(TooLong { max_event: len - 1 }),
                "{stream:?} cut at {cut}"
            );
            assert_eq!(
                decode(&[&repeated, right], len - 1),
                Err(TooLong { max_event: len - 1 }),
                "{stream:?} cut at {cut}"
            );
        }
    }
    let mut decoder = Decoder::new(10);
    decoder.push(Bytes::from_static(b"data: 1234"));
    assert!(decoder.next().unwrap().is_none());
    decoder.push(Bytes::from_static(b"5"));
    let error = decoder.next().unwrap_err();
    assert_eq!(error.to_string(), "a server-sent event has more than 10 bytes");
    assert_eq!(decoder.held.capacity(), 0);
    decoder.push(Bytes::from_static(b"\n\n"));
    assert_eq!(decoder.next().unwrap_err(), error);
    assert!(decoder.finish().is_none());
}

#[test]
fn time_is_linear_and_memory_reused() {
    const LEN: usize = 1 << 17;
    for (line, ends) in [(LEN - 100, "\n\n"), (1000, "\r\n"), (7, "\r")] {
        let stream = format!("data:{}{ends}", "x".repeat(line)).repeat(LEN / line);
        let mut decoder = Decoder::new(2 * LEN);
        for byte in stream.as_bytes().chunks(1) {
            decoder.push(Bytes::copy_from_slice(byte));
            while let Some(event) = decoder.next().unwrap() {
                assert!(event.has_data());
            }
            assert_eq!(decoder.at, decoder.frame.len(), "no byte is searched twice");
        }
    }
    let mut decoder = Decoder::new(MAX);
    let event = "data: a\ndata: b\n\n";
    let mut capacity = 0;
    for round in 0..100 {
        for frame in event.as_bytes().chunks(5) {
            decoder.push(Bytes::copy_from_slice(frame));
            while decoder.next().unwrap().is_some() {}
        }
        assert!(decoder.held.capacity() > 0 && decoder.joined.capacity() > 0);
        let now = decoder.held.capacity() + decoder.joined.capacity() + decoder.block.data.capacity();
        assert!(round == 0 || now == capacity);
        capacity = now;
    }
}

#[test]
fn long_lines_are_held_in_pieces() {
    let [first, second] = [2 * PIECE + 100, PIECE + 1].map(|length| "x".repeat(length));
    for end in ["\n", "\r", "\r\n"] {
        let stream = format!("data: {first}{end}data: {second}{end}{end}data: {second}").into_bytes();
        let whole = decode(&[&stream], stream.len()).unwrap();
        assert_eq!(whole.events.len(), 1);
        for frame in [
            1000,
            PIECE - 1,
            PIECE,
            PIECE + 1,
            PIECE + first.len() % PIECE,
            first.len() + 6,
        ] {
            let frames: Vec<&[u8]> = stream.chunks(frame).collect();
            assert_eq!(decode(&frames, stream.len()).unwrap(), whole, "frames of {frame} bytes");
        }
        let line_ends = (0..stream.len()).filter(|&at| stream[at].is_ascii_whitespace());
        for cut in line_ends.flat_map(|at| at..=at + 1) {
            let (left, right) = stream.split_at(cut);
            assert_eq!(decode(&[left, right], stream.len()).unwrap(), whole, "cut at {cut}");
        }
    }
    let mut decoder = Decoder::new(4 * PIECE);
    for frame in first.as_bytes().chunks(1000) {
        decoder.push(Bytes::copy_from_slice(frame));
        assert!(decoder.next().unwrap().is_none());
        assert!(decoder.held.capacity() < 2 * PIECE && decoder.pieces.iter().all(|piece| piece.capacity() == PIECE));
    }
    assert_eq!(decoder.held(), first.len());
}

#[test]
fn many_short_lines_of_a_long_event_are_copied_a_few_times() {
    let line = format!("data: {}\n", "x".repeat(100));
    let mut decoder = Decoder::new(64 * PIECE);
    let (mut buffers, mut last) = (0, 0);
    while decoder.held() < 8 * PIECE {
        decoder.push(Bytes::copy_from_slice(line.as_bytes()));
        assert!(decoder.next().unwrap().is_none() && decoder.pieces.is_empty());
        buffers += usize::from(decoder.held.capacity() != last);
        last = decoder.held.capacity();
    }
    assert!(buffers < 20, "{buffers}");
}

#[test]
fn prints_no_contents() {
    let mut decoder = Decoder::new(MAX);
    decoder.push(Bytes::from_static(b"data: secret\n\ndata: secret"));
    assert!(!format!("{decoder:?}").contains("secret"));
    assert!(!format!("{:?}", decoder.next().unwrap().unwrap()).contains("secret"));
    assert!(decoder.next().unwrap().is_none());
    assert!(!format!("{decoder:?}").contains("secret"));
    assert!(!format!("{:?}", decoder.finish()).contains("secret"));
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        3 => prop::sample::select(vec!["\n", "\r", "\r\n", "\n\n", "\r\n\r\n"]).prop_map(|end| end.as_bytes().to_vec()),
        3 => prop::sample::select(vec!["data", "data:", "data: ", "event: x", ":", ": c", "id:1", "\u{feff}", " ", "dat"])
            .prop_map(|field| field.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(part, 0..20).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn any_frames_give_the_same_events(stream in stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        check(&stream);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        let starts = [0].into_iter().chain(cuts.iter().copied());
        let ends = cuts.iter().copied().chain([stream.len()]);
        let frames: Vec<_> = starts.zip(ends).map(|(start, end)| &stream[start..end]).collect();
        prop_assert_eq!(decode(&frames, MAX).unwrap(), model(&stream));
    }

    #[test]
    fn any_frames_are_equally_long(stream in stream(), cut in any::<prop::sample::Index>(), max in 0_usize..30) {
        let (left, right) = stream.split_at(cut.index(stream.len() + 1));
        prop_assert_eq!(decode(&[left, right], max), decode(&[&stream[..]], max));
    }
}

#[test]
fn an_event_lacks_its_blank_line_or_a_line_end_as_well() {
    for (raw, missing) in [
        ("data: x\n\n", ""),
        ("data: x\r\r", ""),
        ("data: x\r\n\r\n", ""),
        ("data: x\r\n\r", ""),
        ("\n", ""),
        ("data: x\n", "\n"),
        ("data: x\r\n", "\n"),
        ("data: x\r", "\r"),
        ("data: x", "\n\n"),
    ] {
        assert_eq!(missing_end(raw.as_bytes()), missing.as_bytes(), "{raw:?}");
        let (mut decoder, whole) = (Decoder::new(100), [raw.as_bytes(), missing.as_bytes()].concat());
        decoder.push(whole.into());
        assert!(decoder.next().unwrap().is_some());
        assert!(decoder.finish().is_none(), "{raw:?}");
    }
}
