# shellcheck shell=bash
# Sourced by the scripts beside it.  They run the same on GitHub, under act, and from a shell with no runner at all.
#
# MOE_RELEASE  a moe-release that is ready to run; without it `make setup toolchain` makes one in .venv.
# After sourcing: the current folder is the repository's root, and $MOE_RELEASE runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [[ -z ${MOE_RELEASE:-} ]]; then
    make setup toolchain
    MOE_RELEASE=$PWD/.venv/bin/moe-release
fi

# What a reader of the run should see first: the runner's step summary, or the screen.
summary() {
    cat >>"${GITHUB_STEP_SUMMARY:-/dev/stdout}"
}

# One NAME=VALUE for later steps, or the screen.
output() {
    printf '%s=%s\n' "$1" "$2" >>"${GITHUB_OUTPUT:-/dev/stdout}"
}

# A variable that the caller must set: `require NAME "what it holds"`.
require() {
    if [[ -z ${!1:-} ]]; then
        echo "$(basename "$0"): set $1: $2" >&2
        exit 2
    fi
}
