#!/usr/bin/env bash
# Cut one release.
# MANIFEST   the variant, e.g. manifests/tiny-gemma4-4e.yaml
# MODE       rehearse: everything, against a local Hub, and what the real one would get
#            pr:       propose the release as pull requests on the Hub
#            publish:  commit it
# HF_TOKEN   for pr and publish: a token that may write to the manifest's repositories
# WORK       folder of the work folders; default build
# ARTIFACTS  folder for cards, report and lock, also of a run that failed; default build/artifacts
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
require MANIFEST "the variant's YAML file"
require MODE "rehearse, pr or publish"

works=${WORK:-build}
case $MODE in
    rehearse) words=(rehearse --scratch "$works/rehearsal") ;;
    pr) words=(cut --pr) ;;
    publish) words=(cut) ;;
    *)
        echo "release.sh: MODE is '$MODE'; it must be rehearse, pr or publish" >&2
        exit 2
        ;;
esac
checked=$("$MOE_RELEASE" check "$MANIFEST" --json)
name=$(value "$checked" name)

log=$(mktemp)
trap 'keep "$name" "$works/$name"; { echo "## $name: $MODE"; quoted "$log"; } | seen; rm -f "$log"' EXIT
said "$log" "$MOE_RELEASE" "${words[@]}" "$MANIFEST" --work "$works/$name"
output name "$name"
output report "$works/$name/report.html"
output artifacts "$ARTIFACTS/$name"
results "$works/$name"
