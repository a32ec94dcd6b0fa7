"""The openai package, before 2 and newest: what it parses is checked by its own types, not only read."""

import json
from typing import Literal

import openai
from case import MAX_TOKENS, NOW, QUESTION, SCHEMA, TOOLS, calls, joined_calls, run
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel


class Colours(BaseModel):
    colour: Literal["red", "green"]
    n: Literal[1, 2, 3]


def validated(raw):
    """The whole body under the package's strict types: its own parsing accepts anything."""
    body = json.loads(raw.http_response.text)
    return ChatCompletion.model_validate(body, strict=True)


def stream(chat, **fields):
    """The chunks of a stream, each checked in the same way."""
    with chat.with_streaming_response.create(model="any", stream=True, temperature=0, **fields) as reply:
        data = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    assert data.pop() == "[DONE]"
    return [ChatCompletionChunk.model_validate(json.loads(chunk), strict=True) for chunk in data]


def tools(chat):
    call = {"model": "any", "messages": QUESTION, "tools": TOOLS, "temperature": 0, "max_tokens": MAX_TOKENS}
    forced = {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}
    named = validated(chat.with_raw_response.create(**call, **forced)).choices[0]
    required = validated(chat.with_raw_response.create(**call, tool_choice="required", parallel_tool_calls=False)).choices[0]
    auto = validated(chat.with_raw_response.create(**call)).choices[0]
    none = validated(chat.with_raw_response.create(**call, tool_choice="none")).choices[0]
    call.pop("model"), call.pop("temperature")
    streamed = joined_calls(stream(chat, **call, **forced))
    # The answer and its result go back.
    history = [*QUESTION, named.message.model_dump(exclude_none=True)]
    history.append({"role": "tool", "tool_call_id": named.message.tool_calls[0].id, "content": "Sunny, 25 degrees."})
    reply = validated(chat.with_raw_response.create(model="any", messages=history, tools=TOOLS, max_tokens=30)).choices[0]
    return {
        "named": calls(named.message.tool_calls),
        "named_content": named.message.content,
        "named_finish": named.finish_reason,
        "required": calls(required.message.tool_calls),
        "auto_finish": auto.finish_reason,
        "auto_calls": auto.message.tool_calls is not None,
        "none_calls": none.message.tool_calls,
        "streamed": streamed[0],
        "streamed_finish": streamed[1],
        "after_result": reply.message.content or reply.message.tool_calls is not None,
    }


def accumulated(chat):
    """The package's own putting together of a stream."""
    named = {"type": "function", "function": {"name": "now"}}
    call = {"model": "any", "messages": QUESTION, "tools": [NOW], "tool_choice": named, "max_tokens": MAX_TOKENS}
    with chat.stream(**call) as events:
        message = events.get_final_completion().choices[0].message
    return {"role": message.role, "calls": calls(message.tool_calls)}


def client(url, case):
    api = openai.OpenAI(base_url=url + "/v1", api_key="-", max_retries=0)
    chat = api.chat.completions
    beta = chat if hasattr(chat, "parse") else api.beta.chat.completions
    golden = {"messages": case["messages"], "max_tokens": 48}
    plain = validated(chat.with_raw_response.create(model="any", temperature=0, logprobs=True, top_logprobs=1, **golden))
    chunks = stream(chat, stream_options={"include_usage": True}, **golden)
    response_format = {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA, "strict": True}}
    schema = chat.create(model="any", messages=QUESTION, max_tokens=MAX_TOKENS, response_format=response_format)
    schema_chunks = stream(chat, messages=QUESTION, max_tokens=MAX_TOKENS, response_format=response_format)
    parsed = beta.parse(model="any", messages=QUESTION, max_tokens=MAX_TOKENS, response_format=Colours, temperature=0)
    fields = {"n": 2, "stop": ["x", "y"], "seed": 1, "user": "u", "max_completion_tokens": 3, "logit_bias": {"5": -100}}
    many = validated(chat.with_raw_response.create(model="any", messages=QUESTION, **fields))
    text = api.completions.create(model="any", prompt="1 2 3", max_tokens=2, echo=True, stop=["z"], n=2)
    scored = api.completions.create(model="any", prompt="1 2 3", max_tokens=1, echo=True, logprobs=1, temperature=0)
    columns = scored.choices[0].logprobs
    try:
        chat.create(model="any", messages=QUESTION, tools=TOOLS, tool_choice="rain")
        error = None
    except openai.UnprocessableEntityError as caught:
        error = [caught.body["message"], caught.type, caught.code]
    try:
        api.models.retrieve("another")
        missing = None
    except openai.NotFoundError as caught:
        missing = caught.code
    served = api.models.list().data[0].id
    return {
        "version": openai.__version__,
        "plain": plain.choices[0].message.content,
        "finish": plain.choices[0].finish_reason,
        "usage": plain.usage.completion_tokens,
        "logprob_bytes": bytes(sum((token.bytes for token in plain.choices[0].logprobs.content[:-1]), [])).decode(),
        "streamed": "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices),
        "streamed_usage": chunks[-1].usage.completion_tokens,
        "schema": json.loads(schema.choices[0].message.content),
        "streamed_schema": json.loads("".join(c.choices[0].delta.content or "" for c in schema_chunks)),
        "parsed": parsed.choices[0].message.parsed.colour,
        "n": [choice.index for choice in many.choices],
        "many_tokens": many.usage.completion_tokens,
        "echo": [choice.text.startswith("1 2 3") for choice in text.choices],
        "scored_text": ["".join(columns.tokens), scored.choices[0].text],
        "scored": [columns.token_logprobs, [top and max(top.values()) for top in columns.top_logprobs]],
        "error": error,
        "missing": missing,
        "model": api.models.retrieve(served).id == served,
        "tools": tools(chat),
        "accumulated": accumulated(beta),
    }


run(client)
