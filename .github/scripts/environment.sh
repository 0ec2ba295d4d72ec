# shellcheck shell=bash
# Sourced by the scripts beside it.  They run the same on GitHub, under act, and from a shell with no runner at all.
#
# MOE_RELEASE  a moe-release that is ready to run; without it `make` makes one in .venv, with what a script says in `needs`.
# After sourcing: the current folder is the repository's root, and $MOE_RELEASE runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [[ -z ${MOE_RELEASE:-} ]]; then
    read -ra made <<<"${needs:-setup toolchain}"
    make "${made[@]}"
    MOE_RELEASE=$PWD/.venv/bin/moe-release
fi

# What a reader of the run should see first: the runner's step summary, or the screen.
summary() {
    if [[ -n ${GITHUB_STEP_SUMMARY:-} ]]; then
        cat >>"$GITHUB_STEP_SUMMARY"
    else
        cat # not /dev/stdout: a file that the screen was redirected to would be written from its beginning
    fi
}

# The same for what the screen has shown already.
seen() {
    cat >>"${GITHUB_STEP_SUMMARY:-/dev/null}"
}

# Run a command, show at once what it says, and keep that in a file: `said FILE COMMAND…` ends with the command's exit code.
# On a terminal its progress stays there.
said() {
    local file=$1
    shift
    if [[ -t 2 ]]; then
        "$@" | tee -a "$file"
    else
        "$@" 2>&1 | tee -a "$file"
    fi
}

# What a command said, as a block of a Markdown page: `quoted FILE`.
quoted() {
    echo '```'
    cat "$1"
    echo '```'
}

# A value of a manifest, from what `check --json` said: `value "$checked" base headers`; None where it has none.
value() {
    python3 -c 'import functools, json, sys; print(functools.reduce(dict.get, sys.argv[1:], json.load(sys.stdin)))' \
        "${@:2}" <<<"$1"
}

# The results table of a work folder's card, where the release has one: `results WORK`.
results() {
    if [[ -f $1/card/results.md ]]; then
        summary <"$1/card/results.md"
    fi
}

# What outlives the run: cards, report and lock of a work folder, in a folder that the workflow uploads: `keep NAME WORK`.
# Nothing else: ledgers may hold the questions of a gated exam.
ARTIFACTS=${ARTIFACTS:-build/artifacts}
keep() {
    local each
    for each in card draft report.html lock.json; do
        if [[ -e $2/$each ]]; then
            mkdir -p "$ARTIFACTS/$1"
            cp -R "$2/$each" "$ARTIFACTS/$1/"
        fi
    done
    if [[ -f $ARTIFACTS/$1/lock.json ]]; then # under the name that it has beside its manifest
        mv "$ARTIFACTS/$1/lock.json" "$ARTIFACTS/$1/$1.lock.json"
    fi
}

# One NAME=VALUE for later steps, or the screen.
output() {
    if [[ -n ${GITHUB_OUTPUT:-} ]]; then
        printf '%s=%s\n' "$1" "$2" >>"$GITHUB_OUTPUT"
    else
        printf '%s=%s\n' "$1" "$2"
    fi
}

# A variable that the caller must set: `require NAME "what it holds"`.
require() {
    if [[ -z ${!1:-} ]]; then
        echo "$(basename "$0"): set $1: $2" >&2
        exit 2
    fi
}
