"""What every client is asked: a golden chat, two functions, a schema. Used by the scripts beside it."""

import json
import sys

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Paris", "Rome"]},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
NOW = {
    "type": "function",
    "function": {
        "name": "now",
        "description": "The time of day.",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    },
}
TOOLS = [WEATHER, NOW]
QUESTION = [{"role": "user", "content": "What is the weather in Rome?"}]
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["red", "green"]}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["colour", "n"],
    "additionalProperties": False,
}
# Ends any answer that the model does not end itself.
MAX_TOKENS = 80


def run(client):
    """``client(url, case)`` for the server and the golden case of the command line; prints what it returns as JSON."""
    print(json.dumps(client(sys.argv[1], json.load(sys.stdin))))


def calls(message_calls):
    """``[name, arguments]`` of OpenAI-shaped calls, the arguments read as JSON; ids must differ."""
    assert len({call.id for call in message_calls}) == len(message_calls)
    assert all(call.type == "function" and call.id for call in message_calls)
    return [[call.function.name, json.loads(call.function.arguments)] for call in message_calls]


def joined_calls(chunks):
    """``[name, arguments]`` of the calls of one choice's stream, and its last finish reason."""
    found, finish = {}, None
    for chunk in chunks:
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or []:
                entry = found.setdefault(call.index, {"id": call.id, "name": call.function.name, "arguments": ""})
                entry["arguments"] += call.function.arguments or ""
    assert all(entry["id"] and entry["name"] for entry in found.values())
    return [[found[i]["name"], json.loads(found[i]["arguments"])] for i in sorted(found)], finish
