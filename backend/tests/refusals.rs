//! The shard's binary, started wrongly: one clear line, exit code 1, before any work is done.

use std::process::{Command, Output};

/// Name, flags beside the good ones, environment, a word of the message.
type Case<'a> = (&'a str, &'a [&'a str], &'a [(&'a str, &'a str)], &'a str);

fn shard(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_text-generation-shard"));
    command.args(args).envs(env.iter().copied()).output().expect("the binary was built")
}

#[test]
fn wrong_starts_end_with_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "text").unwrap();
    let (file, socket) = (file.to_str().unwrap(), dir.path().join("shard.sock"));
    let (model, socket) = (dir.path().to_str().unwrap(), socket.to_str().unwrap());
    let good = ["--model-path", model, "--uds-path", socket];
    let cases: [Case; 7] = [
        ("no model", &[], &[], "config.json"),
        ("model is a file", &["--model-path", file], &[], "is a file"),
        ("no folder", &["--model-path", "/no/such/model"], &[], "/no/such/model"),
        ("cuda", &["--device", "cuda", "--cuda-memory-fraction", "2"], &[], "--device cuda: "),
        ("two shards", &["--world-size", "2"], &[], "--world-size 1"),
        ("socket is a file", &["--uds-path", file], &[], "found another file"),
        ("parent gone", &[], &[("QUERN_PARENT_PID", "1")], "has gone"),
    ];
    for (name, args, env, message) in cases {
        let mut all = Vec::new();
        for pair in good.chunks(2).filter(|pair| !args.contains(&pair[0])) {
            all.extend_from_slice(pair);
        }
        all.extend_from_slice(args);
        let output = shard(&all, env);
        let stderr = String::from_utf8(output.stderr).unwrap();
        let last = stderr.lines().last().unwrap_or_default();
        assert_eq!(output.status.code(), Some(1), "{name}: {stderr}");
        assert!(last.starts_with("Error: ") && last.contains(message), "{name}: {stderr}");
        assert!(!stderr.contains("panicked"), "{name}: {stderr}");
    }
}
