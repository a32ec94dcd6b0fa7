//! Shards that fail or hang after they were ready: replaced, until they fail too often in a row.

use rustix::process::Signal;

use crate::harness::{NOTICING_ROUTER, REPORTING_ROUTER, SERVING_ROUTER, Setup};

/// Dies three times after it was ready, then serves.
const DIES_THREE_TIMES: &str = "log loaded; ready; until_noticed; \
     until [ \"$(cat \"$FAKE_DIR/served\")\" = $$ ]; do sleep 0.01; done 2>/dev/null; \
     [ \"$(wc -l <\"$FAKE_DIR/shard.pids\")\" -gt 3 ] || kill -9 $$; log stays; serve";

#[test]
fn a_shard_that_died_is_replaced_while_the_router_lives_on() {
    let mut launched = Setup::new(&["--max-shard-restarts", "1"])
        .with_model()
        .shard(DIES_THREE_TIMES)
        .router(REPORTING_ROUTER)
        .start();
    launched.until("stays").signal(Signal::TERM);
    let ended = launched.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.output());
    let count = |part: &str| ended.lines.iter().filter(|line| line.contains(part)).count();
    let counts =
        (count("Shard ready in"), count("Shard 0 crashed: it was killed by SIGKILL"), count("Connected"));
    assert_eq!(counts, (4, 3, 1), "each answer forgives the failure before:\n{}", ended.output());
    ended.leaves_nothing();
}

#[test]
fn too_many_failures_in_a_row_are_an_error_with_the_shards_words() {
    let shard = "log loaded; ready; until_noticed; echo 'Error: out of blocks' >&2; exit 1";
    for (restarts, count) in [("0", ""), ("2", " (it ended 3 times in a row without an answer between)")] {
        let setup = Setup::new(&["--max-shard-restarts", restarts]).with_model();
        let ended = setup.shard(shard).router(NOTICING_ROUTER).run();
        let last = format!("Error: ShardFailed(\"out of blocks{count}\")");
        assert_eq!((ended.code, ended.last()), (Some(1), last.as_str()), "{}", ended.output());
        ended.position("told the clients");
        ended.leaves_nothing();
    }
}

#[test]
fn a_shard_that_cannot_load_again_counts_too() {
    let shard = "[ \"$(wc -l <\"$FAKE_DIR/shard.pids\")\" = 1 ] || exit 7; ready; until_noticed; exit 6";
    let setup = Setup::new(&["--max-shard-restarts", "1"]).with_model();
    let ended = setup.shard(shard).router(NOTICING_ROUTER).run();
    assert_eq!(ended.code, Some(1), "{}", ended.output());
    assert!(ended.last().contains("ended with exit code 7"), "{}", ended.output());
    ended.leaves_nothing();
}

#[test]
fn a_shard_that_the_router_cannot_use_is_killed_and_replaced() {
    let shard = "[ \"$(wc -l <\"$FAKE_DIR/shard.pids\")\" -gt 1 ] || trap '' TERM; log loaded; ready; serve";
    let router = "log Connected; until_line 'Shard ready in'; first=$(cat \"$FAKE_DIR/shard.pid\"); \
                  echo \"useless $first no answer\" >&0; until_line 'Shard ready in' 2; \
                  echo \"useless $first late\" >&0; log asked; serve";
    let mut launched = Setup::new(&[]).with_model().shard(shard).router(router).start();
    launched.until("asked");
    let pid = launched.child_pid("shard");
    launched.signal(Signal::TERM);
    let ended = launched.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.output());
    ended.position("Shard 0 was killed: no answer");
    let pids = crate::harness::note(ended.folder.path(), "shard.pids");
    assert_eq!(pids.lines().count(), 2, "a report about the shard before is not about this one");
    assert_eq!(pids.lines().last(), Some(pid.to_string().as_str()));
    ended.leaves_nothing();
}

#[test]
fn a_signal_while_no_shard_runs_ends_the_router_and_starts_nothing_more() {
    let shard = "ready; until_noticed; exit 1";
    // However late the signal comes, the launcher has not given up.
    let setup = Setup::new(&["--max-shard-restarts", "1000"]).with_model();
    let mut launched = setup.shard(shard).router(SERVING_ROUTER).start();
    launched.until("Shard 0 crashed").signal(Signal::TERM);
    let ended = launched.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.output());
    ended.leaves_nothing();
}
