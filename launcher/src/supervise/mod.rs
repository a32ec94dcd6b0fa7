//! Runs the shard and the router, passes their output on, and ends both when one of them, or the
//! user, says so.
//!
//! Called by `launch` with two checked programs. One event loop: children, signals, deadlines and
//! the shard's socket become `policy::Event`s, and the policy's actions are carried out here. Must
//! run on the main thread (see `child`) and must never leave a child behind.

mod child;
mod command_line;
mod output;
mod policy;
mod socket;

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, sleep_until, timeout};
use tracing::{error, info, warn};

use child::{Child, News};
use policy::{Action, Event, Outcome, Policy, Role};

pub use child::{Program, find_program};
pub use command_line::{Resolved, router_arguments, shard_arguments};
pub use socket::SocketFolder;

use crate::error::LauncherError;

/// How often the shard's socket is looked for. Only until it is there.
const READY_POLL: Duration = Duration::from_millis(10);
/// How long the ends of both children may lie apart to count as one.
const SETTLE: Duration = Duration::from_millis(100);
/// Signals that follow each other so closely are one wish: `timeout` signals its child and then its group.
const ONE_WISH: Duration = Duration::from_millis(100);
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
    pub json_output: bool,
    /// Logged once requests are answered.
    pub welcome: String,
}

/// The signals that end a launch.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hang_up: unix::Signal,
    last: Option<Instant>,
}

impl StopSignals {
    /// Listens from now on; until then the signals kill the launcher.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
            hang_up: unix::signal(SignalKind::hangup())?,
            last: None,
        })
    }

    /// Waits for one of SIGINT, SIGTERM, SIGHUP that is no echo of the one before. Safe to cancel.
    pub async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => (),
                _ = self.terminate.recv() => (),
                _ = self.hang_up.recv() => (),
            }
            let now = Instant::now();
            if self.last.replace(now).is_none_or(|last| now - last > ONE_WISH) {
                return;
            }
        }
    }
}

/// Runs both children to their end. `Ok` after a signal, whatever the children answered to it.
///
/// # Errors
/// The [`LauncherError`] that says which child failed, with the child's own words.
pub async fn run(launch: &Launch, signals: &mut StopSignals) -> Result<(), LauncherError> {
    info!(rank = 0, "Starting shard");
    let shard = Child::spawn(Role::Shard, &launch.shard, launch.json_output)
        .map_err(|error| LauncherError::ShardCannotStart(cannot_run(&launch.shard, &error)))?;
    // The router binds its port and loads its tokenizer while the shard loads the weights.
    info!("Starting Webserver");
    let router = Child::spawn(Role::Router, &launch.router, launch.json_output)
        .map_err(|error| LauncherError::WebserverCannotStart(cannot_run(&launch.router, &error)))?;
    let policy = Policy::new(launch.grace);
    let supervisor =
        Supervisor { launch, policy, shard, router, failure: None, deadline: None, welcomed: false };
    supervisor.run(signals).await
}

fn cannot_run(program: &Program, error: &std::io::Error) -> String {
    format!("{} cannot be run: {error}", program.path.display())
}

struct Supervisor<'a> {
    launch: &'a Launch,
    policy: Policy,
    shard: Child,
    router: Child,
    /// Why the first child that ended by itself did so.
    failure: Option<String>,
    deadline: Option<Instant>,
    welcomed: bool,
}

/// What the event loop woke up for.
enum Wake {
    News(Role, News),
    Signal,
    Deadline,
    Poll,
    StillWaiting,
}

impl Supervisor<'_> {
    async fn run(mut self, signals: &mut StopSignals) -> Result<(), LauncherError> {
        let started = Instant::now();
        let mut poll = interval(READY_POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waiting = interval_at(started + WAITING_NOTE, WAITING_NOTE);
        let mut loading = true;
        loop {
            let deadline = self.deadline.unwrap_or(started);
            let wake = tokio::select! {
                biased;
                () = signals.next() => Wake::Signal,
                news = self.shard.news(), if self.policy.is_alive(Role::Shard) => Wake::News(Role::Shard, news),
                news = self.router.news(), if self.policy.is_alive(Role::Router) => Wake::News(Role::Router, news),
                () = sleep_until(deadline), if self.deadline.is_some() => Wake::Deadline,
                _ = poll.tick(), if loading => Wake::Poll,
                _ = waiting.tick(), if loading => Wake::StillWaiting,
            };
            match wake {
                Wake::Signal => self.stop_by_signal(),
                Wake::News(role, News::Line(line)) => self.line(role, &line),
                Wake::News(role, News::Ended(status)) => {
                    loading = false;
                    self.ended_first_or_after_the_shard(role, status).await;
                }
                Wake::Deadline => self.expired(),
                Wake::Poll if self.launch.socket.exists() => {
                    loading = false;
                    info!(rank = 0, "Shard ready in {:.2?}", started.elapsed());
                    self.apply(Event::ShardReady);
                }
                Wake::Poll => (),
                Wake::StillWaiting => info!(rank = 0, "Waiting for shard to be ready..."),
            }
            if let Some(outcome) = self.policy.finished() {
                return self.result(outcome);
            }
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
            }
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

    fn line(&mut self, role: Role, line: &str) {
        if role == Role::Router && !self.welcomed && !self.policy.is_stopping() && output::is_connected(line)
        {
            self.welcomed = true;
            info!("{}", self.launch.welcome);
        }
    }

    fn expired(&mut self) {
        self.deadline = None;
        self.apply(Event::Deadline);
    }

    /// A router that loses its shard ends too, and may be seen to end first: the shard is to blame then.
    async fn ended_first_or_after_the_shard(&mut self, role: Role, status: ExitStatus) {
        let is_first = role == Role::Router && !self.policy.is_stopping();
        if is_first && let Ok(cause) = timeout(SETTLE, self.shard.end()).await {
            self.ended(Role::Shard, cause);
        }
        self.ended(role, status);
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
        match role {
            Role::Shard => {
                error!("Shard complete standard error output:\n{}", words.join("\n"));
                error!("Shard 0 crashed: it {}", child::describe(status));
            }
            Role::Router => error!("Webserver Crashed: it {}", child::describe(status)),
        }
        self.failure = Some(child.reason(status));
    }

    fn result(self, outcome: Outcome) -> Result<(), LauncherError> {
        let reason = self.failure.unwrap_or_default();
        match outcome {
            Outcome::Signalled => Ok(()),
            Outcome::ShardCannotStart => Err(LauncherError::ShardCannotStart(reason)),
            Outcome::ShardFailed => Err(LauncherError::ShardFailed(reason)),
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
