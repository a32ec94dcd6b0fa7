"""Sections 1.3, 1.7-1.9, 4: bodies, streams and headers of TGI's generate routes, and what parameters do.

The prompt is a golden one: greedy, the model answers it with TEXT, ten tokens of which the last ends it.
"""

import json
import re
from pathlib import Path

from .row import ABSENT, FIXED, NUMBER, STRICT, events, post

GOLDEN = Path(__file__).parent.parent / "golden" / "smollm2-135m-v1-awq-g64.json"
CASE = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"][0]
PROMPT, TEXT = CASE["prompt"], CASE["text"]
N_PROMPT, N = len(CASE["prompt_ids"]), len(CASE["ids"])
INTEGER = re.compile(r"\d+")


def generate(rule, path="/generate", inputs=PROMPT, stream=None, **parameters):
    expect = {k: parameters.pop(k) for k in ("json", "text", "headers", "status", "modes") if k in parameters}
    body = {"inputs": inputs, "parameters": parameters}
    if stream is not None:
        body["stream"] = stream
    return post(rule, path, body, **expect)


def token(id, text, special=False):
    return f'{{"id":{id},"text":"{text}","logprob":L,"special":{str(special).lower()}}}'


THE, CAPITAL, END = token(487, "The"), token(3558, " capital"), token(49137, "<|im_end|>", True)
# 1.7: the body, byte by byte but for the logprobs.
ROWS = [
    generate("1.7 no details: one key", text=f'{{"generated_text":"{TEXT}"}}'),
    generate("1.7 details, length", max_new_tokens=2, details=True,
             text=f'{{"generated_text":"The capital","details":{{"finish_reason":"length","generated_tokens":2,"seed":null,"prefill":[],"tokens":[{THE},{CAPITAL}]}}}}'),
    generate("1.7 details, end token", details=True,
             json={"generated_text": TEXT, "details": {"finish_reason": "eos_token", "generated_tokens": N, "seed": None, "top_tokens": ABSENT, "best_of_sequences": ABSENT}}),
    generate("1.7 the end token is the last, special, its text visible", details=True,
             json={"details": {"tokens": lambda t: t[-1]["special"] and t[-1]["text"] == "<|im_end|>" and len(t) == N}}),
    generate("1.7 length wins over the end token", max_new_tokens=N, details=True, json={"details": {"finish_reason": "length"}}),
    generate("1.7 top_tokens", max_new_tokens=1, details=True, top_n_tokens=2,
             json={"details": {"top_tokens": lambda t: len(t) == 1 and len(t[0]) == 2 and t[0][0]["id"] == 487 and t[0][0]["logprob"] > t[0][1]["logprob"]}}),
    generate("1.7 top_tokens does not change the answer", max_new_tokens=3, top_n_tokens=5, text='{"generated_text":"The capital of"}'),
    generate("1.7 prefill: one entry a prompt token", max_new_tokens=1, decoder_input_details=True, modes=(FIXED,),
             json={"details": {"prefill": lambda p: len(p) == N_PROMPT and p[0]["logprob"] is None and all(x["logprob"] < 0 for x in p[1:])}}),
    generate("1.7 prefill entries have three keys", max_new_tokens=1, decoder_input_details=True, modes=(FIXED,),
             json={"details": {"prefill": lambda p: set(p[1]) == {"id", "text", "logprob"}}}),
    generate("1.7 prefill needs a flag", max_new_tokens=1, decoder_input_details=True, modes=(STRICT,), json={"details": {"prefill": []}}),
    generate("1.7 decoder_input_details alone gives details", max_new_tokens=1, decoder_input_details=True, json={"details": dict}),
    generate("1.7 return_full_text", return_full_text=True, json={"generated_text": PROMPT + TEXT}),
    generate("1.7 a stop string stays, cut right after it", stop=["ranc"], details=True,
             json={"generated_text": "The capital of Franc", "details": {"finish_reason": "stop_sequence"}}),
    generate("4.5 a stop string across tokens", stop=["l of F"], json={"generated_text": "The capital of F"}),
    generate("4.5 the first of several", stop=["zzz", " is"], json={"generated_text": "The capital of France is"}),
    generate("10.7 stop as a string", stop=" is", json={"generated_text": "The capital of France is"}),
    generate("4.5 a special token as stop string", stop=["<|im_end|>"], details=True,
             json={"generated_text": TEXT, "details": {"finish_reason": "eos_token"}}),
    generate("1.7 best_of: the others in details", best_of=2, do_sample=True, temperature=1.5, details=True, max_new_tokens=4,
             json={"details": {"best_of_sequences": lambda s: len(s) == 1 and set(s[0]) == {
                 "generated_text", "finish_reason", "generated_tokens", "seed", "prefill", "tokens"}}}),
    generate("1.7 best_of: the likeliest is the answer", best_of=2, do_sample=True, temperature=1.5, details=True, max_new_tokens=4,
             json={"details": lambda d: mean(d["tokens"]) >= mean(d["best_of_sequences"][0]["tokens"])}),
    generate("1.7 best_of without details", best_of=2, do_sample=True, max_new_tokens=2, json={"details": ABSENT}),
]  # fmt: skip


def mean(tokens):
    return sum(t["logprob"] for t in tokens) / len(tokens)


# 1.7: headers of whole answers.
HEADERS = {
    "content-type": "application/json", "x-compute-type": re.compile(".+"), "x-compute-time": NUMBER,
    "x-compute-characters": str(len(PROMPT)), "x-total-time": INTEGER, "x-validation-time": INTEGER,
    "x-queue-time": INTEGER, "x-inference-time": INTEGER, "x-time-per-token": INTEGER,
    "x-prompt-tokens": str(N_PROMPT), "x-generated-tokens": str(N),
}  # fmt: skip
for path in ("/generate", "/"):
    ROWS += [generate(f"1.7 {name} on {path}", path, headers={name: value}) for name, value in HEADERS.items()]

# 1.3: what makes a request sample, told by the seed in the details (4.2).
for parameters, samples in (
    ({}, False), ({"do_sample": False}, False), ({"do_sample": True}, True), ({"temperature": 1.0}, False),
    ({"temperature": 0.7}, True), ({"top_k": 5}, True), ({"top_p": 0.9}, True), ({"typical_p": 0.9}, True),
    ({"seed": 3}, False), ({"repetition_penalty": 1.2}, False), ({"frequency_penalty": 0.5}, False),
):  # fmt: skip
    ROWS.append(generate(f"4.2 {parameters} samples: {samples}", max_new_tokens=1, details=True, **parameters,
                         json={"details": {"seed": int if samples else None}}))  # fmt: skip
ROWS += [
    generate("4.3 the seed is echoed", max_new_tokens=1, details=True, do_sample=True, seed=7, json={"details": {"seed": 7}}),
    generate("1.3 truncate keeps the last tokens", truncate=3, max_new_tokens=1, details=True, headers={"x-prompt-tokens": "3"}),
    generate("1.5 max_new_tokens is exact", inputs="1 2 3 4", max_new_tokens=3, details=True, json={"details": {"generated_tokens": 3}}),
    generate("1.5 truncate makes room", inputs="word " * 3800, truncate=100, max_new_tokens=1, headers={"x-prompt-tokens": "100"}),
]  # fmt: skip

# 1.8: the compat route.
ROWS += [
    generate("1.8 a list of one, with the prompt", "/", json=[{"generated_text": PROMPT + TEXT}]),
    generate("1.8 return_full_text false", "/", return_full_text=False, json=[{"generated_text": TEXT}]),
    generate("1.8 stream false", "/", stream=False, json=[dict]),
    generate("1.8 details in the list", "/", max_new_tokens=1, details=True, json=[{"details": {"finish_reason": "length"}}]),
]  # fmt: skip

# 1.9: streams.
TOKENS = ["The", " capital", " of", " France", " is", " Paris", ",", " France", ".", "<|im_end|>"]


def stream_is(check):
    return lambda text: check(events(text))


STREAM_HEADERS = {
    "content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no",
    "x-compute-type": re.compile(".+"), "x-compute-characters": str(len(PROMPT)), "x-total-time": ABSENT,
    "x-compute-time": ABSENT,
}  # fmt: skip
for path, stream in (("/generate_stream", None), ("/", True)):
    of = lambda rule, path=path, stream=stream, **p: generate(f"{rule} ({path})", path, stream=stream, **p)  # noqa: E731
    full = "" if path != "/" else json.dumps(PROMPT)[1:-1]
    ROWS += [of(f"1.9 {name}", max_new_tokens=1, headers={name: value}) for name, value in STREAM_HEADERS.items()]
    ROWS += [
        of("1.9 the bytes of a stream", max_new_tokens=2,
           text=f'data: {{"index":1,"token":{THE},"generated_text":null,"details":null}}\n\n'
                f'data: {{"index":2,"token":{CAPITAL},"generated_text":"{full}The capital","details":null}}\n\n'),
        of("1.9 the bytes of the last event with details", max_new_tokens=1, details=True,
           text=f'data: {{"index":1,"token":{THE},"generated_text":"{full}The","details":{{"finish_reason":"length","generated_tokens":1,"seed":null,"input_length":{N_PROMPT}}}}}\n\n'),
        of("1.9 top_tokens come before generated_text", max_new_tokens=1, top_n_tokens=1,
           text=f'data: {{"index":1,"token":{THE},"top_tokens":[{THE}],"generated_text":"{full}The","details":null}}\n\n'),
        of("1.9 index counts from 1", text=stream_is(lambda e: [x["index"] for x in e] == list(range(1, N + 1)))),
        of("1.9 one event a token, special ones visible", text=stream_is(lambda e: [x["token"]["text"] for x in e] == TOKENS)),
        of("1.9 only the last has the text", text=stream_is(lambda e: [x["generated_text"] is None for x in e] == [True] * (N - 1) + [False])),
        of("1.9 no [DONE]", text=stream_is(lambda e: "[DONE]" not in e)),
        of("1.9 the end token ends it", details=True, text=stream_is(
            lambda e: e[-1]["details"] == {"finish_reason": "eos_token", "generated_tokens": N, "seed": None, "input_length": N_PROMPT})),
        of("1.9 a stop string ends it, cut right after it", stop=["ranc"], text=stream_is(
            lambda e: e[-1]["token"]["text"] == " Franc" and e[-1]["generated_text"].endswith("The capital of Franc"))),
        of("10.7 null details", details=None, max_new_tokens=1, text=stream_is(lambda e: e[0]["details"] is None)),
        of("4.6 half a character has no text", inputs="<|im_start|>user\n请用一句话介绍一下北京。<|im_end|>\n<|im_start|>assistant\n",
           max_new_tokens=40, text=stream_is(lambda e: e[-1]["generated_text"].endswith(
               "".join(x["token"]["text"] for x in e)) and any(x["token"]["text"] == "" for x in e))),
    ]  # fmt: skip
ROWS += [
    generate("1.9 return_full_text on /generate_stream", "/generate_stream", max_new_tokens=1, return_full_text=True,
             text=stream_is(lambda e: e[-1]["generated_text"] == PROMPT + "The")),
    generate("1.8 return_full_text false on a stream of /", "/", stream=True, max_new_tokens=1, return_full_text=False,
             text=stream_is(lambda e: e[-1]["generated_text"] == "The")),
    generate("10.3 an answer cut inside a character keeps its text",
             inputs="<|im_start|>user\n请用一句话介绍一下北京。<|im_end|>\n<|im_start|>assistant\n", max_new_tokens=2, details=True,
             json={"generated_text": lambda text: text != ""}),
    post("10.1 a body without parameters is greedy", "/generate", {"inputs": PROMPT}, text=f'{{"generated_text":"{TEXT}"}}', modes=(FIXED,)),
    post("1.3 empty parameters are greedy", "/generate", {"inputs": PROMPT, "parameters": {}}, text=f'{{"generated_text":"{TEXT}"}}'),
]  # fmt: skip

# vLLM's first server
# 1.6: an answer that keeps to its grammar ends by itself.
SCHEMA = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
ROWS += [
    generate(f"1.6 {name}", grammar=grammar, details=True,
             json={"generated_text": text, "details": {"finish_reason": "eos_token"}})
    for name, grammar, text in [
        ("regex", {"type": "regex", "value": "abc"}, "abc"),
        ("json", {"type": "json", "value": SCHEMA}, re.compile(r"\{\s*\"a\"\s*:\s*1\s*\}")),
        ("json in a string", {"type": "json", "value": json.dumps(SCHEMA)}, re.compile(r"\{\s*\"a\"\s*:\s*1\s*\}")),
        ("json as TGI's documentation writes it", {"type": "json", "value": {"properties": {"a": {"const": 1}}, "required": ["a"]}}, re.compile(r"\{\s*\"a\"\s*:\s*1\s*\}")),
        ("json_object", {"type": "json_object", "value": {"const": "x"}}, '"x"'),
        ("json_schema", {"type": "json_schema", "value": {"name": "n", "schema": {"const": [1]}, "strict": True}}, "[1]"),
    ]
]

ROWS += [
    post("vLLM /generate", "/generate", {"prompt": PROMPT, "temperature": 0, "max_tokens": 20}, text=lambda t: t == '{"text":["' + (PROMPT + TEXT).replace("\n", "\\n") + '"]}'),
    post("vLLM /generate: 16 tokens by default", "/generate", {"prompt": "1 2 3", "temperature": 0, "ignore_eos": True}, json={"text": [str]}),
    post("vLLM /generate streams lines", "/generate", {"prompt": "x", "max_tokens": 2, "temperature": 0, "stream": True, "ignore_eos": True},
         headers={"content-type": "application/x-ndjson"}, text=lambda t: t.endswith("\n") and t.count("\n") == 2),
    post("vLLM /generate: n", "/generate", {"prompt": "x", "max_tokens": 1, "n": 2}, json={"text": [str, str]}),
]  # fmt: skip
