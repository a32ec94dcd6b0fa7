"""Section 2: every flag and its environment twin, the texts of refused starts, exit codes.

A row is a command line (and environment) and how it ends. Accepted flags are shown by a start that gets past them
to the model folder, which does not exist.
"""

from dataclasses import dataclass, field

NO_MODEL = ("--model-id", "./no-such-folder")


@dataclass(frozen=True)
class Start:
    rule: str
    args: tuple
    env: dict = field(default_factory=dict)
    code: int = 1
    # Of the output's last line.
    last: str = "no-such-folder"
    # Somewhere in the output, or not at all.
    said: str = ""
    unsaid: str = "panicked"


# Flag, a value that is not the default (None: a switch), and whether it changes what is served.
FLAGS = [
    ("revision", "main"), ("validation-workers", "3"), ("sharded", "false"), ("num-shard", "1"), ("quantize", "awq"),
    ("speculate", "2"), ("dtype", "float16"), ("kv-cache-dtype", "fp8_e5m2"), ("trust-remote-code", None),
    ("max-concurrent-requests", "7"), ("max-best-of", "3"), ("max-stop-sequences", "5"), ("max-top-n-tokens", "6"),
    ("max-input-tokens", "100"), ("max-input-length", "100"), ("max-total-tokens", "200"), ("waiting-served-ratio", "1.2"),
    ("max-batch-prefill-tokens", "100"), ("max-batch-total-tokens", "1000"), ("max-waiting-tokens", "10"),
    ("max-batch-size", "4"), ("cuda-graphs", "1,2,4"), ("hostname", "127.0.0.1"), ("prometheus-port", "9001"),
    ("shard-uds-path", "sockets/s"), ("master-addr", "localhost"), ("master-port", "29501"),
    ("huggingface-hub-cache", "cache"), ("weights-cache-override", "weights"), ("disable-custom-kernels", None),
    ("cuda-memory-fraction", "0.5"), ("rope-scaling", "dynamic"), ("rope-factor", "2.0"), ("json-output", None),
    ("otlp-endpoint", "http://localhost:4317"), ("otlp-service-name", "s"), ("cors-allow-origin", "http://a"),
    ("api-key", "k"), ("watermark-gamma", "0.5"), ("watermark-delta", "2.0"), ("ngrok", None), ("ngrok-authtoken", "t"),
    ("ngrok-edge", "e"), ("disable-grammar-support", None), ("max-client-batch-size", "5"), ("lora-adapters", "a,b"),
    ("usage-stats", "off"), ("payload-limit", "1000"), ("enable-prefill-logprobs", None),
    ("graceful-termination-timeout", "10"), ("tgi-compat", "strict"), ("metrics-compat", "none"),
    ("compat-return-full-text", "false"),
]  # fmt: skip
# 2.1: a flag without effect says so; these say nothing.
SILENT = {"usage-stats"}
NO_EFFECT = {
    "speculate", "dtype", "kv-cache-dtype", "trust-remote-code", "cuda-graphs", "prometheus-port", "master-addr",
    "master-port", "weights-cache-override", "disable-custom-kernels", "rope-scaling",
    "rope-factor", "watermark-gamma", "watermark-delta", "ngrok", "ngrok-authtoken", "ngrok-edge", "lora-adapters",
    "waiting-served-ratio", "max-waiting-tokens",
}  # fmt: skip

STARTS = []
for flag, value in FLAGS:
    args = (f"--{flag}",) if value is None else (f"--{flag}", value)
    if flag == "compat-return-full-text":
        args = (f"--{flag}=false",)
    twin = {flag.upper().replace("-", "_"): "true" if value is None else value}
    warns = f"`--{flag}` has no effect" if flag in NO_EFFECT else ""
    STARTS += [
        Start(f"2.1 --{flag}", NO_MODEL + args, said=warns),
        Start(f"2.1 {next(iter(twin))}", NO_MODEL, env=twin, said=warns),
    ]
STARTS += [
    Start("2.1 -p", NO_MODEL + ("-p", "0")),
    Start("2.1 -g", NO_MODEL + ("-g", "1")),
    Start("2.1 -e", NO_MODEL + ("-e",), said="Runtime environment:"),
    Start("2.1 --env goes on to launch", NO_MODEL + ("--env",), said="nvidia-smi:"),
    Start("10.43 --env without a model is all", ("--env",), code=0, last="", said="nvidia-smi:", unsaid="Starting"),
    Start("2.1 a flag wins over its variable", NO_MODEL + ("--validation-workers", "1"), env={"VALIDATION_WORKERS": "0"}),
    *(Start(f"2.1 a switch as {word!r}", NO_MODEL, env={"JSON_OUTPUT": word}) for word in ("true", "false", "1", "0")),
    Start("2.1 a switch as a wrong word", NO_MODEL, env={"JSON_OUTPUT": "perhaps"}, code=2, last="try '--help'"),
    Start("2.1 an unknown flag", ("--no-such-flag",), code=2, last="try '--help'"),
    Start("2.1 no IP address", NO_MODEL + ("--hostname", "localhost"), said="Invalid hostname, defaulting to 0.0.0.0"),
    Start("10.20 the key is not logged", NO_MODEL + ("--api-key", "s3cret-key"), unsaid="s3cret-key"),
    Start("2.1 --json-output", NO_MODEL + ("--json-output",), said='"fields":{"message":'),
]  # fmt: skip


def argument(rule, args, text, **more):
    return Start(rule, (*args, *NO_MODEL), last=f'Error: ArgumentValidation("{text}', **more)


# 2.3 and 2.4: texts that scripts and people know.
STARTS += [
    argument("2.3 both names of a limit", ("--max-input-tokens", "5", "--max-input-length", "6"), "Both `max_input_tokens` (5) and `max_input_length` (6) are set."),
    argument("2.3 input < total", ("--max-input-tokens", "200", "--max-total-tokens", "100"), '`max_input_tokens`(200) must be < `max_total_tokens`(100)")'),
    argument("2.3 input = total", ("--max-input-length", "100", "--max-total-tokens", "100"), '`max_input_tokens`(100) must be < `max_total_tokens`(100)")'),
    argument("2.3 validation_workers", ("--validation-workers", "0"), '`validation_workers` must be > 0")'),
    argument("2.3 total <= batch total", ("--max-total-tokens", "400", "--max-batch-total-tokens", "300"), '`max_total_tokens` must be <= `max_batch_total_tokens`. Given: 400 and 300")'),
    argument("2.3 prefill <= batch total", ("--max-batch-prefill-tokens", "400", "--max-batch-total-tokens", "300"), '`max_batch_prefill_tokens` must be <= `max_batch_total_tokens`. Given: 400 and 300")'),
    argument("2.3 max_batch_size", ("--max-batch-size", "0"), '`max_batch_size` must be > 0")'),
    argument("2.4 num_shard 0", ("--num-shard", "0"), '`num_shard` cannot be < 1")'),
    argument("2.4 sharded, one shard", ("--sharded", "true", "--num-shard", "1"), '`sharded` is true but `num_shard` <= 1")'),
    Start("2.4 sharded without devices", NO_MODEL + ("--sharded", "true"), last='Error: NotEnoughCUDADevices("`sharded` is true but only found 0 CUDA devices")'),
    Start("2.4 CUDA_VISIBLE_DEVICES counts", NO_MODEL + ("--sharded", "true"), env={"CUDA_VISIBLE_DEVICES": "3"}, last="only found 1 CUDA devices"),
    Start("2.4 NVIDIA_VISIBLE_DEVICES counts", NO_MODEL + ("--sharded", "true"), env={"NVIDIA_VISIBLE_DEVICES": "3"}, last="only found 1 CUDA devices"),
    argument("an empty key", ("--api-key=",), "`api_key` is empty"),
    argument("a key file that is not there", ("--api-key-file", "no-such-file"), "`api_key_file`: there is no file no-such-file"),
    argument("a template that is not there", ("--tokenizer-config-path", "no-such-file"), "`tokenizer_config_path`: there is no file no-such-file"),
]  # fmt: skip

# 2.2, 2.6: lines of a start, a request and a stop that scripts grep for; the launcher's and the router's each in this order.
LOG_LINES = [
    ["Starting check and download process for", "Successfully downloaded weights for", "Starting shard", "Starting Webserver",
     "Shard ready in", "signal received, starting graceful shutdown"],
    ["Starting Webserver", "Warming up model", "Setting max batch total tokens to", "Connected", "api::record: Success",
     "signal received, starting graceful shutdown"],
]  # fmt: skip
# 3, 2.6: fields of the line of a request.
SUCCESS_FIELDS = ["total_time", "validation_time", "queue_time", "inference_time", "time_per_token", "seed"]
