"""The license ids that the Hub takes in a card's metadata.

Source: https://huggingface.co/docs/hub/repositories-licenses; what is new there since is missing here, so an unknown id is
a warning.
"""

from __future__ import annotations

import difflib

# fmt: off
LICENSE_IDS = frozenset({
    "afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m",
    "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear",
    "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
    "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0",
    "cdla-sharing-1.0", "creativeml-openrail-m", "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0",
    "eupl-1.1", "eupl-1.2", "fair-noncommercial-research-license", "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0",
    "grok2-community", "h-research", "intel-research", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2", "llama3",
    "llama3.1", "llama3.2", "llama3.3", "llama4", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by",
    "ofl-1.1", "openmdw-1.0", "openrail", "openrail++", "osl-3.0", "other", "pddl", "postgresql", "unknown", "unlicense",
    "wtfpl", "zlib",
})
# fmt: on
LONGEST = 64
"""Letters of an id that are looked at: cards and manifests are foreign."""


def odd_license(name: str) -> str | None:
    """What is odd about a license id, with the nearest that is known; None for one that the Hub takes."""
    if name in LICENSE_IDS:
        return None
    near = difflib.get_close_matches(name[:LONGEST].lower().replace(" ", "-"), sorted(LICENSE_IDS), n=1, cutoff=0.5)
    return f"{name[:LONGEST]!r} is no license id of the Hub's{f'; did you mean {near[0]!r}?' if near else ''}"
