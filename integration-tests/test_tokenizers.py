"""The 220 tokenizer goldens of each vocabulary through /tokenize: ids, and offsets that tile the text."""

import pytest

from conftest import golden
from server import Server


@pytest.fixture(scope="module")
def qwen_vocabulary(models):
    with Server("--model-id", models.tiny_v1_qwen_vocabulary()) as server:
        yield server


def check_strings(server, name):
    different, total = [], 0
    for row in golden(name):
        if not row["text"]:
            assert row["ids"] == []
            total += 1
            continue
        reply = server.post("/tokenize", {"inputs": row["text"]})
        assert reply.status_code == 200, (row["text"], reply.text)
        tokens = reply.json()
        total += 1
        if [t["id"] for t in tokens] != row["ids"]:
            different.append(row["text"])
        size = len(row["text"].encode())
        assert all(0 <= t["start"] <= t["stop"] <= size for t in tokens), row["text"]
    assert (total, different) == (220, [])


def test_smollm2(smollm2):
    check_strings(smollm2, "tokenizer_smollm2")


def test_original_qwen(qwen_vocabulary):
    check_strings(qwen_vocabulary, "tokenizer_qwen")


def test_original_qwen_normalises_to_nfc(qwen_vocabulary):
    composed = qwen_vocabulary.post("/tokenize", {"inputs": "caf\u00e9"}).json()
    decomposed = qwen_vocabulary.post("/tokenize", {"inputs": "cafe\u0301"}).json()
    assert [t["id"] for t in composed] == [t["id"] for t in decomposed]
