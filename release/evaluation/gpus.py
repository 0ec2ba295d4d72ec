"""The GPUs of this machine, shared out among the servers of a run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence

from pruner.errors import InputError

VISIBLE_GPUS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
"""What names the GPUs that a process may use, on NVIDIA's and on AMD's."""
LOOK_SECONDS = 30


def nvidia_gpus() -> list[str]:
    """The names of this machine's NVIDIA GPUs, as CUDA_VISIBLE_DEVICES takes them; none where nvidia-smi is not or fails."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    words = [tool, "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        shown = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=LOOK_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in shown.splitlines() if line.startswith("GPU-")]


def gpu_shares(environment: Mapping[str, str], servers: int, found: Sequence[str] = ()) -> list[dict[str, str]]:
    """The environment of each server: its equal share of the GPUs.

    One server keeps all of them.  Where neither the environment names any nor were any `found`, every server sees what the
    driver shows.

    Args:
        environment: names GPUs in CUDA_VISIBLE_DEVICES or HIP_VISIBLE_DEVICES.
        servers: how many.
        found: the machine's GPUs, shared out where the environment names none.

    Raises:
        InputError: the GPUs cannot be shared out evenly; replies must not depend on how many one server has.
    """
    name = next((each for each in VISIBLE_GPUS if each in environment), None)
    gpus = [gpu for gpu in environment[name].split(",") if gpu.strip()] if name else list(found)
    if servers == 1 or not gpus:
        return [{}] * servers
    if len(gpus) % servers and servers % len(gpus):
        whose = f"{name} names" if name else f"{VISIBLE_GPUS[0]} is not set and this machine has"
        raise InputError(f"{whose} {len(gpus)} GPUs for {servers} servers; give each server as many as the others")
    each = max(1, len(gpus) // servers)
    shares = [gpus[start : start + each] for start in range(0, len(gpus), each)]
    return [{name or VISIBLE_GPUS[0]: ",".join(shares[number % len(shares)])} for number in range(servers)]
