//! One child process: how it is started, what it says, how it is asked to end.
//!
//! Used by `supervise::run`. A child gets its own process group, so that Ctrl-C in a terminal
//! reaches the launcher alone, and the launcher's pid in `QUERN_PARENT_PID`, by which it notices
//! that the launcher died before it could ask for a parent-death signal. That signal is sent when
//! the *thread* that started the child ends: spawn from the main thread only.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::time::{Instant, timeout_at};

use super::control;
use super::output::{OutputLines, Tail, forward};
use super::policy::Role;

/// How long to wait, after a child's end, for output that a process of its own may still hold open.
const OUTPUT_GRACE: Duration = Duration::from_millis(500);

/// A program with its arguments and additional environment.
#[derive(Debug, Clone)]
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<OsString>,
    /// Variables of the launcher that the child must not see.
    pub hidden: Vec<OsString>,
    /// Variables to set for the child, hidden or not.
    pub environment: Vec<(&'static str, OsString)>,
}

/// News of a child.
#[derive(Debug)]
pub enum News {
    /// A line of its output, already passed on.
    Line(String),
    /// It ended; nothing follows.
    Ended(ExitStatus),
}

/// A running child.
#[derive(Debug)]
pub struct Child {
    role: Role,
    process: tokio::process::Child,
    output: OutputLines,
    output_open: bool,
    ended: Option<(ExitStatus, Instant)>,
    json_output: bool,
    /// What it wrote besides log events.
    pub tail: Tail,
}

impl Child {
    /// Starts the program with stdout and stderr on one pipe; `control` becomes its stdin.
    ///
    /// # Errors
    /// When the pipe or the process cannot be made.
    pub fn spawn(
        role: Role,
        program: &Program,
        control: Option<OwnedFd>,
        json_output: bool,
    ) -> std::io::Result<Self> {
        let (reader, writer) = std::io::pipe()?;
        let mut command = Command::new(&program.path);
        for name in &program.hidden {
            command.env_remove(name);
        }
        command
            .args(&program.arguments)
            .envs(program.environment.iter().map(|(name, value)| (name, value)))
            .env("QUERN_PARENT_PID", std::process::id().to_string())
            .envs(control.iter().map(|_| (control::VARIABLE, "stdin")))
            .stdin(control.map_or_else(Stdio::null, Stdio::from))
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0)
            .kill_on_drop(true);
        let process = command.spawn()?;
        // `command` holds the writing end; without this drop the output would never end.
        drop(command);
        let output = OutputLines::new(reader.into())?;
        Ok(Self { role, process, output, output_open: true, ended: None, json_output, tail: Tail::default() })
    }

    /// The next line, or the end. Safe to cancel; not to be called after [`News::Ended`].
    pub async fn news(&mut self) -> News {
        loop {
            let line = if let Some((status, until)) = self.ended {
                let line = match self.output_open && Instant::now() < until {
                    true => timeout_at(until, self.output.next()).await.ok().flatten(),
                    false => None,
                };
                if line.is_none() {
                    return News::Ended(status);
                }
                line
            } else {
                tokio::select! {
                    biased;
                    line = self.output.next(), if self.output_open => line,
                    status = self.process.wait() => {
                        self.ended = Some((status.unwrap_or_default(), Instant::now() + OUTPUT_GRACE));
                        continue;
                    }
                }
            };
            match line {
                Some(line) => {
                    forward(self.role, &line, self.json_output, &mut self.tail);
                    return News::Line(line);
                }
                None => self.output_open = false,
            }
        }
    }

    /// Sends SIGTERM, or SIGKILL to its whole process group. Nothing happens to a child that ended.
    pub fn signal(&self, signal: Signal) {
        let Some(pid) = self.process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) else {
            return;
        };
        let sent = match signal {
            Signal::KILL => rustix::process::kill_process_group(pid, signal),
            _ => kill_process(pid, signal),
        };
        if let Err(error) = sent {
            tracing::debug!("signal {signal:?} to {:?}: {error}", self.role);
        }
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Why it ended, in its own words if it left any.
    pub fn reason(&self, status: ExitStatus) -> String {
        let how = describe(status);
        match self.tail.explanation() {
            Some(words) => words.to_owned(),
            None => format!("the process {how} without a word"),
        }
    }
}

/// How a process ended, for people.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(9)) => "was killed by SIGKILL (often the kernel, when memory runs out)".to_owned(),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => format!("ended with {status}"),
    }
}

/// Finds a sibling program: `variable` if set (tests), else beside `own`, else on PATH.
pub fn find_program(
    name: &str,
    variable: Option<OsString>,
    own: Option<&Path>,
    path: Option<OsString>,
) -> Option<PathBuf> {
    if let Some(given) = variable {
        return Some(PathBuf::from(given));
    }
    let beside = own.and_then(Path::parent).map(|folder| folder.join(name));
    let on_path = path.iter().flat_map(std::env::split_paths).map(|folder| folder.join(name));
    beside.into_iter().chain(on_path).find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings() {
        let cases = [
            (3 << 8, "ended with exit code 3"),
            (0, "ended with exit code 0"),
            (9, "was killed by SIGKILL (often the kernel, when memory runs out)"),
            (11, "was killed by signal 11"),
        ];
        for (raw, expected) in cases {
            assert_eq!(describe(ExitStatus::from_raw(raw)), expected);
        }
    }

    #[test]
    fn programs_are_found_beside_us_first() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (beside, other) = (folder.path().join("a"), folder.path().join("b"));
        for place in [&beside, &other] {
            std::fs::create_dir(place).expect("made");
            std::fs::write(place.join("tool"), "").expect("written");
        }
        let find = |variable: Option<&str>, own: Option<&Path>| {
            find_program("tool", variable.map(OsString::from), own, Some(other.clone().into_os_string()))
        };
        let own = beside.join("launcher");
        assert_eq!(find(None, Some(&own)), Some(beside.join("tool")));
        assert_eq!(find(None, Some(Path::new("/no/launcher"))), Some(other.join("tool")));
        assert_eq!(find(Some("/given"), Some(&own)), Some(PathBuf::from("/given")));
        assert_eq!(find_program("absent", None, Some(&own), None), None);
    }
}
