//! The measured processes, and the kernel's data about them.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, fs, io};

use crate::{Failure, provider, roles};

/// A server that runs until this is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
    /// The record file; removed with the process.
    record: Option<PathBuf>,
}

/// How gateways are started.
#[derive(Clone)]
pub(crate) struct Setup {
    /// The gateway's program.
    pub(crate) gateway: PathBuf,
    /// Threads that run requests; `None` leaves it to the gateway.
    pub(crate) workers: Option<u32>,
}

// === impl Process ===

impl Process {
    fn start(mut command: Command, record: Option<PathBuf>) -> Result<Self, Failure> {
        // A role ends when its stdin does, so that no process is left over.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        match line.trim_end().strip_prefix(roles::ANNOUNCEMENT).map(str::parse) {
            Some(Ok(address)) => Ok(Self { child, address, record }),
            _ => {
                let _ = child.kill();
                Err(format!("{command:?} did not start: {line:?}, {}", child.wait()?).into())
            }
        }
    }

    /// This program in another role.
    fn role<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Command, Failure> {
        let mut command = Command::new(env::current_exe()?);
        command.args(arguments);
        Ok(command)
    }

    pub(crate) fn provider() -> Result<Self, Failure> {
        Self::start(Self::role(["--role", "provider"])?, None)
    }

    /// The same behind another command, which starts it.
    #[allow(dead_code, reason = "for the benchmark of attacks")]
    pub(crate) fn provider_by(starter: &[&str]) -> Result<Self, Failure> {
        let own = env::current_exe()?;
        let role = [own.as_os_str(), "--role".as_ref(), "provider".as_ref()];
        let mut words = starter.iter().map(OsStr::new).chain(role);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        Self::start(command, None)
    }

    pub(crate) fn floor(provider: &Self) -> Result<Self, Failure> {
        Self::start(Self::role(["--role", "floor", &provider.address.to_string()])?, None)
    }

    /// The gateway as its users run it.
    pub(crate) fn gateway(setup: &Setup, provider: &Self) -> Result<Self, Failure> {
        Self::gateway_with(setup, provider, provider, &[])
    }

    /// The same with a provider for each API and more arguments.
    pub(crate) fn gateway_with(
        setup: &Setup,
        openai: &Self,
        anthropic: &Self,
        more: &[String],
    ) -> Result<Self, Failure> {
        let record = record_file();
        let mut command = Command::new(&setup.gateway);
        let key = provider::WORKING_KEY;
        command.args(["--listen", "127.0.0.1:0"]);
        command.args(["--upstream", &openai.base(), "--anthropic-upstream", &anthropic.base()]);
        command
            .args(["--key", key, "--anthropic-key", key])
            .arg("--record")
            .arg(&record)
            .args(more);
        Self::start(setup.apply(command), Some(record))
    }

    /// The gateway's stack with additions, see [`crate::variant`].
    pub(crate) fn variant(setup: &Setup, provider: &Self, tools: usize, keys: &[&str]) -> Result<Self, Failure> {
        let record = record_file();
        let mut command = Self::role(["--role", "gateway", &provider.base()])?;
        command.arg(&record).arg(tools.to_string()).args(keys);
        Self::start(setup.apply(command), Some(record))
    }

    #[allow(dead_code, reason = "for the benchmark of attacks")]
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn base(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// CPU time of all threads so far, in the kernel and out of it. Exact only while the process is idle.
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        let mut nanos = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            nanos += number(text.split(' ').next())?;
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// Bytes in memory now.
    pub(crate) fn resident(&self) -> io::Result<u64> {
        self.status("VmRSS:")
    }

    /// The most bytes that were ever in memory at once.
    pub(crate) fn peak(&self) -> io::Result<u64> {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(number(line.and_then(|line| line.trim().strip_suffix(" kB")))? * 1024)
    }

    /// The requests that were recorded to their end.
    pub(crate) fn recorded(&self) -> io::Result<usize> {
        let text = self.record.as_deref().map(fs::read_to_string).transpose()?;
        let ends = text.iter().flat_map(|text| text.lines());
        Ok(ends.filter(|line| line.contains(r#""event":"ended""#)).count())
    }

    /// The file that it records to.
    #[allow(dead_code, reason = "for the benchmark of attacks, which deletes it")]
    pub(crate) fn record(&self) -> Option<&Path> {
        self.record.as_deref()
    }

    pub(crate) fn forget_records(&self) -> io::Result<()> {
        self.record
            .as_deref()
            .map_or(Ok(()), |path| fs::File::create(path).map(drop))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Failures are ignored: nothing depends on a clean end.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(record) = &self.record {
            let _ = fs::remove_file(record);
        }
    }
}

// === impl Setup ===

impl Setup {
    pub(crate) fn new(gateway: Option<PathBuf>, workers: Option<u32>) -> Self {
        let gateway = gateway.unwrap_or_else(|| env!("CARGO_BIN_EXE_gateway").into());
        Self { gateway, workers }
    }

    fn apply(&self, mut command: Command) -> Command {
        command
            .env("RUST_LOG", "warn")
            .env_remove("OPENAI_API_KEYS")
            .env_remove("ANTHROPIC_API_KEYS");
        if let Some(workers) = self.workers {
            command.env("TOKIO_WORKER_THREADS", workers.to_string());
        }
        command
    }
}

fn record_file() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("loopback-{}-{number}.jsonl", std::process::id());
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn number(text: Option<&str>) -> io::Result<u64> {
    text.and_then(|text| text.trim().parse().ok())
        .ok_or_else(|| io::Error::other("/proc does not look as it does on Linux"))
}
