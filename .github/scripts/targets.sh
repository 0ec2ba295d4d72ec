#!/usr/bin/env bash
# The published variants to verify, as a JSON list for a matrix.
# TARGET  only this one; default: those of .github/published.json
set -euo pipefail
cd "$(dirname "$0")/../.."
python3 - >>"${GITHUB_OUTPUT:-/dev/stdout}" <<'PYTHON'
import json, os, pathlib

target = os.environ.get("TARGET")
targets = [target] if target else json.loads(pathlib.Path(".github/published.json").read_text())
print("targets=" + json.dumps(targets))
PYTHON
