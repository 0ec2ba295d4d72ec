#!/usr/bin/env bash
# Rebuild a published variant here, and attest what came out.
# TARGET        hf://org/name@revision
# BASE          a folder that holds the base; default: the Hub, by range
# REBUILDER_KEY private key (PEM) to sign with; without it nothing is attested
# BUILDER       who attests; default: the key's id
# HF_TOKEN      to propose the attestation as a pull request
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
require TARGET "hf://org/name@revision"

# The key lives in a file that only we can read, for as long as it is used, and in no child's environment.
key=
trap '[[ -z $key ]] || rm -f -- "$key"' EXIT
if [[ -n ${REBUILDER_KEY:-} ]]; then
    key=$(umask 077 && mktemp)
    printf '%s\n' "$REBUILDER_KEY" >"$key"
fi
unset REBUILDER_KEY

verdict=0
{
    echo "## $TARGET"
    echo '```'
    "$MOE_RELEASE" verify "$TARGET" ${BASE:+--base "$BASE"} 2>&1 || verdict=$?
    echo '```'
    exit "$verdict"
} | summary || verdict=$?

# A rebuild proves the weights by itself, whatever could not be checked of the rest; that they are wrong is attested too.
if [[ -n $key && $verdict != 2 ]]; then
    {
        echo '```'
        "$MOE_RELEASE" attest "$TARGET" --key "$key" ${BUILDER:+--builder "$BUILDER"} ${BASE:+--base "$BASE"} 2>&1 || verdict=$?
        echo '```'
        exit "$verdict"
    } | summary || verdict=$?
fi
exit "$verdict"
