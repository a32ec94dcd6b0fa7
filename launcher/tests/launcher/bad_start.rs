//! Launches that must be refused: one clear line, code 1, and no child was ever started.

use std::fs;
use std::net::TcpListener;

use crate::harness::{Ended, Setup};

fn refused(ended: &Ended, parts: &[&str]) {
    assert_eq!(ended.code, Some(1), "{}", ended.output());
    assert!(ended.last().starts_with("Error: "), "{}", ended.output());
    for part in parts {
        assert!(ended.last().contains(part), "{part:?} not in the last line of:\n{}", ended.output());
    }
    assert!(!ended.started("shard") && !ended.started("router"), "{}", ended.output());
    ended.leaves_nothing();
}

#[test]
fn flags_that_contradict_each_other_or_the_machine() {
    let cases: [(&[&str], &str); 7] = [
        (
            &["--max-input-tokens=9", "--max-input-length=9"],
            "ArgumentValidation(\"Both `max_input_tokens` (9)",
        ),
        (
            &["--max-input-tokens=9", "--max-total-tokens=9"],
            "`max_input_tokens`(9) must be < `max_total_tokens`(9)",
        ),
        (&["--validation-workers=0"], "ArgumentValidation(\"`validation_workers` must be > 0\")"),
        (&["--sharded=true"], "NotEnoughCUDADevices(\"`sharded` is true but only found 0 CUDA devices\")"),
        (&["--num-shard=2"], "`num_shard` is 2"),
        (&["--api-key="], "`api_key` is empty"),
        (&["--tokenizer-config-path=/no/such/file"], "there is no file /no/such/file"),
    ];
    for (flags, part) in cases {
        refused(&Setup::new(flags).with_model().run(), &[part]);
    }
}

#[test]
fn models_that_cannot_be_served() {
    let awq =
        r#"{"max_position_embeddings": 512, "quantization_config": {"quant_method": "awq", "bits": 4}}"#;
    let cases: [(&str, &[&str], &[&str]); 6] = [
        (awq, &["--quantize", "gptq"], &["`quantize` is gptq", "awq"]),
        ("{}", &["--quantize", "awq"], &["is not quantised"]),
        ("{}", &["--quantize", "eetq"], &["`quantize` = eetq is not supported"]),
        (awq, &["--max-total-tokens", "100000"], &["100000", "512"]),
        ("{", &[], &["config.json", "is not JSON"]),
        (r#"{"quantization_config": {"quant_method": "exl2"}}"#, &[], &["quantised with exl2"]),
    ];
    for (config, flags, parts) in cases {
        let setup = Setup::new(flags).with_model();
        fs::write(setup.model().join("config.json"), config).expect("written");
        refused(&setup.run(), parts);
    }
}

#[test]
fn folders_that_are_none() {
    let setup = Setup::new(&[]).with_model();
    fs::remove_file(setup.model().join("model.safetensors")).expect("removed");
    fs::write(setup.model().join("pytorch_model.bin"), "").expect("written");
    refused(&setup.run(), &["safetensors", "Pickle can run code"]);

    let setup = Setup::new(&[]).with_model();
    fs::remove_dir_all(setup.model()).expect("removed");
    refused(&setup.run(), &["there is no folder"]);

    let hub = Setup::new(&["--model-id", "owner/name", "--port", "0"]).env("HF_HUB_OFFLINE", "1");
    refused(&hub.run(), &["DownloadError", "owner/name", "HF_HUB_OFFLINE", "--model-id"]);
}

#[test]
fn a_port_in_use_is_found_before_anything_is_loaded() {
    let taken = TcpListener::bind("0.0.0.0:0").expect("bound");
    let port = taken.local_addr().expect("an address").port().to_string();
    refused(&Setup::new(&["--port", &port]).with_model().run(), &["in use", &port]);
}

#[test]
fn a_command_line_that_cannot_be_parsed_has_code_2() {
    let ended = Setup::new(&["--no-such-flag"]).run();
    assert_eq!(ended.code, Some(2));
    assert!(ended.output().contains("--no-such-flag"));
}

#[test]
fn a_file_that_is_no_gguf_is_not_converted() {
    let setup = Setup::new(&[]);
    let file = setup.folder.path().join("x.gguf");
    fs::write(&file, "hello").expect("written");
    let out = setup.folder.path().join("out");
    let paths = [file.to_str().expect("UTF-8"), out.to_str().expect("UTF-8")];
    let ended = setup.with_flags(&["convert", paths[0], paths[1]]).run();
    refused(&ended, &["x.gguf", "GGUF"]);
    assert!(!out.exists());
}
