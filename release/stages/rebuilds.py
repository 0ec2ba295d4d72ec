"""What others have stated about a release that stands on the Hub already."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pruner.errors import InputError, UnavailableError
from release.context import Context
from release.stages.prune import build_result


def counted_rebuilds(context: Context) -> tuple[int, int] | None:
    """How many independent parties rebuilt these very weights, and how many report others; None when nobody did.

    Only a run that publishes asks, and only for a manifest that lists whose statements count.
    """
    publish = context.manifest.publish
    if publish is None or publish.rebuilders is None or "publish" not in context.planned:
        return None
    from release.attestation.rebuild import published_shards
    from release.attestation.votes import verified_rebuilds
    from release.hub.published import fetch, open_repository

    hub = context.options.hub
    try:
        repository = open_repository(publish.weights, "main", endpoint=hub.endpoint, token=hub.token)
        ours = {file.name: file.sha256 for file in build_result(context).files if file.name.endswith(".safetensors")}
        if published_shards(repository) != ours:
            return None
        with tempfile.TemporaryDirectory() as folder:
            counts = verified_rebuilds(fetch(repository, Path(folder)))
    except (UnavailableError, InputError):  # not published yet, or not by this tool
        return None
    return (len(counts.good), len(counts.bad)) if counts.good or counts.bad else None
