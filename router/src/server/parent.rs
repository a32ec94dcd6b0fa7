//! Dying with the parent: a router whose launcher is gone must not linger. Called by `main` first of all.

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// The pid that started this process, set by the launcher.
const PARENT_VARIABLE: &str = "QUERN_PARENT_PID";

/// Whether a launcher started this process, and ends it.
pub fn has_launcher() -> bool {
    std::env::var_os(PARENT_VARIABLE).is_some()
}

/// Asks for SIGKILL when the parent dies, then checks that it has not died already. Does nothing when
/// started by hand.
///
/// # Errors
/// When the parent is gone, or the variable holds no pid.
pub fn die_with_parent() -> anyhow::Result<()> {
    let Some(expected) = std::env::var_os(PARENT_VARIABLE) else { return Ok(()) };
    set_parent_process_death_signal(Some(Signal::KILL))?;
    check(&expected.to_string_lossy(), getppid())
}

/// The signal is only sent for deaths after it was asked for: an earlier one shows as another parent.
fn check(expected: &str, parent: Option<Pid>) -> anyhow::Result<()> {
    let Ok(expected) = expected.parse::<i32>() else {
        anyhow::bail!("{PARENT_VARIABLE} must be a process id. Given: {expected}");
    };
    let parent = parent.map_or(0, Pid::as_raw_pid);
    anyhow::ensure!(parent == expected, "the process that started this one ({expected}) is gone");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents() {
        let pid = Pid::from_raw(42);
        assert!(check("42", pid).is_ok());
        for (expected, parent) in [("41", pid), ("42", None), ("x", pid), ("", pid)] {
            assert!(check(expected, parent).is_err(), "{expected}");
        }
    }
}
