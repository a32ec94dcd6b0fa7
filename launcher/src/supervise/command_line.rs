//! The command lines of the two children, from the checked arguments. Pure.
//!
//! Called by `launch` once. The only place that knows the children's flags; what the launcher
//! resolved (address, socket, folder) is always passed, so that a child's own environment variables
//! never contradict it. The API key goes through the environment: a command line is public.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::args::{Args, LimitArgs};

/// What was found out beyond the flags.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Folder with the checkpoint.
    pub folder: PathBuf,
    /// Name to report for the model.
    pub model_name: String,
    /// Address to listen on.
    pub address: IpAddr,
    /// Base of the sockets; a shard's is `<base>-<rank>`.
    pub uds_base: PathBuf,
}

impl Resolved {
    /// Socket of the shard with this rank.
    pub fn socket(&self, rank: usize) -> PathBuf {
        let mut path = self.uds_base.clone().into_os_string();
        path.push(format!("-{rank}"));
        PathBuf::from(path)
    }
}

/// Arguments of `text-generation-shard`.
pub fn shard_arguments(args: &Args, resolved: &Resolved) -> Vec<OsString> {
    let mut line = Line::default();
    line.value("--model-path", &resolved.folder);
    line.value("--uds-path", resolved.socket(0));
    line.optional("--quantize", args.model.quantize.map(|method| method.to_string()));
    line.value("--device", args.model.device.to_string());
    line.value("--ops", args.model.ops.to_string());
    line.number("--threads", args.model.threads);
    line.value("--cuda-memory-fraction", args.model.cuda_memory_fraction.to_string());
    line.switch("--dummy-weights", args.model.dummy_weights);
    line.switch("--json-output", args.json_output);
    line.0
}

/// Arguments of `text-generation-router`.
pub fn router_arguments(args: &Args, resolved: &Resolved) -> Vec<OsString> {
    let mut line = Line::default();
    line.value("--hostname", resolved.address.to_string());
    line.value("--port", args.server.port.to_string());
    line.value("--master-shard-uds-path", resolved.socket(0));
    line.value("--tokenizer-name", &resolved.folder);
    line.value("--model-id", &resolved.model_name);
    line.optional("--revision", args.model.revision.as_ref());
    line.optional("--tokenizer-config-path", args.server.tokenizer_config_path.as_ref());
    limits(&mut line, &args.limits);
    line.value("--graceful-termination-timeout", args.server.graceful_termination_timeout.to_string());
    line.number("--shard-step-timeout", args.recovery.shard_step_timeout.map(|time| time.as_secs_f64()));
    line.value("--canary-interval", args.recovery.canary_interval.as_secs_f64().to_string());
    for origin in &args.server.cors_allow_origin {
        line.value("--cors-allow-origin", origin);
    }
    line.optional("--otlp-endpoint", args.server.otlp_endpoint.as_ref());
    line.value("--otlp-service-name", &args.server.otlp_service_name);
    line.value("--metrics-compat", args.server.metrics_compat.to_string());
    line.optional("--api-key-file", args.server.api_key_file.as_ref());
    line.value("--tgi-compat", args.server.tgi_compat.to_string());
    line.value("--compat-return-full-text", args.server.compat_return_full_text.to_string());
    line.switch("--enable-prefill-logprobs", args.server.enable_prefill_logprobs);
    line.switch("--disable-grammar-support", args.server.disable_grammar_support);
    line.switch("--json-output", args.json_output);
    line.0
}

fn limits(line: &mut Line, limits: &LimitArgs) {
    line.number("--max-input-tokens", limits.max_input());
    line.number("--max-total-tokens", limits.max_total_tokens);
    line.number("--max-batch-prefill-tokens", limits.max_batch_prefill_tokens);
    line.number("--max-batch-total-tokens", limits.max_batch_total_tokens);
    line.number("--max-batch-size", limits.max_batch_size);
    let always = [
        ("--max-concurrent-requests", limits.max_concurrent_requests.to_string()),
        ("--max-best-of", limits.max_best_of.to_string()),
        ("--max-stop-sequences", limits.max_stop_sequences.to_string()),
        ("--max-top-n-tokens", limits.max_top_n_tokens.to_string()),
        ("--waiting-served-ratio", limits.waiting_served_ratio.to_string()),
        ("--max-waiting-tokens", limits.max_waiting_tokens.to_string()),
        ("--max-client-batch-size", limits.max_client_batch_size.to_string()),
        ("--prefix-caching", if limits.prefix_caching { "on" } else { "off" }.to_owned()),
        ("--payload-limit", limits.payload_limit.to_string()),
        ("--validation-workers", limits.validation_workers.to_string()),
    ];
    for (flag, value) in always {
        line.value(flag, value);
    }
}

/// A command line under construction.
#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    /// `--flag=value` in one argument: a value may begin with a dash.
    fn value(&mut self, flag: &str, value: impl Into<OsString>) {
        let mut argument = OsString::from(flag);
        argument.push("=");
        argument.push(value.into());
        self.0.push(argument);
    }

    fn optional(&mut self, flag: &str, value: Option<impl Into<OsString>>) {
        if let Some(value) = value {
            self.value(flag, value);
        }
    }

    fn number(&mut self, flag: &str, value: Option<impl ToString>) {
        self.optional(flag, value.map(|value| value.to_string()));
    }

    fn switch(&mut self, flag: &str, on: bool) {
        if on {
            self.0.push(OsString::from(flag));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::parse_from;

    fn resolved() -> Resolved {
        Resolved {
            folder: PathBuf::from("/models/m"),
            model_name: "org/m".to_owned(),
            address: "127.0.0.1".parse().expect("an address"),
            uds_base: PathBuf::from("/run/base"),
        }
    }

    fn lines(flags: &[&str]) -> (Vec<String>, Vec<String>) {
        let argv = std::iter::once("launcher").chain(flags.iter().copied());
        let args = parse_from(argv).expect("flags parse").cli.args;
        let text =
            |line: Vec<OsString>| line.into_iter().map(|part| part.into_string().expect("UTF-8")).collect();
        (text(shard_arguments(&args, &resolved())), text(router_arguments(&args, &resolved())))
    }

    #[test]
    fn defaults() {
        let (shard, router) = lines(&[]);
        assert_eq!(
            shard,
            [
                "--model-path=/models/m",
                "--uds-path=/run/base-0",
                "--device=auto",
                "--ops=auto",
                "--cuda-memory-fraction=1"
            ]
        );
        assert_eq!(
            router,
            [
                "--hostname=127.0.0.1",
                "--port=3000",
                "--master-shard-uds-path=/run/base-0",
                "--tokenizer-name=/models/m",
                "--model-id=org/m",
                "--max-concurrent-requests=128",
                "--max-best-of=2",
                "--max-stop-sequences=4",
                "--max-top-n-tokens=5",
                "--waiting-served-ratio=0.3",
                "--max-waiting-tokens=20",
                "--max-client-batch-size=4",
                "--prefix-caching=on",
                "--payload-limit=2000000",
                "--validation-workers=2",
                "--graceful-termination-timeout=90",
                "--canary-interval=30",
                "--otlp-service-name=text-generation-inference.router",
                "--metrics-compat=vllm",
                "--tgi-compat=fixed",
                "--compat-return-full-text=true",
            ]
        );
    }

    #[test]
    fn each_flag_reaches_its_child() {
        let cases: &[(&[&str], &str, &str)] = &[
            (&["--quantize", "awq"], "--quantize=awq", ""),
            (&["--threads", "3"], "--threads=3", ""),
            (&["--ops", "reference"], "--ops=reference", ""),
            (&["--device", "cpu"], "--device=cpu", ""),
            (&["--device", "cuda"], "--device=cuda", ""),
            (&["--dummy-weights"], "--dummy-weights", ""),
            (&["--cuda-memory-fraction", "0.5"], "--cuda-memory-fraction=0.5", ""),
            (&["--json-output"], "--json-output", "--json-output"),
            (&["-p", "8080"], "", "--port=8080"),
            (&["--otlp-endpoint", "http://c:4317"], "", "--otlp-endpoint=http://c:4317"),
            (&["--metrics-compat", "none"], "", "--metrics-compat=none"),
            (&["--api-key-file", "keys"], "", "--api-key-file=keys"),
            (&["--tgi-compat", "strict"], "", "--tgi-compat=strict"),
            (&["--compat-return-full-text", "0"], "", "--compat-return-full-text=false"),
            (&["--enable-prefill-logprobs"], "", "--enable-prefill-logprobs"),
            (&["--max-input-length", "5"], "", "--max-input-tokens=5"),
            (&["--max-input-tokens", "5"], "", "--max-input-tokens=5"),
            (&["--max-total-tokens", "9"], "", "--max-total-tokens=9"),
            (&["--max-batch-prefill-tokens", "4096"], "", "--max-batch-prefill-tokens=4096"),
            (&["--max-batch-size", "7"], "", "--max-batch-size=7"),
            (&["--prefix-caching", "0"], "", "--prefix-caching=off"),
            (&["--cors-allow-origin", "http://a,http://b"], "", "--cors-allow-origin=http://b"),
            (&["--shard-step-timeout", "2.5"], "", "--shard-step-timeout=2.5"),
            (&["--canary-interval", "0"], "", "--canary-interval=0"),
            (&["--tokenizer-config-path", "-x"], "", "--tokenizer-config-path=-x"),
        ];
        for &(flags, shard_part, router_part) in cases {
            let flags: Vec<String> = match flags {
                [flag, value] => vec![format!("{flag}={value}")],
                _ => flags.iter().map(|flag| (*flag).to_owned()).collect(),
            };
            let (shard, router) = lines(&flags.iter().map(String::as_str).collect::<Vec<_>>());
            for (line, part) in [(shard, shard_part), (router, router_part)] {
                assert!(
                    part.is_empty() || line.iter().any(|argument| argument == part),
                    "{flags:?}: {line:?}"
                );
            }
        }
    }

    #[test]
    fn the_api_key_is_on_no_command_line() {
        let (shard, router) = lines(&["--api-key", "s3cret"]);
        assert!(!shard.iter().chain(&router).any(|argument| argument.contains("s3cret")));
    }
}
