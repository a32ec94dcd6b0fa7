//! Signals to the launcher: drain in order, at once on the second, nothing left behind ever.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Setup, ends};

/// A router that takes its time to drain, and says so.
const DRAINING_ROUTER: &str =
    "trap 'log draining; log drained; exit 0' TERM; log Connected; while :; do sleep 0.01; done";

#[test]
fn any_stop_signal_drains_the_router_then_stops_the_shard() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut launched = Setup::new(&[]).with_model().router(DRAINING_ROUTER).start();
        launched.until("Shard ready in").until("Connected").signal(signal);
        let ended = launched.wait();
        assert_eq!(ended.code, Some(0), "{}", ended.output());
        let steps = [
            "signal received, starting graceful shutdown",
            "Terminating webserver",
            "drained",
            "webserver ended with exit code 0",
            "Terminating shard",
            "shard was killed by signal 15",
        ];
        let order: Vec<usize> = steps.iter().map(|part| ended.position(part)).collect();
        assert!(order.is_sorted(), "{}", ended.output());
        ended.leaves_nothing();
    }
}

#[test]
fn a_signal_while_the_shard_loads_is_no_failure() {
    let mut launched = Setup::new(&[]).with_model().shard("log loading; serve").start();
    launched.until("loading").until("listening").signal(Signal::TERM);
    let ended = launched.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.output());
    assert!(!ended.output().contains("Shard ready in"));
    ended.leaves_nothing();
}

#[test]
fn a_router_that_does_not_drain_in_time_is_killed() {
    let mut launched =
        Setup::new(&["-g", "0"]).with_model().router("trap '' TERM; log Connected; deaf").start();
    launched.until("Shard ready in").until("Connected").signal(Signal::TERM);
    let ended = launched.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.output());
    ended.position("webserver was killed by SIGKILL");
    ended.leaves_nothing();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own thread")]
fn a_second_signal_ends_everything_at_once() {
    let mut launched =
        Setup::new(&[]).with_model().shard("log loaded; ready; deaf").router("log Connected; deaf").start();
    launched.until("Shard ready in").until("Connected").signal(Signal::INT);
    launched.until("Terminating webserver");
    std::thread::sleep(Duration::from_millis(150)); // sooner it would be an echo of the first
    launched.signal(Signal::INT);
    let ended = launched.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.output());
    ended.position("another signal received while stopping");
    ended.leaves_nothing();
}

#[test]
fn an_echo_of_the_signal_changes_nothing() {
    let mut launched = Setup::new(&[]).with_model().router(DRAINING_ROUTER).start();
    launched.until("Shard ready in").until("Connected").together(&[Signal::TERM, Signal::INT, Signal::HUP]);
    let ended = launched.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.output());
    ended.position("drained");
    assert!(!ended.output().contains("another signal"), "{}", ended.output());
    ended.leaves_nothing();
}

#[test]
fn children_have_their_own_process_groups_and_know_their_parent() {
    let mut launched = Setup::new(&[]).with_model().start();
    launched.until("Shard ready in").until("Connected");
    for role in ["shard", "router"] {
        let pid = launched.child_pid(role);
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let group = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(2)).expect("a group");
        assert_eq!(group, pid.to_string(), "Ctrl-C must not reach the {role}");
    }
    let launcher = launched.pid().to_string();
    launched.signal(Signal::TERM);
    let ended = launched.wait();
    for role in ["shard", "router"] {
        assert_eq!(crate::harness::note(ended.folder.path(), &format!("{role}.parent")), launcher);
    }
}

#[test]
fn killing_the_launcher_ends_its_children() {
    let mut launched = Setup::new(&[]).with_model().start();
    launched.until("Shard ready in").until("Connected");
    let children = [launched.child_pid("shard"), launched.child_pid("router")];
    launched.signal(Signal::KILL);
    for pid in children {
        assert!(ends(pid), "left behind");
    }
}
