#!/usr/bin/env bash
# Cut one release.
# MANIFEST  the variant, e.g. manifests/tiny-gemma4-4e.yaml
# MODE      rehearse: everything, against a local Hub, and what the real one would get
#           pr:       propose the release as pull requests on the Hub
#           publish:  commit it
# HF_TOKEN  for pr and publish: a token that may write to the manifest's repositories
# WORK      folder of the work folders; default build
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
require MANIFEST "the variant's YAML file"
require MODE "rehearse, pr or publish"

case $MODE in
    rehearse | pr | publish) ;;
    *)
        echo "release.sh: MODE is '$MODE'; it must be rehearse, pr or publish" >&2
        exit 2
        ;;
esac
name=$("$MOE_RELEASE" check "$MANIFEST" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["name"])')
works=${WORK:-build}
case $MODE in
    rehearse) "$MOE_RELEASE" rehearse "$MANIFEST" --work "$works/$name" --scratch "$works/rehearsal" ;;
    pr) "$MOE_RELEASE" cut "$MANIFEST" --work "$works/$name" --pr ;;
    publish) "$MOE_RELEASE" cut "$MANIFEST" --work "$works/$name" ;;
esac
"$MOE_RELEASE" table "$MANIFEST" --work "$works" | summary
output name "$name"
output report "$works/$name/report.html"
