#!/usr/bin/env bash
# Everything that must hold before a change lands.
# SLICE  tests to run instead of all, in an environment that is ready (PYTHON names its interpreter): a quick look.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [[ -n ${SLICE:-} ]]; then
    read -ra paths <<<"$SLICE"
    exec "${PYTHON:-.venv/bin/python}" -m pytest -q -- "${paths[@]}"
fi
exec .ci/run
