//! A server that is a child process: how it is started, spoken to, and ended.

use std::{future::Future, io, time::Duration};

use process_wrap::tokio::{ChildWrapper, CommandWrap, KillOnDrop};
use rmcp::{
    RoleClient,
    service::{RxJsonRpcMessage, TxJsonRpcMessage},
    transport::{Transport, async_rw::AsyncRwTransport},
};
use tokio::{
    process::{ChildStdin, ChildStdout},
    time::timeout,
};

use super::{
    flood::{Flood, GuardedRead},
    server::Command,
};

/// The environment that a program needs to run, without our own secrets: the variables that the protocol project's SDKs
/// pass on, on Unix and on Windows.
const INHERITED: [&str; 16] = [
    "APPDATA",
    "HOME",
    "HOMEDRIVE",
    "HOMEPATH",
    "LOCALAPPDATA",
    "LOGNAME",
    "PATH",
    "PROCESSOR_ARCHITECTURE",
    "SHELL",
    "SYSTEMDRIVE",
    "SYSTEMROOT",
    "TEMP",
    "TERM",
    "USER",
    "USERNAME",
    "USERPROFILE",
];

/// Time for a child to end by itself once its input is closed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(3);

/// A running child, killed on drop. Not the SDK's transport, since that one reads the output without a bound.
pub(super) struct Child {
    process: Box<dyn ChildWrapper>,
    transport: AsyncRwTransport<RoleClient, GuardedRead<ChildStdout>, ChildStdin>,
}

// === impl Child ===

impl Child {
    /// # Errors
    ///
    /// When the program cannot be started.
    pub(super) fn spawn(command: &Command, flood: Flood) -> io::Result<Self> {
        let mut process = wrap(command).spawn()?;
        let streams = process.stdout().take().zip(process.stdin().take());
        let (output, input) = streams.ok_or_else(|| io::Error::other("the child has no standard streams"))?;
        Ok(Self {
            process,
            transport: AsyncRwTransport::new(GuardedRead::new(output, flood), input),
        })
    }
}

impl Transport<RoleClient> for Child {
    type Error = io::Error;

    fn send(&mut self, item: TxJsonRpcMessage<RoleClient>) -> impl Future<Output = io::Result<()>> + Send + 'static {
        self.transport.send(item)
    }

    fn receive(&mut self) -> impl Future<Output = Option<RxJsonRpcMessage<RoleClient>>> + Send {
        self.transport.receive()
    }

    /// Closes the child's input, gives it time to end, and then kills it with all of its children.
    async fn close(&mut self) -> io::Result<()> {
        self.transport.close().await?;
        if timeout(EXIT_TIMEOUT, self.process.wait()).await.is_err() {
            self.process.start_kill()?;
        }
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // `KillOnDrop` ends the child alone, not its children. Fails for a child that has ended.
        let _ = self.process.start_kill();
    }
}

fn wrap(command: &Command) -> CommandWrap {
    let mut wrapped = CommandWrap::with_new(&command.program, |process| {
        let inherited = INHERITED
            .iter()
            .filter_map(|name| Some((*name, std::env::var_os(name)?)));
        process
            .args(&command.arguments)
            .env_clear()
            .envs(inherited)
            .envs(command.environment.iter().map(|(name, value)| (name, value)))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
    });
    wrapped.wrap(KillOnDrop);
    // A launcher such as `npx` starts the server as its own child; the whole group ends together.
    #[cfg(unix)]
    wrapped.wrap(process_wrap::tokio::ProcessGroup::leader());
    #[cfg(windows)]
    wrapped.wrap(process_wrap::tokio::JobObject);
    wrapped
}
