#!/usr/bin/env bash
# Rebuild a published variant here, and attest what came out.
# TARGET        hf://org/name@revision
# BASE          a folder that holds the base; default: the Hub, by range
# REBUILDER_KEY private key (PEM) to sign with; without it nothing is attested
# HF_TOKEN      to propose the attestation as a pull request
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
require TARGET "hf://org/name@revision"

report=$(mktemp)
trap 'rm -f "$report"' EXIT
verdict=0
"$MOE_RELEASE" verify "$TARGET" ${BASE:+--base "$BASE"} >"$report" 2>&1 || verdict=$?
{
    echo "## $TARGET"
    echo '```'
    cat "$report"
    echo '```'
} | summary
exit "$verdict"
