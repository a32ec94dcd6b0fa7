//! Tests of the command line: completeness against TGI's list, forms, warnings, secrets.

use clap::CommandFactory;

use super::*;

/// Every long flag of TGI's launcher, with its short form.
const TGI_FLAGS: &[(&str, Option<char>)] = &[
    ("model-id", None),
    ("revision", None),
    ("validation-workers", None),
    ("sharded", None),
    ("num-shard", None),
    ("quantize", None),
    ("speculate", None),
    ("dtype", None),
    ("kv-cache-dtype", None),
    ("trust-remote-code", None),
    ("max-concurrent-requests", None),
    ("max-best-of", None),
    ("max-stop-sequences", None),
    ("max-top-n-tokens", None),
    ("max-input-tokens", None),
    ("max-input-length", None),
    ("max-total-tokens", None),
    ("waiting-served-ratio", None),
    ("max-batch-prefill-tokens", None),
    ("max-batch-total-tokens", None),
    ("max-waiting-tokens", None),
    ("max-batch-size", None),
    ("cuda-graphs", None),
    ("hostname", None),
    ("port", Some('p')),
    ("prometheus-port", None),
    ("shard-uds-path", None),
    ("master-addr", None),
    ("master-port", None),
    ("huggingface-hub-cache", None),
    ("weights-cache-override", None),
    ("disable-custom-kernels", None),
    ("cuda-memory-fraction", None),
    ("rope-scaling", None),
    ("rope-factor", None),
    ("json-output", None),
    ("otlp-endpoint", None),
    ("otlp-service-name", None),
    ("cors-allow-origin", None),
    ("api-key", None),
    ("watermark-gamma", None),
    ("watermark-delta", None),
    ("ngrok", None),
    ("ngrok-authtoken", None),
    ("ngrok-edge", None),
    ("tokenizer-config-path", None),
    ("disable-grammar-support", None),
    ("env", Some('e')),
    ("max-client-batch-size", None),
    ("lora-adapters", None),
    ("usage-stats", None),
    ("payload-limit", None),
    ("enable-prefill-logprobs", None),
    ("graceful-termination-timeout", Some('g')),
];
const OUR_FLAGS: &[(&str, &str)] = &[
    ("device", "QUERN_DEVICE"),
    ("threads", "QUERN_THREADS"),
    ("ops", "QUERN_OPS"),
    ("dummy-weights", "QUERN_DUMMY_WEIGHTS"),
    ("api-key-file", "API_KEY_FILE"),
    ("metrics-compat", "METRICS_COMPAT"),
    ("tgi-compat", "TGI_COMPAT"),
    ("compat-return-full-text", "COMPAT_RETURN_FULL_TEXT"),
    ("prefix-caching", "PREFIX_CACHING"),
    ("max-shard-restarts", "QUERN_MAX_SHARD_RESTARTS"),
    ("shard-step-timeout", "QUERN_SHARD_STEP_TIMEOUT"),
    ("canary-interval", "QUERN_CANARY_INTERVAL"),
];

fn parse(flags: &[&str]) -> Result<Invocation, String> {
    parse_from(std::iter::once(&"launcher").chain(flags)).map_err(|error| error.to_string())
}

#[test]
fn every_flag_of_tgi_with_its_environment_twin() {
    let command = Cli::command();
    for (long, short) in TGI_FLAGS {
        let arg = command.get_arguments().find(|arg| arg.get_long() == Some(long)).expect(long);
        assert_eq!(arg.get_short(), *short, "{long}");
        let twin = arg.get_env().map(|name| name.to_string_lossy().into_owned());
        let expected = (*long != "env").then(|| long.to_uppercase().replace('-', "_"));
        assert_eq!(twin, expected, "{long}");
    }
    for (long, variable) in OUR_FLAGS {
        let arg = command.get_arguments().find(|arg| arg.get_long() == Some(long)).expect(long);
        assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(*variable), "{long}");
    }
    let known = |long: &str| {
        TGI_FLAGS.iter().any(|(name, _)| *name == long) || OUR_FLAGS.iter().any(|(name, _)| *name == long)
    };
    let extra: Vec<&str> =
        command.get_arguments().filter_map(|arg| arg.get_long()).filter(|long| !known(long)).collect();
    assert!(extra.iter().all(|long| ["help", "version"].contains(long)), "not in a table above: {extra:?}");
}

#[test]
fn the_command_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn defaults_are_tgis() {
    let args = parse(&[]).expect("no flags").cli.args;
    assert_eq!((args.server.hostname.as_str(), args.server.port), ("0.0.0.0", 3000));
    assert_eq!(args.server.graceful_termination_timeout, 90);
    assert_eq!(args.limits.max_concurrent_requests, 128);
    assert_eq!(args.limits.waiting_served_ratio, 0.3);
    assert_eq!((args.limits.max_input(), args.limits.max_total_tokens), (None, None));
    assert!(!args.json_output && !args.env && args.model.model_id.is_none());
}

#[test]
fn the_launch_line_of_the_model_card() {
    let flags = "--model-id TheBloke/Qwen-14B-Chat-AWQ --port 3000 --quantize awq --max-input-length 3696 \
                 --max-total-tokens 4096 --max-batch-prefill-tokens 4096";
    let parsed = parse(&flags.split_whitespace().collect::<Vec<_>>()).expect("parses");
    let args = parsed.cli.args;
    assert_eq!(args.limits.max_input(), Some(3696));
    assert_eq!(args.model.quantize, Some(Quantization::Awq));
    assert_eq!(parsed.without_effect, Vec::<String>::new());
}

#[test]
fn only_flags_that_were_set_and_do_nothing_are_named() {
    let cases: [(&[&str], &[&str]); 8] = [
        (&[], &[]),
        (&["--port", "1"], &[]),
        (&["--usage-stats", "off"], &[]),
        (&["--prometheus-port", "9000"], &["prometheus-port"]),
        (&["--ngrok", "--speculate", "2"], &["speculate", "ngrok"]),
        (&["--max-waiting-tokens", "20"], &["max-waiting-tokens"]),
        (&["--cuda-graphs", "1,2,4", "--dtype", "bfloat16"], &["dtype", "cuda-graphs"]),
        (&["--rope-scaling", "dynamic", "--rope-factor", "2.0"], &["rope-scaling", "rope-factor"]),
    ];
    for (flags, named) in cases {
        assert_eq!(parse(flags).expect("parses").without_effect, named, "{flags:?}");
    }
}

#[test]
fn values_out_of_their_sets_are_refused() {
    for flags in [
        ["--quantize", "int3"],
        ["--dtype", "float64"],
        ["--kv-cache-dtype", "fp8"],
        ["--usage-stats", "maybe"],
        ["--sharded", "perhaps"],
        ["--device", "tpu"],
        ["--port", "70000"],
        ["--threads", "0"],
        ["--max-total-tokens", "many"],
        ["--max-shard-restarts", "few"],
        ["--shard-step-timeout", "1e300"],
        ["--canary-interval", "soon"],
        ["--no-such-flag", "1"],
    ] {
        assert!(parse(&flags).expect_err(flags[1]).contains(flags[0]), "{flags:?}");
    }
}

#[test]
fn secrets_are_never_shown() {
    let parsed = parse(&["--api-key", "s3cret", "--ngrok-authtoken", "t0ken"]).expect("parses");
    let shown = format!("{:?}", parsed.cli.args);
    assert!(shown.contains("[redacted]") && !shown.contains("s3cret") && !shown.contains("t0ken"), "{shown}");
    assert_eq!(parsed.cli.args.server.api_key[0].expose(), "s3cret");
}

#[test]
fn convert_is_a_subcommand() {
    let parsed = parse(&["convert", "model.gguf", "out", "--fp16"]).expect("parses");
    let Some(Command::Convert(arguments)) = parsed.cli.command else { panic!("not convert") };
    assert_eq!((arguments.gguf.to_str(), arguments.out.to_str()), (Some("model.gguf"), Some("out")));
    assert!(parse(&["convert", "model.gguf"]).is_err());
    assert!(parse(&["--port", "1", "convert", "a", "b"]).is_err(), "serving flags with a subcommand");
}

#[test]
fn quantize_passes_everything_on() {
    let flags = ["in", "out", "--group-size", "64", "--help"];
    let parsed = parse(&[&["quantize"][..], &flags].concat()).expect("parses");
    let Some(Command::Quantize(passed_on)) = parsed.cli.command else { panic!("not quantize") };
    assert_eq!(passed_on.arguments, flags);
}
