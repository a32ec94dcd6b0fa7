//! What the launcher prints: its own lines, and the children's in their order.

use rustix::process::Signal;

use crate::harness::{Ended, Setup};

fn serve_and_stop(setup: Setup) -> Ended {
    let mut launched = setup.start();
    launched.until("Shard ready in").until("Try: curl").signal(Signal::TERM);
    launched.wait()
}

#[test]
fn lines_that_scripts_look_for() {
    let ended = serve_and_stop(Setup::new(&[]).with_model().shard("log loading; ready; serve"));
    let start = ended.position("Starting check and download process for");
    assert!(start < ended.position("Successfully downloaded weights for"));
    assert!(ended.position("Starting shard") < ended.position("Shard ready in"));
    ended.position("Starting Webserver");
    assert!(ended.position("Connected") < ended.position("Try: curl http://127.0.0.1:"));
    assert!(ended.lines.iter().all(|line| line.is_empty() || line.starts_with("20")), "{}", ended.output());
}

/// The router may see the shard's socket before the launcher does.
#[test]
fn a_served_shard_was_ready_before() {
    let router = r#"socket() { sed -n 's/^--uds-path=//p' "$FAKE_DIR/shard.args"; };
         until [ -e "$FAKE_DIR/shard.args" ] && [ -e "$(socket)" ]; do :; done; log Connected; serve"#;
    let mut launched = Setup::new(&[]).with_model().shard("ready; serve").router(router).start();
    launched.until("Try: curl").signal(Signal::TERM);
    let ended = launched.wait();
    assert!(ended.position("Shard ready in") < ended.position("Try: curl"), "{}", ended.output());
}

#[test]
fn stdout_and_stderr_of_a_child_stay_in_order() {
    let shard = "for i in 0 1 2 3 4 5 6 7 8 9; do log event $i; echo noise $i >&2; done; ready; serve";
    let ended = serve_and_stop(Setup::new(&[]).with_model().shard(shard));
    let found: Vec<&str> = ended
        .lines
        .iter()
        .filter_map(|line| line.split_once("event ").or(line.split_once("noise ")))
        .map(|(_, i)| i)
        .collect();
    let expected: Vec<String> = (0..10).flat_map(|i| [i.to_string(), i.to_string()]).collect();
    assert_eq!(found, expected, "{}", ended.output());
    assert!(ended.lines.contains(&"noise 3".to_owned()), "passed on as it is");
}

#[test]
fn json_output_is_json_on_every_line() {
    let event = r#"echo '{"timestamp":"t","level":"INFO","message":"Connected","target":"r"}'"#;
    let router = format!("echo 'not \"JSON\"' >&2; {event}; serve");
    let ended =
        serve_and_stop(Setup::new(&["--json-output"]).with_model().shard("ready; serve").router(&router));
    let mut messages = Vec::new();
    for line in &ended.lines {
        let event: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(event["timestamp"].is_string() && event["level"].is_string() && event["target"].is_string());
        messages.push(
            event
                .pointer("/fields/message")
                .unwrap_or(&event["message"])
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        );
    }
    for message in ["Starting shard", "Connected", "not \"JSON\""] {
        assert!(messages.iter().any(|found| found == message), "{message}: {messages:?}");
    }
    for role in ["shard", "router"] {
        assert!(ended.arguments(role).contains(&"--json-output".to_owned()));
    }
}

#[test]
fn the_log_level_is_honoured() {
    let mut launched = Setup::new(&[]).with_model().env("LOG_LEVEL", "warn").start();
    launched.until("Connected").signal(Signal::TERM);
    let ended = launched.wait();
    assert!(!ended.output().contains("Starting shard"), "{}", ended.output());
}

#[test]
fn the_environment_report_does_not_stop_the_launch() {
    let ended = serve_and_stop(Setup::new(&["-e"]).with_model());
    assert!(ended.position("Runtime environment:") < ended.position("Starting shard"));
    ended.position("Target: ");
}
