#!/usr/bin/env bash
# Render every card and table again; fail when one differs from what its lock holds, or when lint finds a slip.
# A variant that is known by its base's headers alone has a draft; where a golden one is committed, it must be equal to that.
# MANIFESTS  the variants, separated by spaces; default: all that have a lock, or headers alone
# WORK       folder of the work folders; default build
# ARTIFACTS  folder for the cards, also of a run that failed; default build/artifacts
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

draft() {
    local golden=tests/release/card/golden/$1 card
    card=$("$MOE_RELEASE" card "$2" --from-headers --work "$3")
    "$MOE_RELEASE" card --lint "$card"
    if [[ -d $golden ]]; then
        diff -u "$golden" "$(dirname "$card")" --exclude claims.json
    fi
}

rendered() {
    "$MOE_RELEASE" cut "$1" --work "$2" --until lock
    if [[ -f $2/card/README.md ]]; then # the release of a base itself has no card
        "$MOE_RELEASE" card --lint "$2/card/README.md"
    fi
    results "$2"
}

asked=${MANIFESTS:-}
read -ra manifests <<<"${asked:-$(echo manifests/*.yaml)}"
for manifest in "${manifests[@]}"; do
    name=$(basename "$manifest" .yaml)
    work=${WORK:-build}/$name
    trap 'keep "$name" "$work"' EXIT
    checked=$("$MOE_RELEASE" check "$manifest" --json)
    if [[ -f ${manifest%.yaml}.lock.json ]]; then
        rendered "$manifest" "$work"
    elif [[ $(value "$checked" base headers) != None ]]; then
        draft "$name" "$manifest" "$work"
    elif [[ -n $asked ]]; then
        rendered "$manifest" "$work"
    else
        echo "$manifest has no lock yet: nothing to compare with"
    fi
    keep "$name" "$work"
done
