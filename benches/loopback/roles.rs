//! The servers that this program runs when it is started by itself.

use std::io::{self, Read, Write};
use std::path::Path;

use tokio::net::TcpListener;

use crate::{Failure, floor, provider, variant};

/// The beginning of the line that a server prints when it is ready.
pub(crate) const ANNOUNCEMENT: &str = "listening on http://";

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    end_with_parent();
    if let ["gateway", upstream, record, tools, ref keys @ ..] = arguments[..] {
        return gateway::workers::runtime()?.block_on(variant::serve(
            upstream,
            Path::new(record),
            tools.parse()?,
            keys,
        ));
    }
    // One core, since the floor is defined so.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match arguments[..] {
        ["provider"] => runtime.block_on(provider::serve()),
        ["floor", upstream] => runtime.block_on(floor::serve(upstream.parse()?)),
        _ => Err("no such role".into()),
    }
}

pub(crate) fn announce(listener: &TcpListener) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{ANNOUNCEMENT}{}", listener.local_addr()?)?;
    Ok(out.flush()?)
}

/// The parent holds the other end of stdin, and writes nothing.
fn end_with_parent() {
    std::thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
}
