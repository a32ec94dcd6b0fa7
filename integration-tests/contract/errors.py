"""Sections 1.2, 1.4, 1.5, 1.6: every refusal's text, type and status, and the order of the checks.

The server has the model card's limits: 3,696 tokens in, 4,096 in all.
"""

import json

from .row import Row, post

LONG = "word " * 3800
TOO_LONG = "word " * 4200


def refused(text):
    return {"error": "Input validation error: " + text, "error_type": "validation"}


def event(body):
    return "data: " + json.dumps(body, separators=(",", ":"), ensure_ascii=False) + "\n\n"


def on_every_route(rule, parameters, text, inputs="x"):
    """One rule on the four ways to generate; strict mode streams the refusal as its only event."""
    body = {"inputs": inputs, "parameters": parameters}
    rows = [
        post(f"{rule} on {path}", path, body, status=422, json=refused(text))
        for path in ("/generate", "/")
    ]
    for path, extra in (("/generate_stream", {}), ("/", {"stream": True})):
        row = post(f"{rule} streaming on {path}", path, {**body, **extra}, status=422, json=refused(text))
        rows += row.also(status=200, json=None, text=event(refused(text)))
    return rows


SAMPLED = {"do_sample": True}
PARAMETERS = [
    ("1.4.2", {"temperature": 0}, "`temperature` must be strictly positive"),
    ("1.4.2 below", {"temperature": -0.5}, "`temperature` must be strictly positive"),
    ("1.4.3", {"repetition_penalty": 0}, "`repetition_penalty` must be strictly positive"),
    ("1.4.3 below", {"repetition_penalty": -1}, "`repetition_penalty` must be strictly positive"),
    ("1.4.4 above", {"frequency_penalty": 2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ("1.4.4 below", {"frequency_penalty": -2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ("1.4.5 one", {"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    ("1.4.5 zero", {"top_p": 0}, "`top_p` must be > 0.0 and < 1.0"),
    ("1.4.6 one", {"typical_p": 1.0}, "`typical_p` must be > 0.0 and < 1.0"),
    ("1.4.6 zero", {"typical_p": 0.0}, "`typical_p` must be > 0.0 and < 1.0"),
    ("1.4.7 zero", {"top_k": 0}, "`top_k` must be strictly positive"),
    ("1.4.7 below", {"top_k": -1}, "`top_k` must be strictly positive"),
    ("1.4.8", {"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ("1.4.9", {"stop": ["a"] * 5}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ("1.4.11", {"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ("1.4.13 zero", {"truncate": 0}, "`truncate` must be strictly positive and less than 3696. Given: 0"),
    ("1.4.13 above", {"truncate": 3697}, "`truncate` must be strictly positive and less than 3696. Given: 3697"),
    ("1.4.15", {"max_new_tokens": 4096},
     "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 1 `inputs` tokens and 4096 `max_new_tokens`"),
    ("1.6 a schema that is none", {"grammar": {"type": "json", "value": 3}}, "grammar is not supported"),
    ("1.6 a schema in a string that is no JSON", {"grammar": {"type": "json", "value": "x"}},
     "grammar is not valid: expected value at line 1 column 1"),
    ("1.6 a string that holds no schema", {"grammar": {"type": "json_object", "value": "[]"}},
     "grammar is not valid: a JSON schema is an object"),
    ("1.3 watermark is refused, not ignored", {"watermark": True},
     "`watermark` is not supported: this server adds no watermark. Leave it out or send false"),
    ("1.3 adapter_id is refused, not ignored", {"adapter_id": "a/b"},
     "`adapter_id` is not supported: no adapters are loaded. Given: a/b"),
]  # fmt: skip
# The earlier check is the answer: each pair breaks two rules.
ORDER = [
    ({"temperature": 0, "repetition_penalty": 0}, "`temperature` must be strictly positive"),
    ({"repetition_penalty": 0, "frequency_penalty": 9}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 9, "top_p": 0}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 0, "typical_p": 0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 0, "top_k": 0}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0, "max_new_tokens": 0}, "`top_k` must be strictly positive"),
    ({"max_new_tokens": 0, "stop": ["a"] * 5}, "`max_new_tokens` must be strictly positive"),
    ({"stop": ["a"] * 5, "top_n_tokens": 6}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ({"top_n_tokens": 6, "truncate": 0}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
]

ROWS = [row for rule in PARAMETERS for row in on_every_route(*rule)]
ROWS += on_every_route("1.4.12", {}, "`inputs` cannot be empty", inputs="")
ROWS += on_every_route("1.4.16", {"max_new_tokens": 1},
                       "`inputs` must have less than 3696 tokens. Given: 3801", inputs=LONG)  # fmt: skip
ROWS += [
    post("1.4.15 comes before 1.4.16", "/generate", {"inputs": TOO_LONG, "parameters": {"max_new_tokens": 5}}, status=422,
         json=refused("`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4201 `inputs` tokens and 5 `max_new_tokens`")),
    post("1.4.12 comes before 1.4.13", "/generate", {"inputs": "", "parameters": {"truncate": 0}}, status=422,
         json=refused("`inputs` cannot be empty")),
    *(post(f"1.4 order {list(p)}", "/generate", {"inputs": "x", "parameters": p}, status=422, json=refused(text))
      for p, text in ORDER),
    post("1.4 best_of above the limit", "/generate", {"inputs": "x", "parameters": {"best_of": 3, **SAMPLED}}, status=422,
         json=refused("`best_of` must be > 0 and <= 2. Given: 3")),
    post("1.4 best_of comes first", "/generate", {"inputs": "", "parameters": {"best_of": 3, "temperature": 0}}, status=422,
         json=refused("`best_of` must be > 0 and <= 2. Given: 3")),
    post("10.16 best_of 0 is refused", "/generate", {"inputs": "x", "parameters": {"best_of": 0}}, status=422,
         json=refused("`best_of` must be > 0 and <= 2. Given: 0")),
    post("1.4.1", "/generate", {"inputs": "x", "parameters": {"best_of": 2}}, status=422,
         json=refused("you must use sampling when `best_of` is > 1")),
    post("1.4.10", "/generate", {"inputs": "x", "parameters": {"best_of": 2, "seed": 1, **SAMPLED}}, status=422,
         json=refused("`seed` must not be set when `best_of` > 1")),
]  # fmt: skip
for parameters, text in (
    ({"best_of": 2}, "`best_of` != 1 is not supported when streaming tokens"),
    ({"best_of": 2, "temperature": 0}, "`best_of` != 1 is not supported when streaming tokens"),
    ({"decoder_input_details": True}, "`decoder_input_details` == true is not supported when streaming tokens"),
):
    row = post(f"1.4 streaming only {list(parameters)}", "/generate_stream", {"inputs": "x", "parameters": parameters},
               status=422, json=refused(text))  # fmt: skip
    ROWS += row.also(status=200, json=None, text=event(refused(text)))

# 1.1: bodies that no handler sees, on every route that takes one.
POSTS = ("/", "/generate", "/generate_stream", "/tokenize", "/chat_tokenize", "/detokenize", "/invocations", "/vertex",
         "/v1/chat/completions", "/v1/completions")  # fmt: skip
JSON_TYPE = {"content-type": "application/json"}


def message(path, check):
    """The error object of the path's family, its text judged by ``check``."""
    if path.startswith("/v1/"):
        return {"error": {"message": check, "type": "invalid_request_error", "param": None}, "error_type": "validation"}
    return {"error": check, "error_type": "validation"}


def begins(prefix):
    return lambda text: text.startswith(prefix)


for path in POSTS:
    ROWS += [
        Row(f"1.1 no JSON on {path}", "POST", path, raw=b"{", send=JSON_TYPE, status=400,
            json=message(path, begins("Failed to parse the request body as JSON: "))),
        Row(f"1.1 an empty body on {path}", "POST", path, raw=b"", send=JSON_TYPE, status=400,
            json=message(path, begins("Failed to parse the request body as JSON: "))),
        Row(f"1.1 a missing field on {path}", "POST", path, raw=b"{}", send=JSON_TYPE, status=422,
            json=message(path, begins("Failed to deserialize the JSON body into the target type: "))),
        Row(f"1.1 no content type on {path}", "POST", path, raw=b"{}", status=415,
            json=message(path, begins("Expected request with `Content-Type: application/json`"))),
        Row(f"1.1 another content type on {path}", "POST", path, raw=b"{}", send={"content-type": "text/plain"}, status=415,
            json=message(path, begins("Expected request with `Content-Type: application/json`"))),
        Row(f"1.1 a body over --payload-limit on {path}", "POST", path, raw=b'"' + b"a" * 2_000_001 + b'"', send=JSON_TYPE,
            status=413, json=message(path, "Failed to buffer the request body: length limit exceeded")),
    ]  # fmt: skip
ROWS += [
    post("1.1 a wrong type names its path", "/generate", {"inputs": "x", "parameters": {"max_new_tokens": "y"}}, status=422,
         json={"error": begins("Failed to deserialize the JSON body into the target type: parameters.max_new_tokens: invalid type")}),
    post("1.1 negative max_new_tokens dies in JSON", "/generate", {"inputs": "x", "parameters": {"max_new_tokens": -1}}, status=422,
         json={"error": begins("Failed to deserialize the JSON body into the target type: ")}),
    Row("1.1 application/*+json is JSON", "POST", "/tokenize", raw=b'{"inputs":"a"}',
        send={"content-type": "application/cloudevents+json"}),
    Row("1.1 a charset is no other type", "POST", "/tokenize", raw=b'{"inputs":"a"}',
        send={"content-type": "application/json; charset=utf-8"}),
]  # fmt: skip
# Each accepts its lower or upper bound, or null for "not given".
for parameters in (
    {"frequency_penalty": 2.0}, {"frequency_penalty": -2.0}, {"truncate": 3696}, {"stop": ["a", "b", "c", "d"]},
    {"top_n_tokens": 5}, {"top_n_tokens": 0}, {"top_k": 1}, {"temperature": 1.0}, {"best_of": 1}, {"seed": 2**64 - 1},
):  # fmt: skip
    ROWS.append(post(f"1.3 accepted: {parameters}", "/generate", {"inputs": "a", "parameters": {"max_new_tokens": 1, **parameters}}))
for name in (
    "best_of temperature repetition_penalty frequency_penalty top_k top_p typical_p do_sample return_full_text stop "
    "truncate watermark details decoder_input_details seed top_n_tokens grammar adapter_id no_such_field"
).split():
    ROWS.append(post(f"10.7 null is the default of {name}", "/generate",
                     {"inputs": "a", "parameters": {"max_new_tokens": 1, name: None}}))  # fmt: skip
ROWS += [
    post("10.7 parameters null", "/v1/completions", {"prompt": "a", "max_tokens": 1, "stop": None}),
    post("1.1 unknown fields are ignored", "/generate", {"inputs": "a", "parameters": {"max_new_tokens": 1, "max_length": 3}, "x": 1}),
]  # fmt: skip
