"""Extras of the installation: what must be importable for a stage that needs one."""

from __future__ import annotations

import importlib.util

from pruner.errors import UnavailableError

MODULES = {"analysis": ("torch", "transformers"), "eval": ("lm_eval",)}


def require_extra(extra: str) -> None:
    """Raise UnavailableError with the install command when an extra's packages are missing."""
    for module in MODULES[extra]:
        if importlib.util.find_spec(module) is None:
            raise UnavailableError(f"{module} is not installed; run: pip install 'moe-release[{extra}]'")
