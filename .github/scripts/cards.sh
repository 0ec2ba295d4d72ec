#!/usr/bin/env bash
# Render every card and table again; fail when one differs from what its lock holds, or when lint finds a slip.
# MANIFESTS  the variants, separated by spaces; default: every manifest that has a lock
# WORK       folder of the work folders; default build
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

if [[ -n ${MANIFESTS:-} ]]; then
    read -ra manifests <<<"$MANIFESTS"
else
    manifests=()
    for lock in manifests/*.lock.json; do
        manifests+=("${lock%.lock.json}.yaml")
    done
fi

for manifest in "${manifests[@]}"; do
    work=${WORK:-build}/$(basename "$manifest" .yaml)
    "$MOE_RELEASE" cut "$manifest" --work "$work" --until lock
    if [[ -f $work/card/README.md ]]; then # the release of a base itself has no card
        "$MOE_RELEASE" card --lint "$work/card/README.md"
    fi
    if [[ -f $work/card/results.md ]]; then
        "$MOE_RELEASE" table "$manifest" --work "${WORK:-build}" | summary
    fi
done
