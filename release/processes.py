"""Child processes: a list of words, a log file in the work folder, and the tool's last lines in the error."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pruner.errors import UnavailableError

LAST_LINES = 3
SECRET_WORDS = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "API_KEY", "ACCESS_KEY")
ALLOWED = frozenset(
    {"DYLD_LIBRARY_PATH", "HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE"}
    | {"SYSTEMROOT", "TEMP", "TMP", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV"}
)
ALLOWED_BEGINNINGS = (
    *("LC_", "XDG_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "GGML_"),
    *("CUDA_", "NVIDIA_", "HIP_", "ROCR_", "ROCM_", "HSA_", "VK_", "SYCL_", "ONEAPI_", "ZE_"),
)
"""What a tool gets to see of a person's shell: where things are, threads and devices.  No LLAMA_ARG_…, for a recipe may not
depend on a shell."""
BUILD_VARIABLES = ("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "CUDACXX", "SDKROOT", "DEVELOPER_DIR", "CMAKE_")
NETWORK_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_")
"""Only for pip: an index or a proxy may carry a password in its address."""


def environment_without_secrets(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a tool that needs no credential and takes no options from it: what is allowed, plus `extra`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if (name.upper() in ALLOWED or name.upper().startswith(ALLOWED_BEGINNINGS)) and not _secret(name)
    }
    return {**kept, **(extra or {})}


def inherited(names: Sequence[str]) -> dict[str, str]:
    """Further variables of the shell for a tool that needs them; a name that ends in _ stands for all that begin with it."""
    return {
        name: value
        for name, value in os.environ.items()
        if any(name.upper() == each or (each.endswith("_") and name.upper().startswith(each)) for each in names)
        and not _secret(name)
    }


def _secret(name: str) -> bool:
    return any(word in name.upper() for word in SECRET_WORDS)


def processor() -> str:
    """The kind of processor: its model where the system tells, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{platform.machine()} {model}".strip()


_running: set[subprocess.Popen[str]] = set()
"""Children of `run_tool`, in whatever thread."""


def stop_tools() -> None:
    """End every child that `run_tool` waits for: for a program that is told to stop while its threads wait for tools."""
    for process in tuple(_running):
        stop_process(process)


def run_tool(
    command: Sequence[str | Path],
    *,
    log: Path,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
    timeout: float | None = None,
) -> None:
    """Run a tool to its end; its output goes to `log` and, line by line, to `on_line`.

    Raises:
        UnavailableError: the tool cannot be started, fails, is killed or exceeds `timeout` seconds.  The message has the
            tool's last lines and the log's path.
    """
    words = [str(word) for word in command]
    name = _name(words)
    log.parent.mkdir(parents=True, exist_ok=True)
    last: deque[str] = deque(maxlen=LAST_LINES)
    try:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env=environment_without_secrets(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            bufsize=1,
            preexec_fn=end_with_parent(),  # noqa: PLW1509  # the function only makes one system call
        )
    except OSError as error:
        raise UnavailableError(f"{name}: cannot be started: {error.strerror}; run `moe-release doctor`") from None
    _running.add(process)
    expired = threading.Event()
    timer = threading.Timer(timeout, _expire, (process, expired)) if timeout else None
    if timer:
        timer.start()
    try:
        assert process.stdout is not None  # noqa: S101  # for the type checker: stdout=PIPE above
        with process.stdout as output, log.open("a", encoding="utf-8", buffering=1) as log_file:
            for line in output:
                log_file.write(line)
                if line.strip():
                    last.append(line.strip())
                if on_line:
                    on_line(line.rstrip("\n"))
        code = process.wait()
    finally:
        if timer:
            timer.cancel()
        stop_process(process)
        _running.discard(process)
    if expired.is_set():
        raise UnavailableError(f"{name}: no end after {timeout:.0f} s; see {log}")
    if code:
        how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
        raise UnavailableError(f"{name} {how}: {' | '.join(last) or 'no output'} (log: {log})")


def _name(words: Sequence[str]) -> str:
    """What the tool is called in an error: of a Python tool, its script."""
    scripts = [word for word in words[1:] if word.endswith(".py")]
    return Path(scripts[0] if scripts else words[0]).name


def _expire(process: subprocess.Popen[str], expired: threading.Event) -> None:
    expired.set()
    process.kill()


def end_with_parent() -> Callable[[], None] | None:
    """On Linux, give a `preexec_fn` that asks the kernel to end the child when its parent is gone, however that happened."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent, set_death_signal = ctypes.CDLL(None).prctl, os.getpid(), 1

    def ask() -> None:
        prctl(set_death_signal, signal.SIGKILL)
        if os.getppid() != parent:  # it went before we asked
            os._exit(1)

    return ask


def stop_process(process: subprocess.Popen[str] | subprocess.Popen[bytes], grace: float = 5.0) -> None:
    """End a child that still runs: SIGTERM, then SIGKILL after `grace` seconds."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
