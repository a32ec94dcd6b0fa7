//! What to do when a child ends, a signal comes or a deadline passes. A pure state machine: no
//! process, no clock, no task; durations go out as values.
//!
//! Driven by `supervise::run` alone. A shard that ends after it was ready once is replaced: at once the
//! first time, after a growing pause the next times in a row, until the limit. The router is never
//! replaced, since it holds the requests. The order of an orderly end is always the same: the router
//! first, since it drains requests that need the shard, then the shard.

use std::time::Duration;

/// How long the shard gets to end by itself after SIGTERM.
const SHARD_GRACE: Duration = Duration::from_secs(10);
/// After its grace the router ends what still runs, with a last event for each client, and itself; this
/// much later it is made to.
const ROUTER_MARGIN: Duration = Duration::from_secs(5);
/// How long a router that is told that no shard will come gets to tell its clients and end by itself.
const SHARD_LOST_NOTICE: Duration = Duration::from_secs(5);
/// How long it gets when it is then asked to end: its requests cannot finish any more.
const GRACE_WITHOUT_SHARD: Duration = Duration::from_secs(5);
/// Pause before the second restart in a row; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A killed process that has not ended by then waits in a driver for ever: it cannot be replaced.
const KILL_PATIENCE: Duration = Duration::from_secs(20);

/// One of the two children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Shard,
    Router,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The shard's socket exists.
    ShardReady,
    /// A child ended, for whatever reason.
    Exited(Role),
    /// The router got the first answer of the shard that runs now.
    ShardServes,
    /// The router has no use for the shard that runs now: it hangs, or answers what was not asked.
    ShardUseless,
    /// The time of [`Action::Pause`] is over.
    PauseOver,
    /// SIGINT, SIGTERM or SIGHUP came to the launcher.
    Signal,
    /// The time of the last [`Action::Arm`] is over.
    Deadline,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask the child to end (SIGTERM).
    Terminate(Role),
    /// End the child (SIGKILL).
    Kill(Role),
    /// Deliver [`Event::Deadline`] after this time, instead of any earlier deadline.
    Arm(Duration),
    /// Deliver [`Event::PauseOver`] after this time.
    Pause(Duration),
    /// Start a shard in place of the one that ended.
    StartShard,
    /// Tell the router that no shard will come any more.
    GiveUp,
}

/// How the launch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// By a signal to the launcher: success.
    Signalled,
    /// The shard ended before it was ready for the first time.
    ShardCannotStart,
    /// The shard ended more often in a row than it is restarted.
    ShardFailed,
    /// The router ended by itself.
    WebserverFailed,
}

/// Where the shard stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shard {
    Loading,
    Ready,
    /// Killed, as the router has no use for it.
    Dying,
    /// Ended, to be replaced.
    Pausing,
    /// Ended for good.
    Gone,
}

/// State of a launch, from the moment both children run.
#[derive(Debug)]
pub struct Policy {
    grace: Duration,
    max_restarts: u32,
    shard: Shard,
    /// It loaded once: the flags and the model are right, a later failure may pass.
    was_ready: bool,
    /// Ends of the shard since it last answered the router.
    n_failures: u32,
    router_alive: bool,
    router_asked: bool,
    /// A second signal: whatever still ends is not replaced.
    at_once: bool,
    outcome: Option<Outcome>,
}

impl Policy {
    /// Both children run; the router gets `grace` to drain when the end comes, the shard is started
    /// again at most `max_restarts` times in a row.
    pub fn new(grace: Duration, max_restarts: u32) -> Self {
        Self {
            grace,
            max_restarts,
            shard: Shard::Loading,
            was_ready: false,
            n_failures: 0,
            router_alive: true,
            router_asked: false,
            at_once: false,
            outcome: None,
        }
    }

    /// The outcome, once both children have ended.
    pub fn finished(&self) -> Option<Outcome> {
        self.outcome.filter(|_| self.shard == Shard::Gone && !self.router_alive)
    }

    /// Whether this child runs.
    pub fn is_alive(&self, role: Role) -> bool {
        match role {
            Role::Shard => matches!(self.shard, Shard::Loading | Shard::Ready | Shard::Dying),
            Role::Router => self.router_alive,
        }
    }

    /// Whether the shard's socket is awaited.
    pub fn is_loading(&self) -> bool {
        self.shard == Shard::Loading
    }

    /// Whether the children are being ended.
    pub fn is_stopping(&self) -> bool {
        self.outcome.is_some()
    }

    /// Ends of the shard since it last answered the router.
    pub fn n_failures(&self) -> u32 {
        self.n_failures
    }

    /// Takes an event, answers what to do now, in order.
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::ShardReady if self.is_loading() => {
                self.shard = Shard::Ready;
                self.was_ready = true;
                Vec::new()
            }
            Event::ShardReady => Vec::new(),
            Event::ShardServes => {
                self.n_failures = 0;
                Vec::new()
            }
            Event::ShardUseless => self.shard_useless(),
            Event::PauseOver if self.shard == Shard::Pausing => {
                self.shard = Shard::Loading;
                vec![Action::StartShard]
            }
            Event::PauseOver => Vec::new(),
            Event::Exited(Role::Shard) => self.shard_exited(),
            Event::Exited(Role::Router) => self.router_exited(),
            Event::Signal if self.is_stopping() => self.kill_all(),
            Event::Signal => {
                self.outcome = Some(Outcome::Signalled);
                self.stop_next()
            }
            Event::Deadline => self.deadline(),
        }
    }

    fn shard_useless(&mut self) -> Vec<Action> {
        match self.shard {
            // An end under way has its own deadline.
            Shard::Loading | Shard::Ready if self.is_stopping() => vec![Action::Kill(Role::Shard)],
            Shard::Loading | Shard::Ready => {
                self.shard = Shard::Dying;
                vec![Action::Kill(Role::Shard), Action::Arm(KILL_PATIENCE)]
            }
            Shard::Dying | Shard::Pausing | Shard::Gone => Vec::new(),
        }
    }

    fn shard_exited(&mut self) -> Vec<Action> {
        self.n_failures += 1;
        let may_pass = self.was_ready && self.router_alive && !self.at_once;
        if may_pass && self.n_failures <= self.max_restarts {
            self.shard = Shard::Pausing;
            return vec![Action::Pause(pause_after(self.n_failures))];
        }
        self.shard = Shard::Gone;
        let blame = if self.was_ready { Outcome::ShardFailed } else { Outcome::ShardCannotStart };
        self.outcome.get_or_insert(blame);
        self.stop_next()
    }

    fn router_exited(&mut self) -> Vec<Action> {
        self.router_alive = false;
        if self.shard == Shard::Pausing {
            self.shard = Shard::Gone;
        }
        self.outcome.get_or_insert(Outcome::WebserverFailed);
        self.stop_next()
    }

    fn deadline(&mut self) -> Vec<Action> {
        match (self.router_alive, self.is_alive(Role::Shard)) {
            _ if !self.is_stopping() && self.shard == Shard::Dying => {
                self.shard = Shard::Gone;
                self.outcome = Some(Outcome::ShardFailed);
                self.stop_next()
            }
            _ if !self.is_stopping() => Vec::new(),
            (true, _) if !self.router_asked => self.ask_router(),
            (true, _) => vec![Action::Kill(Role::Router)],
            (false, true) => vec![Action::Kill(Role::Shard)],
            (false, false) => Vec::new(),
        }
    }

    /// Asks the next child in line to end. A router that served with a shard that is gone is not asked
    /// at once: it tells its clients what happened, which a signal would cut short.
    fn stop_next(&mut self) -> Vec<Action> {
        match (self.router_alive, self.is_alive(Role::Shard)) {
            (true, false) if self.shard == Shard::Gone && self.was_ready => {
                vec![Action::GiveUp, Action::Arm(SHARD_LOST_NOTICE)]
            }
            (true, _) => self.ask_router(),
            (false, true) => vec![Action::Terminate(Role::Shard), Action::Arm(SHARD_GRACE)],
            (false, false) => Vec::new(),
        }
    }

    /// Asking a router again that is already draining does no harm, but shortens its time.
    fn ask_router(&mut self) -> Vec<Action> {
        self.router_asked = true;
        let grace = if self.shard == Shard::Gone { self.grace.min(GRACE_WITHOUT_SHARD) } else { self.grace };
        vec![Action::Terminate(Role::Router), Action::Arm(grace.saturating_add(ROUTER_MARGIN))]
    }

    fn kill_all(&mut self) -> Vec<Action> {
        self.at_once = true;
        if self.shard == Shard::Pausing {
            self.shard = Shard::Gone;
        }
        let running = [Role::Router, Role::Shard].into_iter().filter(|role| self.is_alive(*role));
        running.map(Action::Kill).collect()
    }
}

/// The first restart is immediate: most failures do not come back, and clients wait.
fn pause_after(n_failures: u32) -> Duration {
    match n_failures.checked_sub(2) {
        None => Duration::ZERO,
        Some(doublings) => FIRST_PAUSE.saturating_mul(2u32.saturating_pow(doublings)).min(LONGEST_PAUSE),
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
