//! What to do when a child ends, a signal comes or a deadline passes. A pure state machine: no
//! process, no clock, no task; durations go out as values.
//!
//! Driven by `supervise::run` alone. The order of an orderly end is always the same: the router
//! first, since it drains requests that need the shard, then the shard. Nothing is restarted;
//! that is the orchestrator's work, as with TGI.

use std::time::Duration;

/// How long the shard gets to end by itself after SIGTERM.
const SHARD_GRACE: Duration = Duration::from_secs(10);
/// The router ends by itself at the end of its grace; this much later it is made to.
const ROUTER_MARGIN: Duration = Duration::from_millis(500);
/// How long a router that lost its shard gets to notice, tell its clients and end by itself.
const SHARD_LOST_NOTICE: Duration = Duration::from_secs(1);
/// How long it gets when it is then asked to end: its requests cannot finish any more.
const GRACE_WITHOUT_SHARD: Duration = Duration::from_secs(5);

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
}

/// How the launch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// By a signal to the launcher: success.
    Signalled,
    /// The shard ended before it was ready.
    ShardCannotStart,
    /// The shard ended after it was ready.
    ShardFailed,
    /// The router ended by itself.
    WebserverFailed,
}

/// State of a launch, from the moment both children run.
#[derive(Debug)]
pub struct Policy {
    grace: Duration,
    shard_ready: bool,
    shard_alive: bool,
    router_alive: bool,
    router_asked: bool,
    outcome: Option<Outcome>,
}

impl Policy {
    /// Both children run; the router gets `grace` to drain when the end comes.
    pub fn new(grace: Duration) -> Self {
        Self {
            grace,
            shard_ready: false,
            shard_alive: true,
            router_alive: true,
            router_asked: false,
            outcome: None,
        }
    }

    /// The outcome, once both children have ended.
    pub fn finished(&self) -> Option<Outcome> {
        self.outcome.filter(|_| !self.shard_alive && !self.router_alive)
    }

    /// Whether this child has not ended.
    pub fn is_alive(&self, role: Role) -> bool {
        match role {
            Role::Shard => self.shard_alive,
            Role::Router => self.router_alive,
        }
    }

    /// Whether the children are being ended.
    pub fn is_stopping(&self) -> bool {
        self.outcome.is_some()
    }

    /// Takes an event, answers what to do now, in order.
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::ShardReady => {
                self.shard_ready = true;
                Vec::new()
            }
            Event::Exited(role) => self.exited(role),
            Event::Signal if self.is_stopping() => self.kill_all(),
            Event::Signal => {
                self.outcome = Some(Outcome::Signalled);
                self.stop_next()
            }
            Event::Deadline if !self.is_stopping() => Vec::new(),
            Event::Deadline if self.router_alive && !self.router_asked => self.ask_router(),
            Event::Deadline if self.router_alive => vec![Action::Kill(Role::Router)],
            Event::Deadline if self.shard_alive => vec![Action::Kill(Role::Shard)],
            Event::Deadline => Vec::new(),
        }
    }

    fn exited(&mut self, role: Role) -> Vec<Action> {
        match role {
            Role::Shard => self.shard_alive = false,
            Role::Router => self.router_alive = false,
        }
        let blame = match role {
            Role::Router => Outcome::WebserverFailed,
            Role::Shard if self.shard_ready => Outcome::ShardFailed,
            Role::Shard => Outcome::ShardCannotStart,
        };
        self.outcome.get_or_insert(blame);
        self.stop_next()
    }

    /// Asks the next child in line to end. A router that served with a shard that is gone is not asked
    /// at once: it tells its clients what happened, which a signal would cut short.
    fn stop_next(&mut self) -> Vec<Action> {
        match (self.router_alive, self.shard_alive) {
            (true, false) if self.shard_ready && !self.router_asked => vec![Action::Arm(SHARD_LOST_NOTICE)],
            (true, _) => self.ask_router(),
            (false, true) => vec![Action::Terminate(Role::Shard), Action::Arm(SHARD_GRACE)],
            (false, false) => Vec::new(),
        }
    }

    /// Asking a router again that is already draining does no harm, but shortens its time.
    fn ask_router(&mut self) -> Vec<Action> {
        self.router_asked = true;
        let grace = if self.shard_alive { self.grace } else { self.grace.min(GRACE_WITHOUT_SHARD) };
        vec![Action::Terminate(Role::Router), Action::Arm(grace.saturating_add(ROUTER_MARGIN))]
    }

    fn kill_all(&self) -> Vec<Action> {
        let alive = [(Role::Router, self.router_alive), (Role::Shard, self.shard_alive)];
        alive.into_iter().filter(|(_, alive)| *alive).map(|(role, _)| Action::Kill(role)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Action::{Arm, Kill, Terminate};
    use super::Event::{Deadline, Exited, ShardReady, Signal};
    use super::Role::{Router, Shard};
    use super::*;
    use proptest::prelude::*;

    const GRACE: Duration = Duration::from_secs(90);

    type History<'a> = &'a [(Event, &'a [Action])];

    #[test]
    fn scenarios() {
        let drain: &[Action] = &[Terminate(Router), Arm(GRACE + ROUTER_MARGIN)];
        let hurry: &[Action] = &[Terminate(Router), Arm(GRACE_WITHOUT_SHARD + ROUTER_MARGIN)];
        let notice: &[Action] = &[Arm(SHARD_LOST_NOTICE)];
        let then_shard: &[Action] = &[Terminate(Shard), Arm(SHARD_GRACE)];
        let kill_both: &[Action] = &[Kill(Router), Kill(Shard)];
        let serving: History =
            &[(ShardReady, &[]), (Signal, drain), (Exited(Router), then_shard), (Exited(Shard), &[])];
        let deaf: History = &[
            (Signal, drain),
            (Deadline, &[Kill(Router)]),
            (Exited(Router), then_shard),
            (Deadline, &[Kill(Shard)]),
            (Exited(Shard), &[]),
        ];
        let twice: History =
            &[(Signal, drain), (Signal, kill_both), (Exited(Router), then_shard), (Exited(Shard), &[])];
        let unnoticed: History = &[
            (ShardReady, &[]),
            (Exited(Shard), notice),
            (Deadline, hurry),
            (Deadline, &[Kill(Router)]),
            (Exited(Router), &[]),
        ];
        let cases: [(&str, History, Outcome); 9] = [
            ("signal while serving", serving, Outcome::Signalled),
            ("signal while loading", &serving[1..], Outcome::Signalled),
            ("children that do not listen", deaf, Outcome::Signalled),
            ("second signal", twice, Outcome::Signalled),
            (
                "shard never ready",
                &[(Exited(Shard), hurry), (Exited(Router), &[])],
                Outcome::ShardCannotStart,
            ),
            (
                "shard crash, the router ends by itself",
                &[(ShardReady, &[]), (Exited(Shard), notice), (Exited(Router), &[])],
                Outcome::ShardFailed,
            ),
            ("shard crash, the router does not notice", unnoticed, Outcome::ShardFailed),
            (
                "shard crash while draining",
                &[(ShardReady, &[]), (Signal, drain), (Exited(Shard), hurry), (Exited(Router), &[])],
                Outcome::Signalled,
            ),
            ("router crash", &[(Exited(Router), then_shard), (Exited(Shard), &[])], Outcome::WebserverFailed),
        ];
        for (name, history, outcome) in cases {
            let mut policy = Policy::new(GRACE);
            for (event, actions) in history {
                assert_eq!(policy.finished(), None, "{name}: finished before {event:?}");
                assert_eq!(policy.on(*event), *actions, "{name}: after {event:?}");
            }
            assert_eq!(policy.finished(), Some(outcome), "{name}");
        }
    }

    #[test]
    fn the_shorter_grace_counts_when_the_shard_is_gone() {
        let mut policy = Policy::new(Duration::from_secs(1));
        let time = Duration::from_secs(1) + ROUTER_MARGIN;
        assert_eq!(policy.on(Exited(Shard)), [Terminate(Router), Arm(time)]);
    }

    #[test]
    fn a_grace_without_end() {
        assert_eq!(Policy::new(Duration::MAX).on(Signal), [Terminate(Router), Arm(Duration::MAX)]);
    }

    proptest! {
        /// However events fall: two exits finish it, the first cause is kept, nobody is signalled after its end.
        #[test]
        fn always_ends(noise in proptest::collection::vec(0..3u8, 0..12), shard_first: bool, at in 0..12usize) {
            let mut policy = Policy::new(GRACE);
            let order = if shard_first { [Shard, Router] } else { [Router, Shard] };
            let mut events: Vec<Event> =
                noise.iter().map(|kind| [ShardReady, Signal, Deadline][usize::from(*kind)]).collect();
            events.insert(at.min(events.len()), Exited(order[0]));
            events.push(Exited(order[1]));
            let mut ended = Vec::new();
            for event in events {
                prop_assert_eq!(policy.finished(), None);
                if let Exited(role) = event {
                    ended.push(role);
                }
                let before = policy.outcome;
                for action in policy.on(event) {
                    if let Terminate(role) | Kill(role) = action {
                        prop_assert!(!ended.contains(&role));
                        prop_assert!(policy.is_stopping());
                    }
                }
                prop_assert!(before.is_none() || policy.outcome == before);
            }
            prop_assert!(policy.finished().is_some());
        }
    }
}
