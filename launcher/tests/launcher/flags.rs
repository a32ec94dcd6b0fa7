//! Flags and environment variables as they arrive at the children.

use rustix::process::Signal;

use crate::harness::{Ended, Setup};

fn serve_and_stop(setup: Setup) -> Ended {
    let mut launched = setup.start();
    launched.until("Shard ready in").until("Connected").signal(Signal::TERM);
    launched.wait()
}

/// The value that a child got for a flag.
fn value<'a>(arguments: &'a [String], flag: &str) -> Option<&'a str> {
    arguments.iter().find_map(|argument| argument.strip_prefix(flag)?.strip_prefix('='))
}

#[test]
fn a_flag_wins_over_its_variable_which_wins_over_the_default() {
    let setup = Setup::new(&["--max-total-tokens", "500"])
        .with_model()
        .env("MAX_TOTAL_TOKENS", "400")
        .env("MAX_INPUT_LENGTH", "300")
        .env("JSON_OUTPUT", "false")
        .env("COMPAT_RETURN_FULL_TEXT", "false")
        .env("MAX_IMAGE_FETCH_SIZE", "5")
        .env("DISABLE_GRAMMAR_SUPPORT", "1")
        .env("QUERN_THREADS", "2");
    let ended = serve_and_stop(setup);
    let (router, shard) = (ended.arguments("router"), ended.arguments("shard"));
    let cases = [
        ("--max-total-tokens", Some("500")),
        ("--max-input-tokens", Some("300")),
        ("--max-best-of", Some("2")),
        ("--compat-return-full-text", Some("false")),
        ("--max-batch-size", None),
        ("--graceful-termination-timeout", Some("90")),
    ];
    for (flag, expected) in cases {
        assert_eq!(value(&router, flag), expected, "{flag} in {router:?}");
    }
    assert!(router.contains(&"--disable-grammar-support".to_owned()));
    assert!(!router.contains(&"--json-output".to_owned()));
    assert_eq!(value(&shard, "--threads"), Some("2"));
    // A child that read MAX_INPUT_LENGTH beside --max-input-tokens would see a contradiction.
    let environment = ended.environment("router").join("\n");
    assert!(
        !environment.contains("MAX_INPUT_LENGTH") && !environment.contains("MAX_TOTAL_TOKENS"),
        "{environment}"
    );
    assert!(environment.contains("MAX_IMAGE_FETCH_SIZE=5"), "not ours to hide: {environment}");
}

#[test]
fn boolean_variables_take_the_usual_words_only() {
    for (word, expected) in [("true", true), ("1", true), ("on", true), ("false", false), ("0", false)] {
        let ended = serve_and_stop(Setup::new(&[]).with_model().env("DISABLE_GRAMMAR_SUPPORT", word));
        let passed = ended.arguments("router").contains(&"--disable-grammar-support".to_owned());
        assert_eq!(passed, expected, "{word}");
    }
    let ended = Setup::new(&[]).with_model().env("DISABLE_GRAMMAR_SUPPORT", "perhaps").run();
    assert_eq!(ended.code, Some(2), "{}", ended.output());
}

#[test]
fn both_children_meet_at_one_socket_of_this_launch() {
    let mut first = Setup::new(&[]).with_model().start();
    first.until("Shard ready in");
    let second = serve_and_stop(Setup::new(&[]).with_model());
    first.until("Connected").signal(Signal::TERM);
    let first = first.wait();
    let sockets: Vec<String> = [&first, &second]
        .iter()
        .map(|ended| {
            let (shard, router) = (ended.arguments("shard"), ended.arguments("router"));
            let socket = value(&shard, "--uds-path").expect("a socket");
            assert_eq!(value(&router, "--master-shard-uds-path"), Some(socket));
            socket.to_owned()
        })
        .collect();
    assert_ne!(sockets[0], sockets[1]);
    let setup = Setup::new(&[]).with_model();
    let base = setup.folder.path().join("given").display().to_string();
    let ended = serve_and_stop(setup.env("SHARD_UDS_PATH", &base));
    assert_eq!(value(&ended.arguments("shard"), "--uds-path"), Some(format!("{base}-0").as_str()));
}

#[test]
fn the_api_key_is_handed_over_unseen() {
    for setup in [Setup::new(&["--api-key", "s3cret-key"]), Setup::new(&[]).env("API_KEY", "s3cret-key")] {
        let ended = serve_and_stop(setup.with_model());
        assert!(ended.environment("router").contains(&"API_KEY=s3cret-key".to_owned()));
        assert!(!ended.environment("shard").concat().contains("s3cret-key"));
        assert!(!ended.output().contains("s3cret-key"), "{}", ended.output());
        assert!(!ended.arguments("router").concat().contains("s3cret-key"));
        assert!(ended.output().contains("Bearer $API_KEY"));
    }
    let setup = Setup::new(&["--api-key", "one", "--api-key", "two"]).with_model();
    let ended = serve_and_stop(setup);
    assert!(ended.environment("router").join("\n").contains("API_KEY=one\ntwo"));
}

#[test]
fn flags_without_effect_warn_once_and_only_when_set() {
    let flags = ["--watermark-gamma", "0.5", "--usage-stats", "off"];
    let ended = serve_and_stop(Setup::new(&flags).with_model().env("LORA_ADAPTERS", "a,b"));
    let warnings: Vec<&String> = ended.lines.iter().filter(|line| line.contains(" WARN ")).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].contains("`--watermark-gamma` has no effect")
            && warnings[1].contains("`--lora-adapters`")
    );
}

#[test]
fn a_hostname_that_is_no_address_becomes_all_addresses() {
    let ended = serve_and_stop(Setup::new(&[]).with_model().env("HOSTNAME", "3f2a9c1b7d60"));
    ended.position("Invalid hostname, defaulting to 0.0.0.0");
    assert_eq!(value(&ended.arguments("router"), "--hostname"), Some("0.0.0.0"));
}

#[test]
fn a_snapshot_in_the_hub_cache_is_served() {
    let setup = Setup::new(&["--model-id", "owner/name", "--revision", "v1", "--port", "0"]);
    let repository = setup.folder.path().join("hub/models--owner--name");
    let snapshot = repository.join("snapshots/c0ffee");
    std::fs::create_dir_all(repository.join("refs")).expect("made");
    std::fs::create_dir_all(repository.join("snapshots")).expect("made");
    std::fs::write(repository.join("refs/v1"), "c0ffee").expect("written");
    std::fs::rename(setup.model(), &snapshot).expect("moved");
    let home = setup.folder.path().display().to_string();
    // Nobody answers there: what is in the cache is served all the same.
    let ended = serve_and_stop(setup.env("HF_HOME", &home).env("HF_ENDPOINT", "http://127.0.0.1:9"));
    assert_eq!(value(&ended.arguments("shard"), "--model-path"), snapshot.to_str());
    assert_eq!(value(&ended.arguments("router"), "--model-id"), Some("owner/name"));
}
