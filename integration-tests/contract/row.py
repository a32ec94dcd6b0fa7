"""A row of the contract: one request and what must come back, in one or both compatibility modes.

Rows are data; `check` is the only code that judges an answer. Expected JSON is matched as a subset:
a dict names the keys that matter (`ABSENT` forbids one), a compiled pattern matches a whole string,
a type asks for a value of it, a function is asked, anything else must be equal.
"""

import json
import re
from dataclasses import dataclass, field, replace

import requests

from server import PATIENCE

FIXED, STRICT = "fixed", "strict"
BOTH = (FIXED, STRICT)
ABSENT = object()
NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Row:
    rule: str
    method: str
    path: str
    body: object = None
    raw: bytes | None = None
    send: dict = field(default_factory=dict)
    status: int = 200
    json: object = None
    text: object = None
    headers: dict = field(default_factory=dict)
    modes: tuple = BOTH
    # "plain", or "keyed": a server with --api-key secret-key.
    server: str = "plain"

    def also(self, **strict):
        """This row in fixed mode, and the same request with other expectations in strict mode."""
        return [replace(self, modes=(FIXED,)), replace(self, modes=(STRICT,), **strict)]


def get(rule, path, **expect):
    return Row(rule, "GET", path, **expect)


def post(rule, path, body=None, **expect):
    return Row(rule, "POST", path, body=body, **expect)


def matches(expected, got):
    if isinstance(expected, dict):
        return isinstance(got, dict) and all(
            key not in got if value is ABSENT else key in got and matches(value, got[key])
            for key, value in expected.items()
        )
    if isinstance(expected, list):
        return isinstance(got, list) and len(got) == len(expected) and all(map(matches, expected, got))
    if isinstance(expected, re.Pattern):
        return isinstance(got, str) and expected.fullmatch(got) is not None
    if isinstance(expected, type):
        return isinstance(got, expected) and type(got) is not bool
    if callable(expected):
        return bool(expected(got))
    return expected == got and type(expected) is type(got)


def normalise(text):
    """Numbers and ids that differ from run to run replaced: logprobs L, ids ID, times T, seeds S."""
    text = re.sub(r'"logprob":(-?[\d.]+(e-?\d+)?|null)', '"logprob":L', text)
    text = re.sub(r'"id":"(chatcmpl|cmpl)-[0-9a-f]{32}"', '"id":"ID"', text)
    text = re.sub(r'"created":\d+', '"created":T', text)
    return re.sub(r'"seed":\d+', '"seed":S', text)


def check(url, row):
    """Sends the row's request and compares everything that the row says of the answer."""
    kwargs = {"data": row.raw} if row.raw is not None else {"json": row.body} if row.body is not None else {}
    reply = requests.request(
        row.method, url + row.path, headers=row.send, timeout=PATIENCE, allow_redirects=False, **kwargs
    )
    shown = f"{row.rule}\n{row.method} {row.path} {row.body if row.raw is None else row.raw[:200]}\n{reply.status_code} {reply.text[:2000]}"
    assert reply.status_code == row.status, shown
    for name, expected in row.headers.items():
        got = reply.headers.get(name)
        assert (got is None) if expected is ABSENT else matches(expected, got), f"{name}: {got}\n{shown}"
    if row.text is not None:
        # Exact text leaves out what differs from run to run; a function gets every byte.
        got = normalise(reply.text) if isinstance(row.text, str) else reply.text
        assert matches(row.text, got), shown
    if row.json is not None:
        assert matches(row.json, json.loads(reply.text)), shown


def events(text):
    """The data of a stream's events, in order."""
    assert text.endswith("\n\n"), text[-100:]
    out = []
    for event in text[:-2].split("\n\n"):
        assert event.startswith("data: ") and "\n" not in event, event
        data = event[6:]
        out.append(data if data == "[DONE]" else json.loads(data))
    return out
