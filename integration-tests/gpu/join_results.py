#!/usr/bin/env python3
"""Joins the reports of one run into DATE-GPU.json, the form in which results are kept.

    join_results.py FOLDER [--commit ID]

Reads the JSON reports of the parts where they exist, each `{"device", "commit", "settings", "figures"}`, and
writes one file of the same form: settings by part, all figures together. Called by run.sh. Standard library only.
"""

import argparse
import datetime
import json
import re
import sys
from pathlib import Path

PARTS = ("kernels", "engine", "overhead", "stack", "plan", "start")


def short_name(device):
    """`NVIDIA H100 80GB HBM3` becomes `H100`."""
    words = [word for word in re.split(r"[\s/]+", device) if word not in ("NVIDIA", "GeForce", "RTX", "Tesla")]
    return re.sub(r"[^A-Za-z0-9.-]", "", words[0]) if words else "unknown"


def join(reports, commit):
    """`reports` by part; the parts ran on one machine."""
    figures = {}
    for report in reports.values():
        figures |= report["figures"]
    return {
        "device": next(iter(reports.values()))["device"],
        "commit": commit,
        "settings": {part: report["settings"] for part, report in reports.items()},
        "figures": dict(sorted(figures.items())),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--commit", default="unknown")
    args = parser.parse_args()
    files = {part: args.folder / f"{part}.json" for part in PARTS}
    reports = {part: json.loads(file.read_text()) for part, file in files.items() if file.exists()}
    if not reports:
        return 0
    joined = join(reports, args.commit)
    name = f"{datetime.date.today().isoformat()}-{short_name(joined['device'])}.json"
    (args.folder / name).write_text(json.dumps(joined, indent=2) + "\n")
    print("figures:", args.folder / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
