"""huggingface_hub's InferenceClient, at TGI's last days and newest."""

import json

import huggingface_hub
from case import MAX_TOKENS, QUESTION, SCHEMA, TOOLS, joined_calls, run
from huggingface_hub import InferenceClient


def arguments(call):
    """Old versions type them as anything, new ones as a string."""
    given = call.function.arguments
    return [call.function.name, json.loads(given) if isinstance(given, str) else given]


def client(url, case):
    api = InferenceClient(url)
    prompt, messages = case["prompt"], case["messages"]
    golden = {"max_tokens": 48, "temperature": 0}
    forced = {"tools": TOOLS, "tool_choice": "get_weather", "max_tokens": MAX_TOKENS}
    called = api.chat_completion(QUESTION, **forced).choices[0]
    chunks = list(api.chat_completion(QUESTION, stream=True, **forced))
    old = huggingface_hub.__version__.startswith("0.")
    named = {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA}}
    response_format = {"type": "json", "value": SCHEMA} if old else named
    schema = api.chat_completion(QUESTION, response_format=response_format, max_tokens=MAX_TOKENS)
    grammar = {"type": "json", "value": SCHEMA}
    generated = api.text_generation("A colour:", grammar=grammar, max_new_tokens=MAX_TOKENS, return_full_text=False)
    stream = api.text_generation(prompt, max_new_tokens=48, stream=True, return_full_text=False)
    return {
        "version": huggingface_hub.__version__,
        "plain": api.chat_completion(messages, **golden).choices[0].message.content,
        "streamed": "".join(c.choices[0].delta.content or "" for c in api.chat_completion(messages, stream=True, **golden)),
        "text": api.text_generation(prompt, max_new_tokens=48, return_full_text=False),
        "text_streamed": "".join(stream),
        "called": [arguments(call) for call in called.message.tool_calls],
        "called_finish": called.finish_reason,
        # TGI's own days typed one call a delta, not a list.
        "called_streamed": None if old else joined_calls(chunks),
        "chunks_finish": chunks[-1].choices[0].finish_reason,
        "schema": json.loads(schema.choices[0].message.content),
        "grammar": json.loads(generated),
    }


run(client)
