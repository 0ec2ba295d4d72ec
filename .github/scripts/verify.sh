#!/usr/bin/env bash
# Rebuild a published variant here, its quants too, and attest what came out.
# TARGET        hf://org/name@revision
# BASE          a folder that holds the base; default: the Hub, by range
# REBUILDER_KEY private key (PEM) to sign with; without it nothing is attested
# BUILDER       who attests; default: the key's id
# HF_TOKEN      to propose the attestation as a pull request
private=${REBUILDER_KEY:-}
unset REBUILDER_KEY # no child has it in its environment: not even those that install things
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
require TARGET "hf://org/name@revision"

folder=$(mktemp -d) # of mode 700
trap 'rm -rf "$folder"' EXIT
verdict=0
"$MOE_RELEASE" verify "$TARGET" --requantize ${BASE:+--base "$BASE"} >"$folder/report" 2>&1 || verdict=$?

# A rebuild proves the weights by itself, whatever could not be checked of the rest; that they are wrong is attested too.
if [[ -n $private && $verdict != 2 ]]; then
    (umask 077 && printf '%s\n' "$private" >"$folder/key.pem")
    "$MOE_RELEASE" attest "$TARGET" --key "$folder/key.pem" ${BUILDER:+--builder "$BUILDER"} ${BASE:+--base "$BASE"} \
        >>"$folder/report" 2>&1 || verdict=$?
fi
{
    echo "## $TARGET"
    echo '```'
    cat "$folder/report"
    echo '```'
} | summary
exit "$verdict"
