"""Compute jobs on the Hub: what verifies or evaluates a published release on a machine that its publisher does not own."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pruner.errors import InputError
from pruner.sources import HUB_PREFIX, parse_address
from release import __version__
from release.hub.endpoint import HubTarget
from release.hub.remote import hub_api, hub_errors

if TYPE_CHECKING:
    from huggingface_hub import JobInfo

Task = Literal["verify", "eval"]
IMAGE = "python:3.12-bookworm"
"""It has a compiler, which `toolchain install` needs."""

SCRIPTS: dict[Task, str] = {
    "verify": 'set -eu; pip install --quiet "moe-release==$2"; exec moe-release verify "$1"',
    "eval": (
        'set -eu; pip install --quiet "moe-release[analysis,eval]==$2" cmake ninja; moe-release toolchain install; '
        'exec moe-release verify "$1" --exam'
    ),
}
"""Constant programs: the target and the version are their arguments, never part of their text."""


@dataclass(frozen=True)
class JobRequest:
    """What would be sent; `secrets` are names alone, their values join when it is sent."""

    image: str
    command: tuple[str, ...]
    flavor: str
    timeout: str
    labels: dict[str, str]
    secrets: tuple[str, ...] = field(default=("HF_TOKEN",))

    def to_json(self) -> dict[str, Any]:
        """For `--dry-run`."""
        return asdict(self)


def job_request(task: Task, target: str, *, flavor: str, timeout: str, image: str = IMAGE) -> JobRequest:
    """The job that verifies a release, or repeats its exam too.

    Raises:
        InputError: the target is no address on the Hub.
    """
    if not target.startswith(HUB_PREFIX):
        raise InputError(f"{target}: a job reads from the Hub; give hf://org/name@revision")
    repo, revision = parse_address(target)
    command = ("bash", "-c", SCRIPTS[task], "moe-release-job", f"{HUB_PREFIX}{repo}@{revision}", __version__)
    return JobRequest(image, command, flavor, timeout, {"moe-release": task, "target": repo.replace("/", "--")})


def submit(request: JobRequest, hub: HubTarget, namespace: str | None = None) -> JobInfo:
    """Send a job with the token that the Hub is reached with.

    Raises:
        UnavailableError: there is no token, or the Hub does not take the job.
    """
    hub.require_token()
    api = hub_api(hub.endpoint, hub.token)
    with hub_errors(str(api.endpoint), "submit a job"):  # not repeated: a job that was taken twice runs twice
        return api.run_job(
            image=request.image,
            command=list(request.command),
            flavor=request.flavor,
            timeout=request.timeout,
            labels=request.labels,
            secrets=dict.fromkeys(request.secrets, hub.token),
            namespace=namespace,
        )
