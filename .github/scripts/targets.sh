#!/usr/bin/env bash
# The published variants to verify, as a JSON list for a matrix.
# TARGET     only this one; default: those of PUBLISHED
# PUBLISHED  a JSON list of hf://org/name@revision; default .github/published.json
MOE_RELEASE=none # nothing is installed for this
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

targets=$(
    python3 - <<'PYTHON'
import json, os, pathlib, re, sys


def refuse(reason):
    print(f"targets.sh: {reason}", file=sys.stderr)
    sys.exit(2)


target, published = os.environ.get("TARGET"), os.environ.get("PUBLISHED") or ".github/published.json"
where = "TARGET" if target else published
try:
    targets = [target] if target else json.loads(pathlib.Path(published).read_text())
except (OSError, ValueError) as error:
    refuse(f"{published}: {error}; it must be a JSON list of hf://org/name@revision")
if not isinstance(targets, list):
    refuse(f"{published}: must be a JSON list of hf://org/name@revision")
for each in targets:
    if not re.fullmatch(r"hf://[\w.-]+/[\w.-]+(@[\w./-]+)?", str(each)):
        refuse(f"{where}: {each!r} is not hf://org/name@revision")
print(json.dumps(targets))
PYTHON
)
output targets "$targets"
