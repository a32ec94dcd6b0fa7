//! Histories of events through the policy: what it does after each, and how the launch ends.

use proptest::prelude::*;

use super::Action::{Arm, GiveUp, Kill, Pause, StartShard, Terminate};
use super::Event::{Deadline, Exited, PauseOver, ShardReady, ShardServes, ShardUseless, Signal};
use super::Role::{Router, Shard};
use super::*;

const GRACE: Duration = Duration::from_secs(90);
const NOW: Action = Pause(Duration::ZERO);

type History<'a> = &'a [(Event, &'a [Action])];
/// Its name, its history, its end.
type Case<'a> = (&'a str, Vec<(Event, &'a [Action])>, Outcome);

fn check(name: &str, mut policy: Policy, history: History, outcome: Outcome) {
    for (event, actions) in history {
        assert_eq!(policy.finished(), None, "{name}: finished before {event:?}");
        assert_eq!(policy.on(*event), *actions, "{name}: after {event:?}");
    }
    assert_eq!(policy.finished(), Some(outcome), "{name}");
}

const DRAIN: &[Action] = &[Terminate(Router), Arm(Duration::from_secs(95))];
const THEN_SHARD: &[Action] = &[Terminate(Shard), Arm(SHARD_GRACE)];
const HURRY: &[Action] = &[Terminate(Router), Arm(Duration::from_secs(10))];
const KILL: &[Action] = &[Kill(Shard), Arm(KILL_PATIENCE)];
const TELL: &[Action] = &[GiveUp, Arm(SHARD_LOST_NOTICE)];

#[test]
fn without_restarts() {
    let serving: History =
        &[(ShardReady, &[]), (Signal, DRAIN), (Exited(Router), THEN_SHARD), (Exited(Shard), &[])];
    let deaf: History = &[
        (Signal, DRAIN),
        (Deadline, &[Kill(Router)]),
        (Exited(Router), THEN_SHARD),
        (Deadline, &[Kill(Shard)]),
        (Exited(Shard), &[]),
    ];
    let kill_both: &[Action] = &[Kill(Router), Kill(Shard)];
    let twice: History =
        &[(Signal, DRAIN), (Signal, kill_both), (Exited(Router), THEN_SHARD), (Exited(Shard), &[])];
    let unnoticed: History = &[
        (ShardReady, &[]),
        (Exited(Shard), TELL),
        (Deadline, HURRY),
        (Deadline, &[Kill(Router)]),
        (Exited(Router), &[]),
    ];
    let cases: [(&str, History, Outcome); 9] = [
        ("signal while serving", serving, Outcome::Signalled),
        ("signal while loading", &serving[1..], Outcome::Signalled),
        ("children that do not listen", deaf, Outcome::Signalled),
        ("second signal", twice, Outcome::Signalled),
        ("never ready", &[(Exited(Shard), HURRY), (Exited(Router), &[])], Outcome::ShardCannotStart),
        (
            "crash, the router ends by itself",
            &[(ShardReady, &[]), (Exited(Shard), TELL), (Exited(Router), &[])],
            Outcome::ShardFailed,
        ),
        ("crash, the router does not end", unnoticed, Outcome::ShardFailed),
        (
            "crash while draining: the router is told, then made to end",
            &[
                (ShardReady, &[]),
                (Signal, DRAIN),
                (Exited(Shard), TELL),
                (Deadline, &[Kill(Router)]),
                (Exited(Router), &[]),
            ],
            Outcome::Signalled,
        ),
        ("router crash", &[(Exited(Router), THEN_SHARD), (Exited(Shard), &[])], Outcome::WebserverFailed),
    ];
    for (name, history, outcome) in cases {
        check(name, Policy::new(GRACE, 0), history, outcome);
    }
}

#[test]
fn with_restarts() {
    let half: &[Action] = &[Pause(Duration::from_millis(500))];
    let stop: History = &[(Signal, DRAIN), (Exited(Router), THEN_SHARD), (Exited(Shard), &[])];
    let restart: History =
        &[(Exited(Shard), &[NOW]), (PauseOver, &[StartShard]), (ShardReady, &[]), (ShardServes, &[])];
    let ready: History = &[(ShardReady, &[])];
    let loop_: History = &[
        (ShardReady, &[]),
        (Exited(Shard), &[NOW]),
        (PauseOver, &[StartShard]),
        (Exited(Shard), half),
        (PauseOver, &[StartShard]),
        (ShardReady, &[]),
        (Exited(Shard), TELL),
        (Exited(Router), &[]),
    ];
    let hung: History = &[
        (ShardReady, &[]),
        (ShardUseless, KILL),
        (ShardUseless, &[]),
        (Exited(Shard), &[NOW]),
        (ShardUseless, &[]),
        (PauseOver, &[StartShard]),
    ];
    let immortal: History =
        &[(ShardReady, &[]), (ShardUseless, KILL), (Deadline, TELL), (Exited(Router), &[])];
    let cases: [Case; 8] = [
        ("a shard that cannot even be killed", immortal.to_vec(), Outcome::ShardFailed),
        (
            "an answer forgives what was before",
            [ready, restart, restart, restart, restart, stop].concat(),
            Outcome::Signalled,
        ),
        ("three ends without an answer between", loop_.to_vec(), Outcome::ShardFailed),
        ("a useless shard is killed once", [hung, stop].concat(), Outcome::Signalled),
        (
            "never ready is not restarted",
            vec![(Exited(Shard), HURRY), (Exited(Router), &[])],
            Outcome::ShardCannotStart,
        ),
        (
            "the router is not replaced",
            vec![(ShardReady, &[]), (Exited(Shard), &[NOW]), (Exited(Router), &[])],
            Outcome::WebserverFailed,
        ),
        (
            "requests that drain get their shard back",
            [&[(ShardReady, &[] as &[Action]), (Signal, DRAIN)], restart, &stop[1..]].concat(),
            Outcome::Signalled,
        ),
        (
            "a second signal while nobody waits for the shard",
            vec![
                (ShardReady, &[]),
                (Exited(Shard), &[NOW]),
                (Signal, DRAIN),
                (Signal, &[Kill(Router)]),
                (PauseOver, &[]),
                (Exited(Router), &[]),
            ],
            Outcome::Signalled,
        ),
    ];
    for (name, history, outcome) in cases {
        check(name, Policy::new(GRACE, 2), &history, outcome);
    }
}

#[test]
fn pauses_double_up_to_a_limit() {
    let millis = |n| pause_after(n).as_millis();
    assert_eq!([1, 2, 3, 4, 5].map(millis), [0, 500, 1000, 2000, 4000]);
    assert_eq!([9, 99, u32::MAX].map(millis), [30_000; 3]);
}

#[test]
fn the_shorter_grace_counts_when_the_shard_is_gone() {
    let mut policy = Policy::new(Duration::from_secs(1), 0);
    let time = Duration::from_secs(1) + ROUTER_MARGIN;
    assert_eq!(policy.on(Exited(Shard)), [Terminate(Router), Arm(time)]);
}

#[test]
fn a_grace_without_end() {
    assert_eq!(Policy::new(Duration::MAX, 0).on(Signal), [Terminate(Router), Arm(Duration::MAX)]);
}

proptest! {
    /// However events fall: nobody is signalled after its end, no shard is started beside another or after the
    /// router's end, the first cause is kept, and the exits of what runs finish it.
    #[test]
    fn always_ends(kinds in proptest::collection::vec(0..7u8, 0..40), max_restarts in 0..4u32) {
        let mut policy = Policy::new(GRACE, max_restarts);
        let (mut shard, mut router) = (true, true);
        let noise = kinds.iter().map(|kind| {
            [ShardReady, Signal, Deadline, PauseOver, ShardServes, ShardUseless, Exited(Shard)][usize::from(*kind)]
        });
        let ending = [Exited(Router), PauseOver, Exited(Shard)];
        for event in noise.chain(ending) {
            match event {
                Exited(Shard) if !shard => continue,
                Exited(Shard) => shard = false,
                Exited(Router) => router = false,
                // A killed process that does not end is left behind.
                Deadline if policy.shard == super::Shard::Dying && !policy.is_stopping() => shard = false,
                _ => {}
            }
            let before = policy.outcome;
            for action in policy.on(event) {
                match action {
                    Terminate(Shard) | Kill(Shard) => prop_assert!(shard),
                    Terminate(Router) | Kill(Router) => prop_assert!(router),
                    StartShard => {
                        prop_assert!(router && !shard);
                        shard = true;
                    }
                    GiveUp => prop_assert!(router && !shard),
                    Arm(_) | Pause(_) => {}
                }
            }
            prop_assert_eq!((policy.is_alive(Shard), policy.is_alive(Router)), (shard, router));
            prop_assert!(before.is_none() || policy.outcome == before);
            prop_assert_eq!(policy.finished().is_some(), !shard && !router);
        }
    }
}
