"""A release that is cut in a second: the tiny model with a pinned map, without quants."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from tests.conftest import MANIFESTS

NAME = "packaged-4e"
REPO = f"moe-release/{NAME}"
DROPPED = {str(layer): list(range(4, 16)) for layer in range(4)}
MANIFEST = """schema: moe-release/v1
name: {name}
base: {{path: tiny/model, name: tiny-gemma4-16e}}
prune:
  experts: 4
  drop_map: {{path: map.json, sha256: {digest}}}
weights: {{max_shard_size: 1MiB}}
card: {{license: apache-2.0}}
publish: {{weights: {repo}, private: false}}
"""


def write_small_release(folder: Path) -> Path:
    """Put the tiny model, a map and a manifest into a folder.

    Returns:
        the manifest.
    """
    shutil.copytree(MANIFESTS / "tiny" / "model", folder / "tiny" / "model")
    (folder / "map.json").write_text(json.dumps(DROPPED))
    digest = hashlib.sha256((folder / "map.json").read_bytes()).hexdigest()
    path = folder / f"{NAME}.yaml"
    path.write_text(MANIFEST.format(name=NAME, digest=digest, repo=REPO))
    return path
