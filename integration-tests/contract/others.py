"""Sections 1.12, 1.16 and 6: tokens, platforms, metrics."""

import re

from .errors import refused
from .generate import PROMPT, TEXT
from .openai import MESSAGES
from .row import events, get, post

GREEDY = {"temperature": 0}
ROWS = [
    # 1.12
    post("1.12 /tokenize: id, text, start, stop", "/tokenize", {"inputs": "Hello<|im_end|>"},
         json=lambda t: [x["text"] for x in t] == ["Hello", "<|im_end|>"] and t[1] == {"id": 49137, "text": "<|im_end|>", "start": 5, "stop": 15}),
    post("1.12 /tokenize: byte offsets", "/tokenize", {"inputs": "é a"}, json=lambda t: t[-1]["stop"] == 4),
    post("1.12 /tokenize ignores truncate", "/tokenize", {"inputs": "one two three", "parameters": {"truncate": 1}}, json=lambda t: len(t) == 3),
    post("1.12 /tokenize of nothing", "/tokenize", {"inputs": ""}, text="[]"),
    post("1.12 /chat_tokenize", "/chat_tokenize", {"messages": MESSAGES},
         json={"tokenize_response": lambda t: "".join(x["text"] for x in t) == PROMPT, "templated_text": PROMPT}),
    post("/tokenize in vLLM's shape", "/tokenize", {"model": "m", "prompt": "Hello"}, json={"count": 1, "max_model_len": 4096, "tokens": [int], "token_strs": None}),
    post("/tokenize of messages", "/tokenize", {"messages": MESSAGES}, json={"count": 27, "tokens": lambda t: len(t) == 27}),
    post("/detokenize", "/detokenize", {"tokens": [487, 3558]}, json={"prompt": "The capital"}),
    post("/detokenize: no such token", "/detokenize", {"tokens": [10_000_000]}, status=422),
    # 1.16
    post("1.16 /invocations with inputs is /", "/invocations", {"inputs": PROMPT, "parameters": {}}, json=[{"generated_text": PROMPT + TEXT}]),
    post("1.16 /invocations with messages is chat", "/invocations", {"messages": MESSAGES, **GREEDY},
         json={"choices": [{"message": {"content": TEXT}}]}),
    post("1.16 /invocations with prompt is a completion", "/invocations", {"prompt": PROMPT, **GREEDY}, json={"choices": [{"text": TEXT}]}),
    post("1.16 /invocations streams", "/invocations", {"inputs": "x", "stream": True, "parameters": {"max_new_tokens": 2}},
         text=lambda t: len(events(t)) == 2),
    post("1.16 /vertex", "/vertex", {"instances": [{"inputs": PROMPT, "parameters": {}}, {"messages": MESSAGES, **GREEDY}]}, json={"predictions": [TEXT, TEXT]}),
    post("10.17 /vertex honours parameters", "/vertex", {"instances": [{"inputs": PROMPT, "parameters": {"max_new_tokens": 2, "stop": ["x"]}}]},
         json={"predictions": ["The capital"]}),
    post("1.16 /vertex with nothing", "/vertex", {"instances": []}, status=422, json=refused("`instances` cannot be empty")),
    *post("1.16 /vertex: any failure fails all", "/vertex", {"instances": [{"inputs": "x"}, {"inputs": ""}]}, status=422,
          json=refused("`inputs` cannot be empty")).also(status=500, json={"error": "Incomplete generation", "error_type": "incomplete_generation"}),
]  # fmt: skip

# 6: every series, by type; those with a label at each of its values from the start.
METHODS = {"method": ["prefill", "decode"]}
METRICS = [
    ("tgi_request_count", "counter", {}), ("tgi_request_success", "counter", {}),
    ("tgi_request_failure", "counter", {"err": ["overloaded", "validation", "template", "incomplete", "generation", "dropped"]}),
    *((f"tgi_request_{name}_duration", "histogram", {}) for name in ("validation", "queue", "inference", "mean_time_per_token", "time_to_first_token", "inter_token")),
    ("tgi_request_duration", "histogram", {}),
    *((f"tgi_request_{name}", "histogram", {}) for name in ("generated_tokens", "input_length", "max_new_tokens", "skipped_tokens")),
    ("tgi_batch_next_size", "histogram", {}), ("tgi_batch_current_size", "gauge", {}), ("tgi_batch_current_max_tokens", "gauge", {}),
    ("tgi_batch_max_total_tokens", "gauge", {}), ("tgi_queue_size", "gauge", {}), ("tgi_kv_cache_usage", "gauge", {}),
    *((f"tgi_batch_inference_{name}", "counter", METHODS) for name in ("count", "success", "failure")),
    *((f"tgi_batch_{name}_duration", "histogram", METHODS) for name in ("inference", "forward", "decode", "filter", "concat")),
    ("tgi_batch_concat", "counter", {"reason": ["backpressure", "wait_exceeded", "chunking"]}),
    *((f"tgi_{name}", "counter", {}) for name in (
        "prompt_tokens", "prompt_tokens_computed", "prompt_tokens_cached", "generation_tokens", "replayed_tokens", "preemptions",
        "shard_recoveries")),
    ("tgi_request_finish", "counter", {"reason": ["length", "eos_token", "stop_sequence"]}),
    ("tgi_prefix_cache_tokens", "gauge", {}), ("tgi_shard_memory_bytes", "gauge", {"part": ["weights", "kv_cache", "workspace"]}),
    ("tgi_build_info", "gauge", {}),
    *((f"vllm:{name}", "gauge", {}) for name in (
        "num_requests_waiting", "num_requests_running", "kv_cache_usage_perc", "cache_config_info", "lora_requests_info")),
    ("process_resident_memory_bytes", "gauge", {}), ("process_cpu_seconds_total", "counter", {}),
]  # fmt: skip


def exports(name, kind, labels):
    def judge(text):
        if f"\n# TYPE {name} {kind}\n" not in "\n" + text:
            return False
        suffix = "_count" if kind == "histogram" else ""
        return all(f'{name}{suffix}{{{label}="{value}"}} ' in text for label, values in labels.items() for value in values)

    return judge


def buckets(name, n, last):
    def judge(text):
        bounds = re.findall(rf'^{name}_bucket{{(?:[^}}]*,)?le="([^"]+)"}}', text, re.MULTILINE)
        bounds = list(dict.fromkeys(bounds))
        return len(bounds) == n + 1 and bounds[-1] == "+Inf" and abs(float(bounds[-2]) / last - 1) < 1e-3

    return judge


ROWS += [get(f"6 {name}", "/metrics", text=exports(name, kind, labels)) for name, kind, labels in METRICS]
ROWS += [
    *(get(f"6 buckets of {name}", "/metrics", text=buckets(name, 35, 145.61)) for name, kind, _ in METRICS
      if kind == "histogram" and name.endswith("_duration")),
    get("6 buckets of input lengths", "/metrics", text=buckets("tgi_request_input_length", 100, 3696)),
    get("6 buckets of answers", "/metrics", text=buckets("tgi_request_generated_tokens", 100, 4096)),
    get("6 buckets of max_new_tokens", "/metrics", text=buckets("tgi_request_max_new_tokens", 100, 4096)),
    get("6 buckets of batches", "/metrics", text=buckets("tgi_batch_next_size", 1024, 1024)),
    get("6 content type", "/metrics", headers={"content-type": "text/plain; version=0.0.4"}),
]  # fmt: skip
