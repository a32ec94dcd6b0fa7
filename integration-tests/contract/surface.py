"""Sections 1.1, 1.10-1.13: routes, methods, keys, CORS, request ids, what the server says of itself."""

import re

from .row import FIXED, STRICT, Row, get, post

POSTS = ("/generate", "/generate_stream", "/tokenize", "/chat_tokenize", "/detokenize", "/invocations", "/vertex",
         "/v1/chat/completions", "/v1/completions")  # fmt: skip
GETS = ("/info", "/health", "/ping", "/livez", "/readyz", "/metrics", "/v1/models", "/docs/", "/openapi.json",
        "/api-doc/openapi.json")  # fmt: skip
HEALTH = ("/", "/health", "/ping", "/livez", "/readyz")
ANY = "*"

ROWS = [get(f"1.1 GET {path}", path) for path in GETS]
for path in POSTS:
    kind = {"error_type": "method_not_allowed"}
    ROWS.append(get(f"1.1 GET on {path} is 405", path, status=405, headers={"allow": "POST"}, json=kind))
for path in GETS:
    ROWS.append(post(f"1.1 POST on {path} is 405", path, {}, status=405, headers={"allow": re.compile("GET,HEAD")}))
ROWS += [
    get("1.1 an unknown path is 404", "/nowhere", status=404, json={"error": str, "error_type": "not_found"}),
    get("1.1 an unknown path below /v1 has OpenAI's object", "/v1/nowhere", status=404,
        json={"error": {"message": str, "type": "invalid_request_error", "param": None, "code": None}, "error_type": "not_found"}),
    get("1.1 /docs leads to /docs/", "/docs", status=303, headers={"location": "/docs/"}),
    get("1.1 /docs/ is a page", "/docs/", headers={"content-type": "text/html; charset=utf-8"}),
    Row("D HEAD /health", "HEAD", "/health"),
    *(get(f"1.11 {path} is empty", path, text="") for path in HEALTH),
    get("1.13", "/v1/models",
        json={"object": "list", "data": [{"id": str, "object": "model", "created": 0, "owned_by": str}]}),
    get("1.13 one model", "/v1/models/no-such-model", status=404, json={"error": {"code": "model_not_found"}}),
    get("request ids are made", "/health", headers={"x-request-id": re.compile("[0-9a-f]{32}")}),
    get("request ids are echoed", "/info", send={"x-request-id": "abc-1"}, headers={"x-request-id": "abc-1"}),
    get("request ids are echoed with errors", "/nowhere", send={"x-request-id": "abc-1"}, status=404,
        headers={"x-request-id": "abc-1"}),
]  # fmt: skip

# 1.1 CORS
PREFLIGHT = {"origin": "http://a", "access-control-request-method": "POST",
             "access-control-request-headers": "authorization,content-type"}  # fmt: skip
VARY = "origin, access-control-request-method, access-control-request-headers"
ROWS += [
    Row("1.1 preflight allows GET and POST", "OPTIONS", "/generate", send=PREFLIGHT,
        headers={"access-control-allow-methods": "GET,POST"}),
    Row("10.20 preflight allows Authorization", "OPTIONS", "/generate", send=PREFLIGHT,
        headers={"access-control-allow-headers": "authorization,content-type"}),
    Row("1.1 preflight allows any origin", "OPTIONS", "/generate", send=PREFLIGHT, headers={"access-control-allow-origin": ANY}),
    Row("D preflight needs no key", "OPTIONS", "/generate", send=PREFLIGHT, server="keyed"),
    get("1.1 every answer allows any origin", "/info", headers={"access-control-allow-origin": ANY}),
    get("1.1 every answer varies", "/info", headers={"vary": VARY}),
    get("1.1 errors, too", "/nowhere", status=404, headers={"access-control-allow-origin": ANY}),
]  # fmt: skip

# 1.10: TGI 3's fields and those of TGI 2.
INFO = {
    "model_id": str, "model_sha": None, "model_dtype": "float32", "model_device_type": "cpu", "model_pipeline_tag": None,
    "max_concurrent_requests": 128, "max_best_of": 2, "max_stop_sequences": 4, "max_input_tokens": 3696,
    "max_input_length": 3696, "max_total_tokens": 4096, "waiting_served_ratio": float, "max_batch_total_tokens": int,
    "max_waiting_tokens": 20, "max_batch_size": None, "validation_workers": 2, "max_client_batch_size": 4,
    "router": "text-generation-router", "version": str, "sha": None, "docker_label": None, "startup_seconds": dict,
}  # fmt: skip
ROWS += [get(f"1.10 {name}", "/info", json={name: value}) for name, value in INFO.items()]

# API keys: every route but health; TGI's own coverage in strict mode.
TGI_OPEN = ("/info", "/metrics", "/v1/models", "/docs/", "/openapi.json")
GOOD = {"authorization": "Bearer secret-key"}
DENIED = {"error": "Missing or wrong API key: send `Authorization: Bearer <key>`", "error_type": "unauthorized"}
for path in HEALTH:
    ROWS.append(get(f"1.1 no key for {path}", path, server="keyed"))
for path in TGI_OPEN:
    row = get(f"1.1 no key on {path}", path, server="keyed", status=401)
    ROWS += row.also(status=200)
    ROWS.append(get(f"1.1 the key on {path}", path, server="keyed", send=GOOD))
for path in POSTS + ("/",):
    row = post(f"1.1 no key on {path}", path, {}, server="keyed", status=401)
    ROWS += row.also(status=422) if path in ("/chat_tokenize", "/detokenize") else [row]
    ROWS.append(post(f"1.1 the key on {path}", path, {}, server="keyed", send=GOOD, status=422))
for key, status in (
    ("Bearer secret-key", 422), ("bearer secret-key", 422), ("Bearer other-key", 422), ("Bearer SECRET-KEY", 401),
    ("Bearer secret-ke", 401), ("Bearer secret-key2", 401), ("Bearer  secret-key", 401), ("Basic secret-key", 401),
    ("secret-key", 401), ("Bearer", 401),
):  # fmt: skip
    ROWS.append(post(f"1.1 the key as {key!r}", "/generate", {}, server="keyed", send={"authorization": key}, status=status))
ROWS += [
    post("1.2 401 has TGI's object", "/generate", {}, server="keyed", status=401, json=DENIED),
    post("1.2 401 has OpenAI's object on /v1", "/v1/completions", {}, server="keyed", status=401,
         json={"error": {"code": "invalid_api_key", "type": "authentication_error", "message": DENIED["error"]}}),
    Row("D the key comes before the body", "POST", "/generate", raw=b"{", send={"content-type": "application/json"},
        server="keyed", status=401),
    get("D the key comes before the method", "/generate", server="keyed", status=401),
    get("1.1 the key comes before the path", "/nowhere", server="keyed", status=401, modes=(FIXED,)),
    get("1.1 an unknown path needs no key", "/nowhere", server="keyed", status=404, modes=(STRICT,)),
]  # fmt: skip
