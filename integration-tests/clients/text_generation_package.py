"""text-generation, TGI's own first client."""

import json

from case import MAX_TOKENS, QUESTION, SCHEMA, TOOLS, run
from text_generation import Client
from text_generation.types import Grammar, GrammarType, Message, Tool


def client(url, case):
    api = Client(url, timeout=600)
    whole = api.generate(case["prompt"], max_new_tokens=48)
    stream = list(api.generate_stream(case["prompt"], max_new_tokens=48))
    grammar = Grammar(type=GrammarType.Json, value=SCHEMA)
    constrained = api.generate("A colour:", max_new_tokens=MAX_TOKENS, grammar=grammar)
    messages = [Message(**message) for message in case["messages"]]
    chat = api.chat(messages, max_tokens=48, temperature=0)
    question = [Message(**message) for message in QUESTION]
    tools = [Tool(**tool) for tool in TOOLS]
    called = api.chat(question, tools=tools, tool_choice="get_weather", max_tokens=MAX_TOKENS)
    (call,) = called.choices[0].message.tool_calls
    return {
        "text": whole.generated_text,
        "finish": whole.details.finish_reason.value,
        "ids": [token.id for token in whole.details.tokens],
        "stream_ids": [event.token.id for event in stream],
        "stream_text": stream[-1].generated_text,
        "grammar": json.loads(constrained.generated_text),
        "plain": chat.choices[0].message.content,
        "called": [[call["function"]["name"], json.loads(call["function"]["arguments"])]],
    }


run(client)
