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
    "$MOE_RELEASE" card --lint "$work/card/README.md"
    "$MOE_RELEASE" table "$manifest" --work "$work" | summary
done
