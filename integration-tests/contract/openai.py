"""Sections 1.14, 1.15: OpenAI's routes. What response_format does to an answer is tested elsewhere."""

import json
import re

from .errors import refused
from .generate import HEADERS, N, N_PROMPT, PROMPT, TEXT
from .row import ABSENT, FIXED, events, post

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
ID = {"chat": re.compile("chatcmpl-[0-9a-f]{32}"), "text": re.compile("cmpl-[0-9a-f]{32}")}
FINGERPRINT = re.compile(r"\d+\.\d+\.\d+-\w+")
USAGE = {"prompt_tokens": N_PROMPT, "completion_tokens": N, "total_tokens": N_PROMPT + N}


def chat(rule, messages=MESSAGES, **fields):
    expect = {k: fields.pop(k) for k in ("json", "text", "headers", "status", "modes") if k in fields}
    return post(rule, "/v1/chat/completions", {"messages": messages, "temperature": 0, **fields}, **expect)


def complete(rule, prompt=PROMPT, **fields):
    expect = {k: fields.pop(k) for k in ("json", "text", "headers", "status", "modes") if k in fields}
    return post(rule, "/v1/completions", {"prompt": prompt, "temperature": 0, **fields}, **expect)


def content(check):
    return {"choices": [{"message": {"content": check}}]}


def text(check):
    return {"choices": [{"text": check}]}


def chunks(check):
    """``check`` of the stream's chunks; the stream ends with [DONE]."""

    def judge(raw):
        *data, done = events(raw)
        return done == "[DONE]" and check(data)

    return judge


CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": name, "description": "d", "parameters": CITY}} for name in ("weather", "time")]
NAMED = {"type": "function", "function": {"name": "weather"}}
CALL_ID = re.compile("call_[0-9a-f]{24}")


def called(finish_reason, call_id, name="weather"):
    """A whole answer that is one call and nothing else."""
    function = {"name": name, "arguments": re.compile(r'\{"city": "(Paris|Rome)"\}')}
    message = {"role": "assistant", "content": None, "tool_calls": [{"index": ABSENT, "id": call_id, "type": "function", "function": function}]}
    return {"choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}]}


def tool_error(text):
    return {"error_type": "tool_error", "error": {"message": "Tool error: " + text, "type": "invalid_request_error"}}


def deltas(data):
    return [call for d in data for c in d["choices"] for call in c["delta"].get("tool_calls", [])]


def finish(data):
    return [c["finish_reason"] for d in data for c in d["choices"] if c["finish_reason"]]


def joined(data):
    return "".join(c["delta"]["content"] for d in data for c in d["choices"])


ROWS = [
    # 1.15: the whole answer
    chat("1.15 object", json={"object": "chat.completion", "created": int, "system_fingerprint": FINGERPRINT}),
    *chat("10.12 ids", json={"id": ID["chat"]}).also(json={"id": ""}),
    chat("1.15 one choice", json={"choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "logprobs": None, "finish_reason": "stop"}]}),
    chat("1.15 usage", json={"usage": USAGE}),
    chat("1.15 model is echoed", model="anything", json={"model": "anything"}),
    chat("1.15 model tgi is the server's name", model="tgi", json={"model": lambda m: m != "tgi"}),
    chat("1.15 max_tokens", max_tokens=2, json={"choices": [{"message": {"content": "The capital"}, "finish_reason": "length"}]}),
    chat("1.15 max_completion_tokens", max_completion_tokens=2, json={"choices": [{"finish_reason": "length"}]}),
    chat("1.15 max_completion_tokens wins", max_completion_tokens=1, max_tokens=5, json=content("The")),
    *chat("10.11, 4 a stop string is trimmed, finish_reason stop", stop=["ranc"],
          json={"choices": [{"message": {"content": "The capital of F"}, "finish_reason": "stop"}]}).also(
          json={"choices": [{"message": {"content": "The capital of Franc"}, "finish_reason": "stop_sequence"}]}),
    chat("10.7 stop as a string", stop=" is", json=content(lambda t: t.startswith("The capital of France")), modes=(FIXED,)),
    chat("10.7 top_p 1", top_p=1, temperature=0.5, max_tokens=1),
    chat("10.7 stream_options null", stream_options=None, max_tokens=1),
    chat("10.8 presence_penalty 0 changes nothing", presence_penalty=0, json=content(TEXT)),
    chat("10.9 frequency_penalty 0 changes nothing", frequency_penalty=0, json=content(TEXT)),
    chat("1.15 logprobs", logprobs=True, top_logprobs=2, max_tokens=1,
         json={"choices": [{"logprobs": {"content": [{"token": "The", "bytes": [84, 104, 101], "top_logprobs": lambda t: len(t) == 2}]}}]}),
    chat("1.15 top_logprobs without logprobs is not shown", top_logprobs=2, max_tokens=1, json={"choices": [{"logprobs": None}]}),
    chat("1.15 n", n=2, max_tokens=2, json={"choices": [{"index": 0}, {"index": 1}]}),
    chat("1.15 response_format text", response_format={"type": "text"}, json=content(TEXT)),
    chat("1.15 response_format as huggingface_hub sends it", response_format={"type": "json_object", "value": {"const": 7}}, json=content("7")),
    chat("10.7 response_format json_schema", response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": 7}}}, json=content("7")),
    chat("1.6 an object has the properties that its schema lists", response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {
         "properties": {"a": {"const": 1}}, "required": ["a"]}}}, json=content(re.compile(r"\{\s*\"a\"\s*:\s*1\s*\}"))),
    chat("1.15 a function without parameters is called with none", tools=[{"type": "function", "function": {"name": "now"}}], tool_choice="required",
         parallel_tool_calls=False, json={"choices": [{"message": {"tool_calls": [{"function": {"name": "now", "arguments": "{}"}}]}}]}),
    chat("10.7 logit_bias as a map", logit_bias={"487": -100}, max_tokens=1, json=content(re.compile("(?s)(?!The).*"))),
    chat("1.15 logit_bias as a list changes nothing", logit_bias=[0.5], max_tokens=1, json=content("The")),
    chat("1.15 user and logit_bias null", user="u", logit_bias=None, max_tokens=1),
    chat("1.15 seed", seed=3, temperature=1.0, max_tokens=1),
    chat("1.15 content parts", [{"role": "user", "content": [{"type": "text", "text": "What is the capital "}, {"type": "text", "text": "of France?"}]}],
         json=content(TEXT)),
    chat("1.15 a system message", [{"role": "system", "content": "Be brief."}, *MESSAGES], max_tokens=1, json={"usage": {"completion_tokens": 1}}),
    chat("1.15 the last assistant message is continued", [*MESSAGES, {"role": "assistant", "content": "The capital of"}], max_tokens=1,
         json=content(" France")),
    *(chat(f"1.7 {name} on chat", headers={name: value}) for name, value in HEADERS.items() if name != "x-compute-characters"),
    # 1.15: streams
    chat("1.15 chunks", stream=True, text=chunks(lambda d: all(x["object"] == "chat.completion.chunk" and len(x["choices"]) == 1 for x in d))),
    chat("1.15 the text of a stream", stream=True, text=chunks(lambda d: joined(d) == TEXT)),
    chat("1.15 the end token is empty text", stream=True, text=chunks(lambda d: d[-1]["choices"][0]["delta"]["content"] == "" and finish(d) == ["stop"])),
    chat("1.15 one id a stream", stream=True, text=chunks(lambda d: len({x["id"] for x in d}) == 1)),
    *chat("1.15 role in the first chunk", stream=True, text=chunks(lambda d: [x["choices"][0]["delta"].get("role") for x in d] == ["assistant"] + [None] * (N - 1))).also(
          text=chunks(lambda d: all(x["choices"][0]["delta"]["role"] == "assistant" for x in d))),
    chat("1.15 no usage unless asked", stream=True, text=chunks(lambda d: all(x["usage"] is None for x in d))),
    chat("1.15 usage once, with no choices, last", stream=True, stream_options={"include_usage": True},
         text=chunks(lambda d: d[-1]["choices"] == [] and d[-1]["usage"] == USAGE and all(x["usage"] is None for x in d[:-1]))),
    chat("1.15 finish_reason length", stream=True, max_tokens=2, text=chunks(lambda d: finish(d) == ["length"] and len(d) == 2)),
    *chat("10.11 a stop string in a stream", stream=True, stop=["ranc"],
          text=chunks(lambda d: joined(d) == "The capital of F" and finish(d) == ["stop"])).also(
          text=chunks(lambda d: joined(d) == "The capital of Franc" and finish(d) == ["stop_sequence"])),
    chat("1.15 logprobs in a stream", stream=True, logprobs=True, max_tokens=2,
         text=chunks(lambda d: all(len(x["choices"][0]["logprobs"]["content"]) == 1 for x in d))),
    chat("1.9 the headers of a stream", stream=True, max_tokens=1, headers={"content-type": "text/event-stream", "x-accel-buffering": "no", "cache-control": "no-cache"}),
    # 1.15: refusals
    *chat("10.5 a stream's refusal is a status", stream=True, max_tokens=5000, status=422, json={"error": {"type": "invalid_request_error"}}).also(
          status=200, json=None, text=chunks(lambda d: len(d) == 1 and d[0]["error"]["http_status_code"] == 422)),
    chat("10.18 OpenAI's error object", max_tokens=5000, status=422, json={"error_type": "validation", "error": {
         "message": lambda m: m.startswith("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: "),
         "type": "invalid_request_error", "param": None, "code": "context_length_exceeded", "http_status_code": 422}}),
    chat("10.18 only a request that is too long is called so", max_tokens=0, status=422, json={"error": {"code": None}}),
    complete("10.18 a prompt that is too long", "word " * 3800, max_tokens=1, status=422, json={"error": {"code": "context_length_exceeded",
             "message": lambda m: m.startswith("Input validation error: `inputs` must have less than 3696 tokens. Given: ")}}),
    chat("1.15 a message without content", [{"role": "user"}], status=422, json={"error": {"message": lambda m: "`messages[0]`" in m}}),
    chat("1.15 images are refused", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], status=422),
    *chat("1.15 top_logprobs up to OpenAI's limit", top_logprobs=20, logprobs=True, max_tokens=1,
          json={"choices": [{"logprobs": {"content": [{"top_logprobs": lambda t: len(t) == 20}]}}]}).also(
        status=422, json={"error": {"message": refused("`top_n_tokens` must be >= 0 and <= 5. Given: 20")["error"]}}),
    *chat("1.15 top_logprobs above the limit", top_logprobs=21, logprobs=True, status=422,
          json={"error": {"message": refused("`top_logprobs` must be >= 0 and <= 20. Given: 21")["error"]}}).also(
        json={"error": {"message": refused("`top_n_tokens` must be >= 0 and <= 5. Given: 21")["error"]}}),
    chat("1.15 temperature below 0", temperature=-1, status=422),
    chat("1.15 presence_penalty above 2", presence_penalty=2.5, status=422,
         json={"error": {"message": refused("`presence_penalty` must be >= -2.0 and <= 2.0")["error"]}}),
    chat("1.15 n above the limit", n=5, status=422, json={"error": {"message": refused("`n` must be > 0 and <= 4. Given: 5")["error"]}}),
    chat("1.15 n 0", n=0, status=422),
    # 1.15: tools
    *chat("10.13 a named tool", tools=TOOLS, tool_choice=NAMED, json=called("tool_calls", CALL_ID)).also(json=called("stop", "0")),
    *chat("10.13 a tool by its name alone", tools=TOOLS, tool_choice="time", json=called("tool_calls", CALL_ID, "time")).also(json=called("stop", "0", "time")),
    *chat("10.13 a required tool", tools=TOOLS[:1], tool_choice="required", json=called("tool_calls", CALL_ID)).also(json=called("stop", "0")),
    chat("1.15 TGI's key arguments for parameters", tools=[{"type": "function", "function": {"name": "weather", "arguments": CITY}}], tool_choice=NAMED,
         json={"choices": [{"message": {"tool_calls": [{"function": {"arguments": re.compile(r'\{"city": "(Paris|Rome)"\}')}}]}}]}),
    chat("10.13 a streamed call names itself once", tools=TOOLS, tool_choice=NAMED, stream=True,
         text=chunks(lambda d: [c["function"].get("name") for c in deltas(d)] == ["weather"] + [None] * (len(deltas(d)) - 1))),
    chat("10.13 a streamed call has one index and its id first", tools=TOOLS, tool_choice=NAMED, stream=True,
         text=chunks(lambda d: {c["index"] for c in deltas(d)} == {0} and ["id" in c for c in deltas(d)] == [True] + [False] * (len(deltas(d)) - 1))),
    chat("10.13 streamed arguments are JSON", tools=TOOLS, tool_choice=NAMED, stream=True,
         text=chunks(lambda d: json.loads("".join(c["function"]["arguments"] for c in deltas(d)))["city"] in ("Paris", "Rome"))),
    *chat("10.13 a stream of calls has a finish_reason", tools=TOOLS, tool_choice=NAMED, stream=True, text=chunks(lambda d: finish(d) == ["tool_calls"])).also(
          text=chunks(lambda d: finish(d) == ["stop"])),
    chat("1.15 tool_choice none drops the tools", tools=TOOLS, tool_choice="none", json={**content(TEXT), "usage": USAGE}),
    chat("1.15 no tools", tools=[], tool_choice="auto", json=content(TEXT)),
    chat("1.15 tools null", tools=None, tool_choice=None, tool_prompt="", json=content(TEXT)),
    chat("1.15 a tool's result in the history", [*MESSAGES, {"role": "assistant", "tool_calls": [{"id": "0", "type": "function", "function": {"name": "time", "arguments": {}}}]},
         {"role": "tool", "content": "noon", "tool_call_id": "0"}], tools=TOOLS, max_tokens=2, json={"usage": {"completion_tokens": int}}),
    chat("1.15 an unknown tool", tools=TOOLS, tool_choice="rain", status=422, json=tool_error("Tool with name rain not found")),
    chat("1.15 an unknown tool as an object", tools=TOOLS, tool_choice={"type": "function", "function": {"name": "rain"}}, status=422,
         json=tool_error("Tool with name rain not found")),
    chat("1.15 tools and a grammar", tools=TOOLS, response_format={"type": "json_object", "value": CITY}, status=422,
         json=tool_error("Grammar and tools are mutually exclusive")),
    chat("1.15 a tool that is no function", tools=[{"type": "custom", "custom": {"name": "x"}}], status=422,
         json=tool_error("`tools[0]` is of type `custom`, but only functions can be called")),
    chat("1.15 a call without a function in the history", [*MESSAGES, {"role": "assistant", "tool_calls": [{"id": "0"}]}], status=422,
         json={"error": {"message": lambda m: "`messages[1].tool_calls[0]`" in m}}),
    # 1.14
    complete("1.14 object", json={"object": "text_completion", "created": int, "system_fingerprint": FINGERPRINT, "model": str}),
    *complete("10.12 ids of completions", json={"id": ID["text"]}).also(json={"id": ""}),
    complete("1.14 one choice", json={"choices": [{"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop"}]}),
    complete("1.14 usage", json={"usage": USAGE}),
    complete("10.10 choices in order", [PROMPT, "1 2 3"], max_tokens=1, json={"choices": [{"index": 0, "text": "The"}, {"index": 1}]}),
    complete("10.10 n", n=2, max_tokens=1, json={"choices": [{"index": 0}, {"index": 1}]}),
    complete("10.10 echo", echo=True, json=text(PROMPT + TEXT)),
    complete("10.10 logprobs", logprobs=2, max_tokens=1,
             json={"choices": [{"logprobs": {"tokens": ["The"], "text_offset": [0], "top_logprobs": lambda t: len(t[0]) == 2}}]}),
    complete("10.10 echo with logprobs: the prompt's tokens come first", echo=True, logprobs=1, max_tokens=1, json={"choices": [{"logprobs": lambda c:
             "".join(c["tokens"]) == PROMPT + "The" and c["token_logprobs"][0] is None and c["top_logprobs"][0] is None
             and all(max(best.values()) >= logprob for best, logprob in zip(c["top_logprobs"][1:], c["token_logprobs"][1:]))
             and c["text_offset"][-1] == len(PROMPT)}]}),
    complete("10.10 echo with logprobs in a stream", echo=True, logprobs=0, max_tokens=2, stream=True,
             text=chunks(lambda d: [len(x["choices"][0]["logprobs"]["tokens"]) for x in d] == [N_PROMPT + 1, 1])),
    complete("10.10 echo with more candidates than are known", echo=True, logprobs=2, status=422,
             json={"error": {"message": lambda m: "`logprobs` must be <= 1 with `echo`" in m}}),
    complete("10.10 token ids as prompt", [19, 28], max_tokens=1, json={"usage": {"prompt_tokens": 2}}),
    complete("1.14 finish_reason length", max_tokens=2, json={"choices": [{"finish_reason": "length"}]}),
    *complete("10.11 a stop string", stop="ranc", json={"choices": [{"text": "The capital of F", "finish_reason": "stop"}]}).also(
          json={"choices": [{"text": "The capital of Franc", "finish_reason": "stop_sequence"}]}),
    complete("1.14 suffix", suffix="x", status=422,
             json={"error": {"message": "Suffix is not supported and can be achieved by preprocessing the prompt."}, "error_type": "suffix not supported"}),
    complete("1.14 no prompt in the list", [], status=422,
             json={"error": {"message": lambda m: "Empty array detected. Do not use an empty array for the prompt." in m}}),
    complete("1.14 too many prompts", ["a"] * 5, status=422,
             json={"error": {"message": "Number of prompts exceeds the maximum allowed batch size of 4"}, "error_type": "batch size exceeded"}),
    complete("1.14 an empty prompt", "", status=422, json={"error": {"message": refused("`inputs` cannot be empty")["error"]}}),
    *(complete(f"1.14 {name}", headers={name: value}) for name, value in HEADERS.items() if name != "x-compute-time"),
    complete("1.14 no x-compute-time", headers={"x-compute-time": ABSENT}),
    complete("1.14 headers are summed over prompts", [PROMPT, PROMPT], max_tokens=2, headers={"x-prompt-tokens": str(2 * N_PROMPT), "x-generated-tokens": "4"}),
    complete("10.10 the end token's text does not leak", stream=True,
             text=chunks(lambda d: "".join(c["text"] for x in d for c in x["choices"]) == TEXT)),
    complete("10.10 finish_reason is null, then a word", stream=True,
             text=chunks(lambda d: [x["choices"][0]["finish_reason"] for x in d] == [None] * (N - 1) + ["stop"])),
    complete("D key order of chunks", stream=True, max_tokens=2,
             text=chunks(lambda d: list(d[0]) == ["object", "id", "created", "choices", "model", "system_fingerprint"])),
    complete("1.14 usage in the last chunk", stream=True, max_tokens=2,
             text=chunks(lambda d: d[-1]["usage"]["completion_tokens"] == 2 and "usage" not in d[0])),
    complete("1.14 prompts interleave by index", ["a", "b"], stream=True, max_tokens=2,
             text=chunks(lambda d: sorted(c["index"] for x in d for c in x["choices"]) == [0, 0, 1, 1])),
]  # fmt: skip
