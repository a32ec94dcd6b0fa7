//! A shard as a child process: started with a socket in a folder of its own, ended when dropped.
//! Used by the programs that start their shards themselves. Never leaves a child behind: it dies with this process too.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

const BINARY: &str = "text-generation-shard";
/// How often the socket is looked for: short beside the fastest start.
const POLL_EVERY: Duration = Duration::from_millis(1);

pub struct ShardProcess {
    child: Child,
    pub socket: PathBuf,
    /// When the process was started.
    pub started: Instant,
    _folder: tempfile::TempDir,
}

impl ShardProcess {
    /// The shard's program: beside this one, or (as cargo places examples) beside its folder.
    pub fn find_binary() -> anyhow::Result<PathBuf> {
        let own = std::env::current_exe().context("where this program is")?;
        let folders = own.ancestors().skip(1).take(2);
        let found = folders.map(|folder| folder.join(BINARY)).find(|path| path.is_file());
        found.with_context(|| format!("no {BINARY} near {}: build it, or pass --shard", own.display()))
    }

    /// Starts `binary` on a model with `arguments` besides, and waits up to `limit` until its socket exists.
    pub async fn start(
        binary: &Path,
        model: &Path,
        arguments: &[String],
        limit: Duration,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let socket = folder.path().join("shard.sock");
        let started = Instant::now();
        let child = Command::new(binary)
            .arg("--model-path")
            .arg(model)
            .arg("--uds-path")
            .arg(&socket)
            .args(arguments)
            .env("QUERN_PARENT_PID", std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::from(std::io::stderr()))
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut shard = Self { child, socket, started, _folder: folder };
        shard.wait_for_socket(limit).await?;
        Ok(shard)
    }

    async fn wait_for_socket(&mut self, limit: Duration) -> anyhow::Result<()> {
        while !self.socket.exists() {
            if let Some(status) = self.child.try_wait()? {
                bail!("the shard ended before it was ready: {status}");
            }
            if self.started.elapsed() > limit {
                bail!("the shard was not ready within {limit:?}");
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        Ok(())
    }

    /// Resident memory in bytes, 0 if it cannot be read.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

impl Drop for ShardProcess {
    /// Nothing in it is worth a farewell.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
