"""Which Hub a run talks to, and with whose token."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pruner.errors import InputError, UnavailableError

NOT_SERVED = "http://127.0.0.1:9"
"""Where the local Hub of a run that asks none would be: nobody listens there, so that nobody else is asked in its name."""


@dataclass(frozen=True)
class HubTarget:
    """A Hub: `endpoint` None is the client's own choice (HF_ENDPOINT or huggingface.co).  The token is never shown.

    `label` names the Hub in records: a local one has another port each time.
    """

    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)
    label: str = "default"

    def require_token(self) -> None:
        """Raise UnavailableError when there is no token to publish with."""
        if self.token is None:
            raise UnavailableError("no Hub token: set HF_TOKEN or run `hf auth login`; or rehearse with --hub local")


@contextmanager
def open_hub(option: str | None, folder: Path, *, serve: bool = True) -> Iterator[HubTarget]:
    """The Hub that `--hub` names: `local` starts one on this machine whose state is kept in `folder`.

    Without `serve` none is started, for a run that asks no Hub.

    Raises:
        InputError: the option is neither `local` nor a URL.
    """
    if option == "local" and not serve:
        yield HubTarget(NOT_SERVED, label="local")
        return
    if option == "local":
        from release.hub.local import LocalHub

        with LocalHub(folder) as hub:
            yield HubTarget(hub.endpoint, hub.token, "local")
        return
    if option is not None and "@" in option:
        raise InputError("--hub: a URL with a name or a password would show in logs; give the address alone and set HF_TOKEN")
    if option is not None and not option.startswith(("http://", "https://")):
        raise InputError(f"--hub {option}: give `local` or a URL such as https://huggingface.co")
    yield HubTarget(option, stored_token(), option or "default")


def stored_token() -> str | None:
    """The token of the environment or of huggingface_hub's own store."""
    from huggingface_hub import get_token

    return get_token()


def input_hub() -> HubTarget:
    """The Hub that inputs come from: HF_ENDPOINT or the public one, whatever `--hub` says of where a release goes."""
    return HubTarget(os.environ.get("HF_ENDPOINT"), stored_token())
