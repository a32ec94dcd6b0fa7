"""The tokenizer's files of a GGUF model as Hugging Face folders have them; used by export_hf.py and as_qwen_v1.py.

Byte-level BPE alone: SmolLM2's and Qwen2's kinds as tokenizer.json, the original Qwen's as qwen.tiktoken.
"""

import shutil

from checkpoint import write_json
from qwen_vocab import QWEN_SPLIT

# GGUF token types; unused ones (5: padding of the vocabulary) are left out.
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4


def pre_tokenizer(kind):
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    if kind in ("gpt2", "gpt-2"):
        return byte_level
    if kind == "smollm":
        steps = [{"type": "Digits", "individual_digits": True}, byte_level]
    elif kind == "qwen2":
        split = {
            "type": "Split",
            "pattern": {"Regex": QWEN_SPLIT},
            "behavior": "Isolated",
            "invert": False,
        }
        steps = [split, {**byte_level, "trim_offsets": False, "use_regex": False}]
    else:
        raise ValueError(f"pre-tokenizer {kind!r} is not supported")
    return {"type": "Sequence", "pretokenizers": steps}


def tokenizer_files(g):
    """``(tokenizer.json, tokenizer_config.json)`` as Python values."""
    if g.meta["tokenizer.ggml.model"] != "gpt2":
        raise ValueError("only byte-level BPE vocabularies are supported")
    tokens = g.meta["tokenizer.ggml.tokens"]
    types = g.meta["tokenizer.ggml.token_type"]
    kind = g.meta["tokenizer.ggml.pre"]
    vocab, added = {}, []
    for token_id, (token, token_type) in enumerate(zip(tokens, types)):
        if token_type == NORMAL:
            vocab[token] = token_id
        elif token_type in (CONTROL, USER_DEFINED):
            added.append(
                {
                    "id": token_id,
                    "content": token,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": token_type == CONTROL,
                }
            )
            # A control token below the top of the vocabulary is a vocabulary
            # entry too (SmolLM2 keeps its 17 at ids 0..16).
            if token_id < len(g.meta["tokenizer.ggml.merges"]):
                vocab[token] = token_id
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    model = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if kind == "qwen2" else None,
        "pre_tokenizer": pre_tokenizer(kind),
        "post_processor": {**byte_level, "trim_offsets": kind != "qwen2"},
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": g.meta["tokenizer.ggml.merges"],
        },
    }

    def named(key):
        token_id = g.meta.get(f"tokenizer.ggml.{key}_token_id")
        return None if token_id is None else tokens[token_id]

    config = {
        "add_bos_token": bool(g.meta.get("tokenizer.ggml.add_bos_token", False)),
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(a["id"]): {k: v for k, v in a.items() if k != "id"} for a in added
        },
        "bos_token": None if kind == "qwen2" else named("bos"),
        "chat_template": g.meta.get("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
        "eos_token": named("eos"),
        "model_max_length": g.hp("context_length"),
        "pad_token": named("padding"),
        "tokenizer_class": "Qwen2Tokenizer" if kind == "qwen2" else "GPT2Tokenizer",
        "unk_token": named("unknown"),
    }
    return model, config


def generation_config(g):
    tokens = g.meta["tokenizer.ggml.tokens"]
    eos = [g.meta["tokenizer.ggml.eos_token_id"]]
    if g.arch == "qwen2" and "<|endoftext|>" in tokens:
        end = tokens.index("<|endoftext|>")
        eos += [end] if end not in eos else []
    return {
        "bos_token_id": g.meta.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": eos if len(eos) > 1 else eos[0],
        "pad_token_id": g.meta.get("tokenizer.ggml.padding_token_id"),
        "do_sample": False,
    }


def byte_alphabet():
    """GPT-2's printable stand-in for each byte, inverted: character to byte."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, spare = {}, 256
    for byte in range(256):
        if byte in keep:
            table[chr(byte)] = byte
        else:
            table[chr(spare)] = byte
            spare += 1
    return table


def check_same_vocabulary(g, ranks):
    """Every ordinary GGUF token must be the tiktoken entry of the same id."""
    alphabet = byte_alphabet()
    tokens = g.meta["tokenizer.ggml.tokens"]
    for token, rank in ranks.items():
        if bytes(alphabet[c] for c in tokens[rank]) != token:
            raise ValueError(f"id {rank}: the GGUF and the tiktoken file differ")
    return len(ranks)


def write_qwen_v1_tokenizer(out, tiktoken_file, context):
    shutil.copyfile(tiktoken_file, out / "qwen.tiktoken")
    write_json(
        out / "tokenizer_config.json",
        {
            "model_max_length": context,
            "tokenizer_class": "QWenTokenizer",
            "auto_map": {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]},
        },
    )
    # The original's generation_config names no <|im_end|>: the stop words come
    # from chat_format "chatml" (<|im_end|> and <|im_start|>).
    write_json(
        out / "generation_config.json",
        {
            "chat_format": "chatml",
            "eos_token_id": 151643,
            "pad_token_id": 151643,
            "max_window_size": min(24000, context),
            "max_new_tokens": 512,
            "do_sample": False,
        },
    )
