"""Constrained and biased answers of a real model: whatever it would like to say, it keeps to the constraint.

Schemas are random, seeded; every finished answer must be valid JSON under its schema (jsonschema), streamed or
not, greedy or sampled. Bad constraints are refused beside a running generation that they must not disturb.
"""

import json
import os
import random
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import pytest
import requests

from server import PATIENCE, Server, until
from shards import shard_pid
from test_recovery import Client, check_answer, go_on

N_SCHEMAS = 200
MAX_TOKENS = 160
WORDS = ["name", "age", "city", "tags", "size", "kind", "total", "active", "notes", "id"]


def random_schema(rng, depth=0):
    """A schema whose documents are short, with most keywords that clients use."""
    kinds = ["integer", "number", "string", "boolean", "null", "enum", "const", "pattern", "length"]
    kind = rng.choice(kinds if depth > 2 else [*kinds, "array", "object", "object", "anyOf", "ref"])
    match kind:
        case "integer":
            low = rng.randrange(-50, 50)
            return rng.choice([{"type": "integer", "minimum": low, "maximum": low + rng.randrange(1, 900)}])
        case "number":
            return {"type": "number", "minimum": 0, "exclusiveMaximum": rng.randrange(1, 100)}
        case "string":
            return {"type": "string", "maxLength": rng.randrange(3, 20)}
        case "length":
            low = rng.randrange(0, 4)
            return {"type": "string", "minLength": low, "maxLength": low + rng.randrange(1, 6)}
        case "pattern":
            return {"type": "string", "pattern": rng.choice(["^[A-Z][a-z]{2,8}$", r"^\d{3}-\d{4}$", "^(yes|no)$"])}
        case "enum":
            return {"enum": rng.sample([*WORDS, 1, 2.5, None, True], rng.randrange(1, 5))}
        case "const":
            return {"const": rng.choice([*WORDS, 7, {"a": [1]}])}
        case "array":
            low = rng.randrange(0, 3)
            items = random_schema(rng, depth + 1)
            return {"type": "array", "items": items, "minItems": low, "maxItems": low + rng.randrange(1, 3)}
        case "anyOf":
            return {"anyOf": [random_schema(rng, depth + 1) for _ in range(2)]}
        case "ref":
            return {"$defs": {"part": random_schema(rng, 3)}, **object_of(rng, lambda: {"$ref": "#/$defs/part"})}
        case "object":
            return object_of(rng, lambda: random_schema(rng, depth + 1))
    return {"type": kind}


def object_of(rng, one):
    names = rng.sample(WORDS, rng.randrange(1, 4))
    required = [name for name in names if rng.random() < 0.7]
    properties = {name: one() for name in names}
    # As people write them: often without a type, or without a word about other properties.
    kind = {"type": "object"} if rng.random() < 0.7 else {}
    others = {"additionalProperties": False} if rng.random() < 0.5 else {}
    return {**kind, "properties": properties, "required": required, **others}


def root_schema(seed):
    """References are to the root, so only the outermost schema may have definitions."""
    rng = random.Random(seed)
    schema = random_schema(rng)
    while "$defs" in json.dumps(schema) and "$defs" not in schema:
        schema = random_schema(rng)
    if "$defs" in json.dumps({k: v for k, v in schema.items() if k != "$defs"}):
        return root_schema(seed + 10_000)
    return schema


def chat(server, content, **fields):
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": MAX_TOKENS, **fields}
    reply = requests.post(f"{server.url}/v1/chat/completions", json=body, timeout=PATIENCE)
    assert reply.status_code == 200, (fields, reply.text)
    return reply.json()["choices"][0]


def chat_stream(server, content, **fields):
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": MAX_TOKENS, "stream": True, **fields}
    text, finish = "", None
    with requests.post(f"{server.url}/v1/chat/completions", json=body, stream=True, timeout=PATIENCE) as reply:
        assert reply.status_code == 200, reply.text
        for line in reply.iter_lines():
            if line.startswith(b"data: {"):
                choice = json.loads(line[6:])["choices"][0]
                text += choice["delta"].get("content") or ""
                finish = choice["finish_reason"] or finish
    return {"message": {"content": text}, "finish_reason": finish}


def generate(server, inputs, **parameters):
    parameters = {"max_new_tokens": 60, "details": True, **parameters}
    reply = requests.post(f"{server.url}/generate", json={"inputs": inputs, "parameters": parameters}, timeout=PATIENCE)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.parametrize("fixture", ["smollm2", "qwen_v1"])
def test_random_schemas(fixture, request):
    server = request.getfixturevalue(fixture)

    def one(seed):
        schema = root_schema(seed)
        named = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
        ask = chat_stream if seed % 3 == 0 else chat
        sampling = {"temperature": 0} if seed % 2 else {"temperature": 1.0, "seed": seed}
        choice = ask(server, "Describe a town as JSON.", response_format=named, **sampling)
        return schema, choice

    n = N_SCHEMAS if fixture == "smollm2" else 40
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, range(n)))
    n_finished = 0
    for schema, choice in answers:
        text = choice["message"]["content"]
        if choice["finish_reason"] == "stop":
            jsonschema.validate(json.loads(text), schema, cls=jsonschema.Draft202012Validator)
            n_finished += 1
        else:
            assert choice["finish_reason"] == "length", choice
    assert n_finished >= n * 0.9, f"only {n_finished} of {n} finished"


def test_json_objects_and_choices(smollm2):
    text = chat(smollm2, "A person as JSON.", response_format={"type": "json_object"}, temperature=0)
    if text["finish_reason"] == "stop":
        assert isinstance(json.loads(text["message"]["content"]), dict)
    assert text["message"]["content"].startswith("{")
    cities = ["Paris", "Lyon", "Marseille"]
    for seed in range(6):
        choice = chat(smollm2, "A city?", guided_choice=cities, seed=seed)
        assert choice["message"]["content"] in cities and choice["finish_reason"] == "stop"


def test_regex_and_grammars(smollm2):
    for regex in [r"[A-Z][a-z]+ is \d{4} years old\.", r"(red|green|blue)(, (red|green|blue)){2}", r"\d{1,3}(\.\d{1,3}){3}"]:
        done = generate(smollm2, "Tell me:", grammar={"type": "regex", "value": regex})
        assert re.fullmatch(regex, done["generated_text"]), done
        assert done["details"]["finish_reason"] == "eos_token"
    lark = 'start: "sum:" term ("+" term)+\nterm: /[0-9]{1,3}/'
    ebnf = 'root ::= "sum:" term ("+" term)+ "."\nterm ::= [0-9] [0-9]?'
    for grammar, regex in [(lark, r"sum:\d+(\+\d+)+"), (ebnf, r"sum:\d{1,2}(\+\d{1,2})+\.")]:
        choice = chat(smollm2, "Add numbers.", guided_grammar=grammar, temperature=0, max_tokens=40)
        text = choice["message"]["content"]
        if choice["finish_reason"] == "stop":
            assert re.fullmatch(regex, text), text
        else:
            assert text.startswith("sum:"), text


def test_every_copy_of_n_and_best_of_keeps_to_it(smollm2):
    body = {"prompt": "A number:", "n": 3, "guided_regex": " [0-9]{3}", "max_tokens": 20}
    reply = requests.post(f"{smollm2.url}/v1/completions", json=body, timeout=PATIENCE).json()
    assert all(re.fullmatch(" [0-9]{3}", choice["text"]) for choice in reply["choices"]), reply
    done = generate(smollm2, "A number:", best_of=2, do_sample=True, grammar={"type": "regex", "value": "[0-9]{3}"})
    for one in [done, *done["details"]["best_of_sequences"]]:
        assert re.fullmatch("[0-9]{3}", one["generated_text"]), done


def test_logit_bias(smollm2):
    free = generate(smollm2, "The capital of France is", max_new_tokens=1)["details"]["tokens"][0]
    other = generate(smollm2, "xyz", max_new_tokens=1)["details"]["tokens"][0]

    def first(**bias):
        fields = {"prompt": "The capital of France is", "max_tokens": 1, "temperature": 0, "logprobs": 1}
        reply = requests.post(f"{smollm2.url}/v1/completions", json={**fields, **bias}, timeout=PATIENCE)
        assert reply.status_code == 200, reply.text
        return reply.json()["choices"][0]["text"]

    assert first() == free["text"] == first(logit_bias={}) == first(logit_bias=None)
    assert first(logit_bias={str(free["id"]): -100}) != free["text"]
    assert free["id"] != other["id"] and first(logit_bias={str(other["id"]): 100}) == other["text"]
    for bias, text in [
        ({"49152": 1}, "token ids must be < 49152"),
        ({"1": 100.5}, "`logit_bias` values must be >= -100.0 and <= 100.0. Given: 100.5"),
        ({str(i): 1 for i in range(1025)}, "`logit_bias` supports up to 1024 tokens. Given: 1025"),
    ]:
        reply = requests.post(f"{smollm2.url}/v1/completions", json={"prompt": "a", "logit_bias": bias}, timeout=PATIENCE)
        assert reply.status_code == 422 and text in reply.text, reply.text


BAD = [
    ({"guided_regex": "(" * 5000}, "grammar is not valid"),
    ({"guided_regex": "a(?<!b)"}, "grammar is not valid"),
    ({"guided_grammar": "start: " + "(" * 20000}, "grammar is not valid"),
    ({"guided_grammar": "start: nothing"}, "grammar is not valid"),
    ({"guided_json": {"type": "nonsense"}}, "grammar is not valid"),
    ({"guided_json": {"type": "array", "uniqueItems": True}}, "Unimplemented keys"),
    ({"guided_json": {"$ref": "http://localhost/other.json"}}, "grammar is not valid"),
    ({"guided_json": "{"}, "grammar is not valid: EOF"),
    ({"guided_json": {"allOf": [{"type": "string"}, {"type": "integer"}]}}, "grammar is not valid"),
    ({"guided_choice": []}, "a choice has 1 to 10000 texts. Given: 0"),
    ({"guided_choice": ["a"], "guided_regex": "b"}, "the output can have only one constraint"),
    ({"response_format": {"type": "xml"}}, "`response_format.type` must be text, json_object or json_schema"),
]


def test_bad_constraints_beside_a_running_generation(smollm2):
    expected = generate(smollm2, "Once upon a time", max_new_tokens=100)
    got = []
    beside = threading.Thread(target=lambda: got.append(generate(smollm2, "Once upon a time", max_new_tokens=100)))
    beside.start()
    for fields, text in BAD:
        body = {"prompt": "a", "max_tokens": 5, **fields}
        reply = requests.post(f"{smollm2.url}/v1/completions", json=body, timeout=PATIENCE)
        assert reply.status_code == 422 and text in reply.text, (fields, reply.text[:300])
    beside.join(PATIENCE)
    assert got == [expected], "the generation beside was disturbed"


def test_grammars_can_be_switched_off(models):
    with Server("--model-id", models.tiny_v1_awq(), "--disable-grammar-support") as server:
        body = {"inputs": "a", "parameters": {"grammar": {"type": "regex", "value": "a"}}}
        reply = requests.post(f"{server.url}/generate", json=body, timeout=PATIENCE)
        assert reply.status_code == 422
        assert reply.json() == {"error": "Input validation error: grammar is not supported", "error_type": "validation"}


def test_a_killed_shard_changes_no_constrained_answer(models):
    """A constraint goes on where it was: each stream ends as it does when nothing happens."""
    items = {"type": "string", "minLength": 5, "maxLength": 30}
    grammars = [
        {"type": "json", "value": {"type": "array", "items": items, "minItems": 6, "maxItems": 6}},
        {"type": "regex", "value": r"([A-Z][a-z]{3,9} ){24}end"},
    ]
    sampled = {"do_sample": True, "seed": 3}
    parameters = [{"grammar": grammar, **more} for grammar in grammars for more in ({}, sampled)]
    bodies = [{"inputs": "Names:", "parameters": {"max_new_tokens": 120, "details": True, **p}} for p in parameters]
    with Server("--model-id", models.smollm2_awq()) as server:
        alone = [server.post("/generate", body).json() for body in bodies]
        clients = [Client(server, body) for body in bodies]
        go_on(clients)
        while server.metric("tgi_replayed_tokens") == 0:
            recoveries = server.metric("tgi_shard_recoveries")
            os.kill(until(lambda: shard_pid(server), "a shard"), signal.SIGKILL)
            until(lambda: server.metric("tgi_shard_recoveries") > recoveries, "the shard is replaced")
            go_on(clients)
        for client, expected in zip(clients, alone, strict=True):
            for events in client.finish():
                check_answer(events, expected)


def test_a_constraint_costs_no_step(smollm2):
    """One that allows nearly everything, against none: the same number of tokens in as many steps."""

    def steps(**fields):
        count = lambda: sum(smollm2.metric(f'tgi_batch_inference_count{{method="{m}"}}') for m in ("prefill", "decode"))  # noqa: E731
        body = {"prompt": "Once upon a time", "max_tokens": 64, "temperature": 0, **fields}
        before = count()
        reply = smollm2.post("/v1/completions", body)
        assert reply.json()["usage"]["completion_tokens"] == 64, reply.text
        return count() - before

    assert 64 <= steps(guided_regex=r"(?s:.){400,}") <= steps() + 1
