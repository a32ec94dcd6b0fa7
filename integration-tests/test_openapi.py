"""schemathesis against /openapi.json: whatever a request holds, no 5xx and nothing that the document does not say.

A short run by default; QUERN_SCHEMATHESIS_EXAMPLES (`make test-openapi`) sets how many requests each route gets.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from server import PATIENCE, Server

EXAMPLES = int(os.environ.get("QUERN_SCHEMATHESIS_EXAMPLES", "3"))
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "unsupported_method"
)
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


def test_the_document_is_kept(models, tmp_path):
    report = tmp_path / "report.json"
    # Few tokens: what they say does not matter here.
    with Server("--model-id", models.tiny_v1_awq(), "--max-total-tokens", 32) as server:
        done = subprocess.run(
            [SCHEMATHESIS, "run", server.url + "/openapi.json", "--no-color", "--checks", CHECKS,
             "--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES), "--seed", "1", "--continue-on-failure",
             "--suppress-health-check", "all", "--warnings", "off", "--request-timeout", str(PATIENCE),
             "--report-json-path", report],
            capture_output=True, text=True, cwd=tmp_path, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert server.healthy()
    run = json.loads(report.read_text())
    assert run["operations"]["tested"] == run["operations"]["total"] >= 17
    assert run["test_cases"]["generated"] >= 2000, run["test_cases"]
    assert "panicked" not in server.output()
