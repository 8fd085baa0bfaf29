//! `cargo run --release -p gateway -- --help` says how to use it.
//!
//! The program is in the library: generic code that both use would be compiled twice.

use std::process::ExitCode;

/// A request takes and frees some eighty small pieces. The settings are in `.cargo/config.toml`.
#[cfg(all(feature = "jemalloc", not(target_env = "msvc")))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    gateway::program::main()
}
