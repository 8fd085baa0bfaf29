//! The decoder on whole streams and on every way to cut them.

use bytes::Bytes;

use super::Decoder;

#[test]
fn takes_a_stream_apart() {
    let mut decoder = Decoder::new(100);
    decoder.push(Bytes::from_static(
        b"\xEF\xBB\xBFdata: a\r\n\r\n:c\n\ndata:b\ndata\rdata:  c\n\n\ndata: x",
    ));
    let mut seen = Vec::new();
    while let Some(event) = decoder.next().unwrap() {
        seen.push((event.raw().to_vec(), event.data().to_vec()));
    }
    assert_eq!(seen.len(), 4);
    assert_eq!(seen[0].1, b"a");
    assert_eq!(seen[2].1, b"b\n\n c");
    let rest = decoder.finish().unwrap();
    assert!(!rest.line_ended);
    assert_eq!(rest.event.data(), b"x");
}
