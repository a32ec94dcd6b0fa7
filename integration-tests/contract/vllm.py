"""vLLM's fields on OpenAI's routes and on its first /generate: each is done or refused, none passed over but in TGI's mode.

Also what clients of every kind send: null for what they do not set, seeds of any sign, browsers' headers.
"""

import re

from .errors import refused
from .generate import N_PROMPT, PROMPT, TEXT
from .openai import MESSAGES, chat, chunks, complete, content, text
from .row import FIXED, Row, get, post

ENDED = [*MESSAGES, {"role": "assistant", "content": "The "}]
OPENING = "<|im_start|>assistant\n"


def rendered(rule, prompt, messages=MESSAGES, **fields):
    return post(f"vLLM {rule}", "/chat_tokenize", {"messages": messages, **fields}, json={"templated_text": prompt})


ROWS = [
    chat("vLLM top_k", temperature=1.9, top_k=1, json=content(TEXT)),
    complete("vLLM top_k on completions", temperature=1.9, top_k=1, json=text(TEXT)),
    chat("vLLM top_k below -1", temperature=1.0, top_k=-2, status=422,
         json={"error": {"message": refused("`top_k` must be strictly positive")["error"]}}),
    *(chat(f"vLLM top_k {k} is off", top_k=k, json=content(TEXT)) for k in (-1, 0)),
    chat("vLLM ignore_eos", ignore_eos=True, min_tokens=20, max_tokens=20,
         json={"choices": [{"finish_reason": "length"}], "usage": {"completion_tokens": 20}}),
    *chat("vLLM stop_token_ids", stop_token_ids=[3558], json={"choices": [{"message": {"content": "The"}, "finish_reason": "stop"}],
          "usage": {"completion_tokens": 2}}).also(json=content("The capital")),
    chat("vLLM stop_token_ids in a stream", stop_token_ids=[3558], stream=True, modes=(FIXED,),
         text=chunks(lambda d: [x["choices"][0]["delta"]["content"] for x in d] == ["The", ""])),
    chat("vLLM stop_token_ids beyond the vocabulary", stop_token_ids=[10**6], status=422),
    chat("vLLM too many stop_token_ids", stop_token_ids=[1] * 129, status=422,
         json={"error": {"message": refused("`stop_token_ids` supports up to 128 ids. Given: 129")["error"]}}),
    chat("vLLM include_stop_str_in_output", stop="ranc", include_stop_str_in_output=True, json=content("The capital of Franc")),
    *chat("vLLM skip_special_tokens false", skip_special_tokens=False, json=content(TEXT)).also(json=content(TEXT + "<|im_end|>")),
    chat("vLLM special tokens are shown", skip_special_tokens=False, include_stop_str_in_output=True, json=content(TEXT + "<|im_end|>")),
    chat("vLLM truncate_prompt_tokens", truncate_prompt_tokens=2, max_tokens=1, json={"usage": {"prompt_tokens": 2}}),
    chat("vLLM truncate_prompt_tokens -1", truncate_prompt_tokens=-1, max_tokens=1, json={"usage": {"prompt_tokens": N_PROMPT}}),
    chat("vLLM truncate_prompt_tokens below -1", truncate_prompt_tokens=-2, status=422),
    complete("vLLM truncate_prompt_tokens with echo", truncate_prompt_tokens=2, echo=True, status=422),
    chat("vLLM continuous_usage_stats", stream=True, max_tokens=2, stream_options={"include_usage": True, "continuous_usage_stats": True},
         text=chunks(lambda d: [x["usage"]["completion_tokens"] for x in d] == [1, 2, 2])),
    complete("vLLM continuous_usage_stats on completions", stream=True, max_tokens=2, stream_options={"include_usage": True, "continuous_usage_stats": True},
             text=chunks(lambda d: [x["usage"]["completion_tokens"] for x in d] == [1, 2, 2])),
    # How a prompt ends.
    rendered("a reply is opened", PROMPT),
    rendered("the assistant's last message is continued", PROMPT + "The", ENDED),
    rendered("continue_final_message", PROMPT + "The", ENDED, continue_final_message=True, add_generation_prompt=False),
    rendered("continue_final_message false", PROMPT + "The <|im_end|>\n" + OPENING, ENDED, continue_final_message=False),
    rendered("add_generation_prompt true", PROMPT + "The <|im_end|>\n" + OPENING, ENDED, add_generation_prompt=True),
    rendered("add_generation_prompt false", PROMPT.removesuffix(OPENING), add_generation_prompt=False),
    rendered("add_generation_prompt false after the assistant", PROMPT + "The <|im_end|>\n", ENDED, add_generation_prompt=False),
    rendered("chat_template_kwargs", PROMPT, chat_template_kwargs={"enable_thinking": False}),
    chat("vLLM continue_final_message after the user", continue_final_message=True, status=422),
    chat("vLLM continue_final_message and add_generation_prompt", ENDED, continue_final_message=True, add_generation_prompt=True, status=422),
    chat("vLLM chat_template_kwargs of the server's", chat_template_kwargs={"messages": []}, status=422,
         json={"error": {"message": refused("`chat_template_kwargs` cannot have `messages`")["error"]}}),
    # Tokens and models
    post("vLLM return_token_strs", "/tokenize", {"prompt": "The capital", "return_token_strs": True}, json={"tokens": [487, 3558], "token_strs": ["The", " capital"]}),
    post("vLLM return_token_strs of messages", "/tokenize", {"messages": MESSAGES, "return_token_strs": True},
         json={"token_strs": lambda t: "".join(t) == PROMPT}),
    get("vLLM max_model_len", "/v1/models", json={"data": [{"max_model_len": 4096}]}),
    get("a model whose name is no UTF-8", "/v1/models/%ff", status=404, json={"error_type": "not_found"}),
]  # fmt: skip

# What is not done is refused; TGI's mode passes it over.
BOTH_ROUTES = {
    "min_p": 0.1, "min_tokens": 3, "use_beam_search": True, "length_penalty": 2.0, "prompt_logprobs": 1, "allowed_token_ids": [1],
    "bad_words": ["x"], "logits_processors": ["x"], "return_token_ids": True, "return_tokens_as_token_ids": True,
}  # fmt: skip
CHAT = {"echo": True, "documents": [{"text": "x"}], "chat_template": "x", "add_special_tokens": True}
COMPLETIONS = {"add_special_tokens": False}


def unsupported(name):
    return f"Input validation error: `{name}` is not supported on this route. Leave it out"


for make, fields in ((chat, BOTH_ROUTES | CHAT), (complete, BOTH_ROUTES | COMPLETIONS)):
    for name, value in fields.items():
        row = make(f"vLLM {make.__name__} refuses {name}", max_tokens=2, status=422, json={"error": {"message": unsupported(name)}}, **{name: value})
        ROWS += row.also(status=200, json={"usage": {"completion_tokens": 2}})
ROWS += [
    post(f"vLLM /generate refuses {name}", "/generate", {"prompt": "x", name: value}, status=422, json={"error": unsupported(name)})
    for name, value in (BOTH_ROUTES | {"best_of": 2}).items()
]
ROWS += [
    post("vLLM /generate: top_k and stop_token_ids", "/generate", {"prompt": PROMPT, "temperature": 1.9, "top_k": 1, "stop_token_ids": [3558]},
         json={"text": [PROMPT + "The"]}),
    post("vLLM /generate: seed -1 is none", "/generate", {"prompt": "x", "max_tokens": 1, "seed": -1}),
]

# null is "not given" for every field that the openai package and vLLM know.
NULLS = (
    "model frequency_penalty presence_penalty logit_bias logprobs max_tokens n seed stop stream stream_options temperature top_p user "
    "repetition_penalty top_k min_p ignore_eos min_tokens stop_token_ids include_stop_str_in_output skip_special_tokens "
    "truncate_prompt_tokens prompt_logprobs add_special_tokens response_format structured_outputs guided_json guided_regex guided_choice "
    "guided_grammar priority request_id"
).split()
CHAT_NULLS = (
    "audio function_call functions max_completion_tokens metadata modalities parallel_tool_calls prediction reasoning_effort safety_identifier "
    "service_tier store tool_choice tools tool_prompt top_logprobs verbosity web_search_options echo documents chat_template "
    "chat_template_kwargs add_generation_prompt continue_final_message"
).split()
for make, names in ((chat, NULLS + CHAT_NULLS), (complete, [*NULLS, "best_of", "echo", "suffix"])):
    # One request a route: a null that is refused is named by the answer.
    fields = {"temperature": None, **dict.fromkeys(names)}
    body = {**make("", **fields).body, "max_completion_tokens" if make is chat else "max_tokens": 1}
    ROWS.append(post(f"10.7 null for every field of {make.__name__}", make("").path, body, json={"usage": {"completion_tokens": 1}}))

# Errors name the field; seeds have any sign.
for name, value in {"seed": "x", "temperature": "x", "top_k": 1.5, "response_format": "json", "guided_regex": 3, "stop_token_ids": 1}.items():
    begins = re.compile(f"(?s)Failed to deserialize the JSON body into the target type: {name}: .*")
    ROWS.append(chat(f"1.1 an error names {name}", status=422, json={"error": {"message": begins}}, **{name: value}))
ROWS += [chat(f"1.15 seed {seed}", seed=seed, temperature=1.0, max_tokens=1) for seed in (-1, 0, -(2**63), 2**64 - 1)]
ROWS.append(chat("1.15 a seed of more than 64 bits", seed=2**64, status=422))

# Bodies that are not what they seem.
for path in ("/generate", "/v1/chat/completions"):
    text_ = "Expected a request body without `Content-Encoding`. Given: gzip"
    ROWS.append(Row(f"1.1 a compressed body on {path}", "POST", path, raw=b"\x1f\x8b\x08",
                    send={"content-type": "application/json", "content-encoding": "gzip"}, status=415,
                    json={"error": {"message": text_} if path.startswith("/v1") else text_}))  # fmt: skip
ROWS.append(Row("1.1 the encoding identity", "POST", "/tokenize", raw=b'{"inputs":"a"}',
                send={"content-type": "application/json", "content-encoding": "identity"}))  # fmt: skip

ROWS.append(chat("1.15 web_search_options", web_search_options={}, status=422, json={"error": {"message": lambda m: "`web_search_options`" in m}}))

# Routes of OpenAI's that are none here.
for path in ("/v1/responses", "/v1/embeddings"):
    ROWS.append(post(f"no such route: {path}", path, {"model": "m", "input": "x"}, status=404,
                     json={"error": {"message": "No such route", "type": "invalid_request_error", "param": None}}))  # fmt: skip

# The openai package in a browser asks for leave to send headers of its own, and reads x-request-id.
ROWS += [
    Row("1.1 preflight of the openai package", "OPTIONS", "/v1/chat/completions",
        send={"origin": "http://a", "access-control-request-method": "POST",
              "access-control-request-headers": "authorization,content-type,x-stainless-os"},
        headers={"access-control-allow-headers": "authorization,content-type,x-stainless-os"}),
    get("1.1 browsers may read all headers", "/info", headers={"access-control-expose-headers": "*"}),
]  # fmt: skip
