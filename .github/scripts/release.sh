#!/usr/bin/env bash
# Cut one release.
# MANIFEST  the variant, e.g. manifests/tiny-gemma4-4e.yaml
# MODE      rehearse: everything, against a local Hub, and what the real one would get
#           pr:       propose the release as pull requests on the Hub
#           publish:  commit it
# HF_TOKEN  for pr and publish: a token that may write to the manifest's repositories
# WORK      where the work goes; default build/<name>
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
require MANIFEST "the variant's YAML file"
require MODE "rehearse, pr or publish"

arguments=("$MANIFEST" ${WORK:+--work "$WORK"})
case $MODE in
    rehearse) "$MOE_RELEASE" rehearse "${arguments[@]}" ;;
    pr) "$MOE_RELEASE" cut "${arguments[@]}" --pr ;;
    publish) "$MOE_RELEASE" cut "${arguments[@]}" ;;
    *)
        echo "release.sh: MODE is '$MODE'; it must be rehearse, pr or publish" >&2
        exit 2
        ;;
esac
"$MOE_RELEASE" table "${arguments[@]}" | summary
output manifest "$MANIFEST"
