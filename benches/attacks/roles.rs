//! The provider, the tool servers and the attackers, which this program is when it is started by itself.

use std::io::{self, Read, Write};
use std::time::Duration;

use tokio::net::TcpListener;

use crate::arena::Arena;
use crate::{Failure, attacks, provider, tool_server};

/// What a server says when it can be called.
pub(crate) const ANNOUNCEMENT: &str = "listening on http://";

pub(crate) fn run(arguments: &[String]) -> Result<bool, Failure> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["provider"] => {
            end_with_parent();
            // More threads than attackers keep busy, so that the scheduler finds one for the bystander.
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(8)
                .enable_all()
                .build()?;
            runtime.block_on(provider::serve())?;
        }
        ["attack", name, gateway, record, seconds, scale] => {
            end_with_parent();
            let arena = Arena {
                gateway: gateway.parse()?,
                record: record.into(),
                time: Duration::try_from_secs_f64(seconds.parse()?)?,
                scale: scale.parse()?,
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let attack = attacks::named(name).ok_or("there is no such attack")?;
            let answers = runtime.block_on((attack.run)(arena))?;
            writeln!(io::stdout(), "{answers}")?;
        }
        // Ends when its input does.
        ["tools", kind] => tool_server::serve(kind)?,
        _ => return Err("no such role".into()),
    }
    Ok(true)
}

pub(crate) fn announce(listener: &TcpListener) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{ANNOUNCEMENT}{}", listener.local_addr()?)?;
    Ok(out.flush()?)
}

/// The parent holds the other end of stdin, and says nothing.
fn end_with_parent() {
    std::thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
}
