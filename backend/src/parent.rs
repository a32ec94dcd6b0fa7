//! Never outliving the launcher. Called by `main` before anything else.

use anyhow::{Context, bail};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// Holds the pid of the process that started this one.
const PARENT_PID: &str = "QUERN_PARENT_PID";

/// Asks the kernel to kill this process when its parent dies, if the parent says who it is. It may
/// have died before the kernel was asked: then this is an error.
pub fn die_with_parent() -> anyhow::Result<()> {
    let Ok(expected) = std::env::var(PARENT_PID) else { return Ok(()) };
    let expected: i32 =
        expected.parse().with_context(|| format!("{PARENT_PID}: expected a process id, got {expected:?}"))?;
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot ask for a parent-death signal")?;
    match getppid().map(|pid| pid.as_raw_nonzero().get()) {
        Some(parent) if parent == expected => Ok(()),
        _ => bail!("the process that started this shard ({PARENT_PID}={expected}) has gone"),
    }
}
