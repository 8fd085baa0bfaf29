//! For any stream of a provider, in any API and cut anywhere: the caller's parser never sees a broken event, a stream
//! looks complete only if it is, and neither bytes nor records depend on the frames. Uses the public API, since a relay
//! works only with the loop around it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_llm_bridge_fuzz::{Setup, rounds};

// The first byte is the options, the second the length of frames.
fuzz_target!(|input: &[u8]| {
    let [options, len, streams @ ..] = input else { return };
    let (setup, rounds) = (Setup::of(*options), rounds(streams));
    let whole = setup.run(&rounds, usize::MAX);
    assert_eq!(whole, setup.run(&rounds, 1 + usize::from(*len)));
    assert_eq!(whole, setup.run(&rounds, 1));
    setup.check(&whole);
});
