//! Runs the shard and the router, passes their output on, replaces a shard that failed, and ends both
//! when one of them fails for good, or the user says so.
//!
//! Called by `launch` with two checked programs. One event loop: children, the router's reports, signals,
//! deadlines and the shard's socket become `policy::Event`s, and the policy's actions are carried out
//! here. Must run on the main thread (see `child`) and must never leave a child behind.

mod child;
mod command_line;
mod control;
mod output;
mod policy;
mod signals;
mod socket;

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, interval_at, sleep_until};
use tracing::{error, info, warn};

use child::{Child, News};
use control::{Control, Report};
use policy::{Action, Event, Outcome, Policy, Role};

pub use child::{Program, find_program};
pub use command_line::{Resolved, router_arguments, shard_arguments};
pub use signals::StopSignals;
pub use socket::SocketFolder;

use crate::error::LauncherError;

/// How often the shard's socket is looked for. Only until it is there.
const READY_POLL: Duration = Duration::from_millis(10);
const WAITING_NOTE: Duration = Duration::from_secs(10);

/// What to run, and how.
#[derive(Debug)]
pub struct Launch {
    pub shard: Program,
    pub router: Program,
    /// The shard's socket; its existence means that the shard is ready.
    pub socket: PathBuf,
    /// How long running requests get after a signal.
    pub grace: Duration,
    /// How often in a row a shard that failed is replaced; 0 = as with TGI, its end is the launch's.
    pub max_shard_restarts: u32,
    pub json_output: bool,
    /// Logged once requests are answered.
    pub welcome: String,
}

/// Runs both children to their end. `Ok` after a signal, whatever the children answered to it.
///
/// # Errors
/// The [`LauncherError`] that says which child failed, with the child's own words.
pub async fn run(launch: &Launch, signals: &mut StopSignals) -> Result<(), LauncherError> {
    let shard = spawn_shard(launch).map_err(LauncherError::ShardCannotStart)?;
    // The router binds its port and loads its tokenizer while the shard loads the weights.
    info!("Starting Webserver");
    let (control, router) = spawn_router(launch)
        .map_err(|error| LauncherError::WebserverCannotStart(cannot_run(&launch.router, &error)))?;
    let supervisor = Supervisor {
        launch,
        policy: Policy::new(launch.grace, launch.max_shard_restarts),
        shard,
        router,
        control,
        useless: None,
        failure: None,
        deadline: None,
        pause_end: None,
        waiting: Waiting::begin(),
        welcomed: false,
    };
    supervisor.run(signals).await
}

/// A socket that a killed shard left behind would look like one that is ready.
fn spawn_shard(launch: &Launch) -> Result<Child, String> {
    info!(rank = 0, "Starting shard");
    match std::fs::remove_file(&launch.socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("the old socket {} cannot be removed: {error}", launch.socket.display()));
        }
        _ => {}
    }
    Child::spawn(Role::Shard, &launch.shard, None, launch.json_output)
        .map_err(|error| cannot_run(&launch.shard, &error))
}

fn spawn_router(launch: &Launch) -> std::io::Result<(Control, Child)> {
    let (control, routers) = Control::pair()?;
    Ok((control, Child::spawn(Role::Router, &launch.router, Some(routers), launch.json_output)?))
}

fn cannot_run(program: &Program, error: &std::io::Error) -> String {
    format!("{} cannot be run: {error}", program.path.display())
}

/// The wait for a shard's socket.
struct Waiting {
    since: Instant,
    poll: Interval,
    note: Interval,
}

impl Waiting {
    fn begin() -> Self {
        let mut poll = interval(READY_POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let since = Instant::now();
        Self { since, poll, note: interval_at(since + WAITING_NOTE, WAITING_NOTE) }
    }
}

struct Supervisor<'a> {
    launch: &'a Launch,
    policy: Policy,
    /// The shard that runs, or the one that ended last.
    shard: Child,
    router: Child,
    control: Control,
    /// Why the router has no use for the shard that runs.
    useless: Option<String>,
    /// Why the child that ended last by itself did so.
    failure: Option<String>,
    deadline: Option<Instant>,
    /// When the next shard is started.
    pause_end: Option<Instant>,
    waiting: Waiting,
    welcomed: bool,
}

/// What the event loop woke up for.
enum Wake {
    News(Role, News),
    Report(Report),
    Signal,
    Deadline,
    PauseOver,
    Poll,
    StillWaiting,
}

impl Supervisor<'_> {
    async fn run(mut self, signals: &mut StopSignals) -> Result<(), LauncherError> {
        loop {
            let wake = self.next(signals).await;
            match wake {
                Wake::Signal => self.stop_by_signal(),
                Wake::News(role, News::Line(line)) => self.line(role, &line),
                Wake::News(role, News::Ended(status)) => self.ended(role, status),
                Wake::Report(report) => self.report(report),
                Wake::Deadline => {
                    self.deadline = None;
                    self.apply(Event::Deadline);
                }
                Wake::PauseOver => {
                    self.pause_end = None;
                    self.apply(Event::PauseOver);
                }
                Wake::Poll => self.look_for_socket(),
                Wake::StillWaiting => info!(rank = 0, "Waiting for shard to be ready..."),
            }
            if let Some(outcome) = self.policy.finished() {
                return self.result(outcome);
            }
        }
    }

    async fn next(&mut self, signals: &mut StopSignals) -> Wake {
        let (has_shard, has_router) = (self.policy.is_alive(Role::Shard), self.policy.is_alive(Role::Router));
        let loading = self.policy.is_loading();
        let now = Instant::now();
        tokio::select! {
            biased;
            () = signals.next() => Wake::Signal,
            // Before the end of the shard that it may be about.
            report = self.control.next() => Wake::Report(report),
            news = self.shard.news(), if has_shard => Wake::News(Role::Shard, news),
            news = self.router.news(), if has_router => Wake::News(Role::Router, news),
            () = sleep_until(self.deadline.unwrap_or(now)), if self.deadline.is_some() => Wake::Deadline,
            () = sleep_until(self.pause_end.unwrap_or(now)), if self.pause_end.is_some() => Wake::PauseOver,
            _ = self.waiting.poll.tick(), if loading => Wake::Poll,
            _ = self.waiting.note.tick(), if loading => Wake::StillWaiting,
        }
    }

    fn apply(&mut self, event: Event) {
        for action in self.policy.on(event) {
            match action {
                Action::Terminate(role) => {
                    info!("Terminating {}", program_name(role));
                    self.child(role).signal(Signal::TERM);
                }
                Action::Kill(role) => {
                    warn!("Killing {}", program_name(role));
                    self.child(role).signal(Signal::KILL);
                }
                // A time beyond the clock's end never comes.
                Action::Arm(time) => self.deadline = Instant::now().checked_add(time),
                Action::Pause(time) => self.pause_end = Instant::now().checked_add(time),
                Action::StartShard => self.start_shard(),
                Action::GiveUp => self.control.close(),
            }
        }
    }

    fn start_shard(&mut self) {
        self.useless = None;
        self.waiting = Waiting::begin();
        match spawn_shard(self.launch) {
            Ok(shard) => self.shard = shard,
            Err(reason) => {
                error!("{reason}");
                self.failure = Some(reason);
                self.apply(Event::Exited(Role::Shard));
            }
        }
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Serving { pid } if self.shard.pid() == Some(pid) => self.apply(Event::ShardServes),
            Report::Useless { pid, reason } if self.shard.pid() == Some(pid) => {
                self.useless.get_or_insert(reason);
                self.apply(Event::ShardUseless);
            }
            // The router has not noticed yet that this shard was replaced.
            Report::Serving { .. } | Report::Useless { .. } => (),
        }
    }

    fn child(&self, role: Role) -> &Child {
        match role {
            Role::Shard => &self.shard,
            Role::Router => &self.router,
        }
    }

    fn stop_by_signal(&mut self) {
        match self.policy.is_stopping() {
            false => info!("signal received, starting graceful shutdown"),
            true => info!("another signal received while stopping, ending at once"),
        }
        self.apply(Event::Signal);
    }

    fn look_for_socket(&mut self) {
        if self.policy.is_loading() && self.launch.socket.exists() {
            info!(rank = 0, "Shard ready in {:.2?}", self.waiting.since.elapsed());
            self.apply(Event::ShardReady);
        }
    }

    fn line(&mut self, role: Role, line: &str) {
        if role == Role::Router && !self.welcomed && !self.policy.is_stopping() && output::is_connected(line)
        {
            self.welcomed = true;
            // The router may have found the socket before the next look here.
            self.look_for_socket();
            info!("{}", self.launch.welcome);
        }
    }

    fn ended(&mut self, role: Role, status: ExitStatus) {
        if self.policy.is_stopping() {
            info!("{} {}", program_name(role), child::describe(status));
        } else {
            self.report_failure(role, status);
        }
        self.apply(Event::Exited(role));
    }

    fn report_failure(&mut self, role: Role, status: ExitStatus) {
        let child = self.child(role);
        let mut words: Vec<&str> = child.tail.lines().collect();
        if words.is_empty() {
            words.push("(nothing)");
        }
        let reason = match role {
            Role::Shard => {
                error!("Shard complete standard error output:\n{}", words.join("\n"));
                match &self.useless {
                    Some(reason) => error!("Shard 0 was killed: {reason}"),
                    None => error!("Shard 0 crashed: it {}", child::describe(status)),
                }
                self.useless.clone()
            }
            Role::Router => {
                error!("Webserver Crashed: it {}", child::describe(status));
                None
            }
        };
        self.failure = Some(reason.unwrap_or_else(|| child.reason(status)));
    }

    fn result(self, outcome: Outcome) -> Result<(), LauncherError> {
        let reason = self.failure.unwrap_or_default();
        match outcome {
            Outcome::Signalled => Ok(()),
            Outcome::ShardCannotStart => Err(LauncherError::ShardCannotStart(reason)),
            Outcome::ShardFailed => Err(LauncherError::ShardFailed(match self.policy.n_failures() {
                0 | 1 => reason,
                n => format!("{reason} (it ended {n} times in a row without an answer between)"),
            })),
            Outcome::WebserverFailed => Err(LauncherError::WebserverFailed(reason)),
        }
    }
}

fn program_name(role: Role) -> &'static str {
    match role {
        Role::Shard => "shard",
        Role::Router => "webserver",
    }
}
