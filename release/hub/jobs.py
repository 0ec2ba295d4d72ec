"""Compute jobs on the Hub: what verifies or evaluates a published release on a machine that its publisher does not own."""

from __future__ import annotations

import re
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
_PREPARE = 'set -eu; pip install --quiet "moe-release[analysis,attest,eval]==$2" cmake ninja; moe-release toolchain install; '
_WITH_DATA = (
    'if [ $# -gt 2 ]; then hf download --repo-type dataset --revision "$4" --local-dir exam-data "$3" "$5"; '
    'exec moe-release verify "$1" --requantize --exam --exam-data "exam-data/$5"; fi; '
)
SCRIPTS: dict[Task, str] = {
    "verify": f'{_PREPARE}exec moe-release verify "$1" --requantize',
    "eval": f'{_PREPARE}{_WITH_DATA}exec moe-release verify "$1" --requantize --exam',
}
"""Constant programs: the target, the version and the exam's data are their arguments, never part of their text.

Quants are made again, for a verdict on them, so both build llama.cpp first, for the processor alone.
"""
_TIME = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)[smhd]?")
_DATA = re.compile(r"hf://datasets/(?P<repo>\w[\w.-]*/\w[\w.-]*)@(?P<revision>\w[\w.-]*)/(?P<file>\w[\w.-]*(?:/\w[\w.-]*)*)")


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


def job_request(
    task: Task, target: str, *, flavor: str, timeout: str, exam_data: str | None = None, image: str = IMAGE
) -> JobRequest:
    """The job that verifies a release, or repeats its exam too.

    Args:
        task: what to do.
        target: the release's address.
        flavor: the hardware.
        timeout: a number of seconds, or with a unit such as 90m, 6h or 1d.
        exam_data: for `eval`, where the questions lie in a data set on the Hub, when the protocol does not say.
        image: the container.

    Raises:
        InputError: the target or the data is no address on the Hub, or the time none.
    """
    if not _TIME.fullmatch(timeout) or not float(timeout.rstrip("smhd")):
        raise InputError(f"--timeout {timeout}: is no time; give a number and s, m, h or d, such as 90m or 6h")
    if not target.startswith(HUB_PREFIX):
        raise InputError(f"{target}: a job reads from the Hub; give hf://org/name@revision")
    repo, revision = parse_address(target)
    command: tuple[str, ...] = ("bash", "-c", SCRIPTS[task], "moe-release-job", f"{HUB_PREFIX}{repo}@{revision}", __version__)
    if exam_data is not None:
        command += _data_words(task, exam_data)
    return JobRequest(image, command, flavor, timeout, {"moe-release": task, "target": repo.replace("/", "--")})


def _data_words(task: Task, address: str) -> tuple[str, str, str]:
    match = _DATA.fullmatch(address)
    if task != "eval":
        raise InputError("--exam-data: verify takes no exam; submit eval")
    if match is None:
        raise InputError(f"--exam-data {address}: a job reads from the Hub; give hf://datasets/org/name@revision/FILE")
    return match["repo"], match["revision"], match["file"]


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
