//! Children that fail: exit code 1, the child's own words in one last line, the other child ended.

use rustix::process::Signal;

use crate::harness::{NOTICING_ROUTER, SERVING_ROUTER, SERVING_SHARD, Setup};

/// As TGI: a shard that ends is the server's end.
const NO_RESTART: &[&str] = &["--max-shard-restarts", "0"];

#[test]
fn a_failing_child_ends_the_launch_with_its_own_words() {
    let cases = [
        (
            "log loading; echo 'Error: model.safetensors is truncated' >&2; exit 1",
            SERVING_ROUTER,
            "Error: ShardCannotStart(\"model.safetensors is truncated\")",
        ),
        (
            "exit 3",
            SERVING_ROUTER,
            "Error: ShardCannotStart(\"the process ended with exit code 3 without a word\")",
        ),
        (
            "exit 0",
            SERVING_ROUTER,
            "Error: ShardCannotStart(\"the process ended with exit code 0 without a word\")",
        ),
        (
            "log loaded; ready; until_noticed; echo 'Error: out of blocks' >&2; exit 1",
            NOTICING_ROUTER,
            "Error: ShardFailed(\"out of blocks\")",
        ),
        (
            "log loaded; ready; until_noticed; kill -9 $$",
            NOTICING_ROUTER,
            "Error: ShardFailed(\"the process was killed by SIGKILL (often the kernel, when memory runs out) without a word\")",
        ),
        (
            SERVING_SHARD,
            "log Connected; echo \"thread 'main' panicked\" >&2; echo 'Error: port 3000 is in use' >&2; exit 1",
            "Error: WebserverFailed(\"port 3000 is in use\")",
        ),
        (
            "log loading; serve",
            "echo 'Error: no tokenizer' >&2; exit 1",
            "Error: WebserverFailed(\"no tokenizer\")",
        ),
    ];
    for (shard, router, last) in cases {
        let ended = Setup::new(NO_RESTART).with_model().shard(shard).router(router).run();
        assert_eq!((ended.code, ended.last()), (Some(1), last), "{shard} / {router}:\n{}", ended.output());
        ended.leaves_nothing();
    }
}

#[test]
fn the_report_has_tgis_lines() {
    let shard = "log loading; echo 'thread panicked' >&2; echo 'Error: broken' >&2; exit 1";
    let ended = Setup::new(&[]).with_model().shard(shard).run();
    let report = ended.position("Shard complete standard error output:");
    assert_eq!(
        ended.lines[report + 1..report + 3],
        ["thread panicked", "Error: broken"],
        "{}",
        ended.output()
    );
    ended.position("Shard 0 crashed");
    let ended = Setup::new(&[]).with_model().router("exit 1").run();
    ended.position("Webserver Crashed");
}

#[test]
fn a_router_that_lost_its_shard_may_tell_its_clients_and_is_then_asked_to_end() {
    let shard = "ready; until_noticed; exit 1";
    let ended = Setup::new(NO_RESTART).with_model().shard(shard).router(NOTICING_ROUTER).run();
    ended.position("told the clients");
    assert!(!ended.output().contains("Terminating webserver"), "{}", ended.output());
    let ended = Setup::new(NO_RESTART).with_model().shard(shard).run();
    assert!(ended.position("Shard 0 crashed") < ended.position("Terminating webserver"));
    assert!(ended.last().starts_with("Error: ShardFailed("), "{}", ended.output());
    ended.leaves_nothing();
}

#[test]
fn a_draining_router_gets_its_time_when_the_shard_is_gone() {
    let router = "trap 'log drained; exit 0' TERM; log Connected; while :; do sleep 0.01; done";
    let ended = Setup::new(&[]).with_model().shard("until_line Connected; exit 1").router(router).run();
    assert!(ended.position("Shard 0 crashed") < ended.position("drained"));
    assert_eq!(ended.code, Some(1));
}

#[test]
fn a_program_that_cannot_be_run_is_named() {
    for (variable, error) in
        [("QUERN_SHARD_BIN", "ShardCannotStart"), ("QUERN_ROUTER_BIN", "WebserverCannotStart")]
    {
        let ended = Setup::new(&[]).with_model().env(variable, "/no/such/program").run();
        assert_eq!(ended.code, Some(1));
        assert!(
            ended.last().starts_with(&format!("Error: {error}(\"/no/such/program")),
            "{}",
            ended.output()
        );
        ended.leaves_nothing();
    }
}

#[test]
fn a_grandchild_that_keeps_the_output_open_does_not_keep_the_launcher() {
    let router = "sleep 1000 & echo $! >\"$FAKE_DIR/grandchild.pid\"; log Connected; wait";
    let mut launched = Setup::new(&[]).with_model().router(router).start();
    launched.until("Shard ready in").until("Connected").signal(Signal::TERM);
    launched.until("webserver was killed by signal 15");
    launched.end_process("grandchild");
}
