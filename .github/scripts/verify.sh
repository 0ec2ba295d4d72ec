#!/usr/bin/env bash
# Rebuild a published variant here, its quants too, and attest what came out.
# TARGET        hf://org/name@revision
# BASE          a folder that holds the base; default: the Hub, by range
# REQUANTIZE    yes: make its quants again; no: leave them as locked; default: yes on x86-64, whose bytes other processors miss
# REBUILDER_KEY private key (PEM) to sign with; without it nothing is attested
# BUILDER       who attests; default: the key's id
# HF_TOKEN      to propose the attestation as a pull request
private=${REBUILDER_KEY:-}
unset REBUILDER_KEY # no child has it in its environment: not even those that install things
requantize=${REQUANTIZE:-$([[ $(uname -m) == x86_64 ]] && echo yes || echo no)}
case $requantize in
    yes) words=(--requantize) needs="setup toolchain" ;;
    no) words=() needs=setup ;;
    *)
        echo "verify.sh: REQUANTIZE is '$requantize'; it must be yes or no" >&2
        exit 2
        ;;
esac
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
require TARGET "hf://org/name@revision"

# Nothing but quants that were left as locked is UNKNOWN: those are another machine's to make.
only_quants_unknown() {
    local unknown
    unknown=$(grep -E '^ *UNKNOWN +[^ ]' "$1") && ! grep -qv 'as locked; not rebuilt' <<<"$unknown"
}

folder=$(mktemp -d) # of mode 700
trap 'rm -rf "$folder"' EXIT
verdict=0
said "$folder/report" "$MOE_RELEASE" verify "$TARGET" "${words[@]}" ${BASE:+--base "$BASE"} || verdict=$?
if [[ $requantize == no && $verdict == 3 ]] && only_quants_unknown "$folder/report"; then
    verdict=0
fi

# A rebuild proves the weights by itself, whatever could not be checked of the rest; that they are wrong is attested too.
if [[ -n $private && $verdict != 2 ]]; then
    (umask 077 && printf '%s\n' "$private" >"$folder/key.pem")
    said "$folder/report" "$MOE_RELEASE" attest "$TARGET" --key "$folder/key.pem" ${BUILDER:+--builder "$BUILDER"} \
        ${BASE:+--base "$BASE"} || verdict=$?
fi
{
    echo "## $TARGET"
    quoted "$folder/report"
} | seen
exit "$verdict"
