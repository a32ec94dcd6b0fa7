"""litellm's OpenAI-compatible provider: plain, streamed, tools, JSON schema."""

import json
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch prices

import litellm
from case import MAX_TOKENS, QUESTION, SCHEMA, TOOLS, calls, joined_calls, run


def client(url, case):
    litellm.telemetry = False
    where = {"model": "openai/any", "api_base": url + "/v1", "api_key": "-", "max_retries": 0}
    golden = {**where, "messages": case["messages"], "max_tokens": 48, "temperature": 0}
    named = {"type": "function", "function": {"name": "get_weather"}}
    forced = {**where, "messages": QUESTION, "tools": TOOLS, "tool_choice": named, "max_tokens": MAX_TOKENS}
    called = litellm.completion(**forced).choices[0]
    response_format = {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA, "strict": True}}
    schema = litellm.completion(**where, messages=QUESTION, max_tokens=MAX_TOKENS, response_format=response_format)
    history = [*QUESTION, called.message.model_dump(), {"role": "tool", "tool_call_id": called.message.tool_calls[0].id, "content": "Sunny."}]
    answer = litellm.completion(**where, messages=history, tools=TOOLS, max_tokens=30).choices[0].message
    return {
        "plain": litellm.completion(**golden).choices[0].message.content,
        "streamed": "".join(c.choices[0].delta.content or "" for c in litellm.completion(stream=True, **golden)),
        "called": calls(called.message.tool_calls),
        "called_finish": called.finish_reason,
        "called_streamed": joined_calls(litellm.completion(stream=True, **forced)),
        "schema": json.loads(schema.choices[0].message.content),
        "answer": bool(answer.content or answer.tool_calls),
    }


run(client)
