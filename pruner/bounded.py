"""What foreign small programs do (chat templates, patterns, templates of cards), in a child with bounded memory and time.

A sandbox keeps a template from files and from Python; it does not keep `{{ 'a' * 10**10 }}` from memory, nor nested loops from
the processor.  A limit of a process does, wherever the work is done.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruner.errors import CheckFailedError, InputError, MoeReleaseError, UnavailableError

KINDS = {kind.__name__: kind for kind in (InputError, CheckFailedError, UnavailableError)}
ENVIRONMENT = ("DYLD_LIBRARY_PATH", "HF_HOME", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "SYSTEMROOT", "TMPDIR")
START = "import json, sys; sys.path[:] = json.loads(sys.stdin.buffer.readline()); from pruner.bounded import _serve; _serve()"
"""Python's isolated mode finds nothing in the folder where it is started; it is told where the packages are."""
MEMORY_SIGNALS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)
"""How code in C ends that got no memory and did not look."""


@dataclass(frozen=True)
class Limits:
    """What the child may take beyond what it has when its work begins."""

    memory: int = 1 << 30
    """Bytes; bounded where the system says how much a process has, as Linux does."""
    seconds: int = 20
    """Of a processor, so that a busy machine changes nothing."""
    answer: int = 64 << 20
    """Bytes of the result as JSON."""


LIMITS = Limits()


def bounded(what: str, function: Callable[..., Any], *words: Any, limits: Limits = LIMITS) -> Any:
    """Call a function in a child process.

    Args:
        what: is being run, for the error.
        function: of a module, by its name there.
        words: its arguments; they are pickled.
        limits: of the child.

    Returns:
        what the function returned, a JSON value.

    Raises:
        InputError: it takes more than `limits`, or failed in a way that is no error of ours.
        MoeReleaseError: the error of ours that the function raised.
        UnavailableError: no child can be started.
    """
    given = json.dumps(sys.path).encode() + b"\n" + pickle.dumps((function, words, limits))
    command = [sys.executable, "-I", "-c", START]
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    try:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        ) as child:
            try:
                answer, _ = child.communicate(given)
            except BaseException:  # an interrupt, too: nobody waits any more
                child.kill()
                raise
    except OSError as error:
        raise UnavailableError(f"{what}: no process can be started for it: {error.strerror}") from None
    return _result(what, child.returncode, answer, limits)


def first_group(pattern: str, text: str) -> str:
    """What a pattern's first group finds in a text; empty when it finds nothing."""
    found = re.search(pattern, text)
    return (found.group(1) or "") if found else ""


def _result(what: str, code: int, answer: bytes, limits: Limits) -> Any:
    if code == -signal.SIGXCPU:
        raise InputError(f"{what}: takes more than {limits.seconds} seconds of a processor; it is refused")
    if code == -signal.SIGKILL:  # of the hard limit, where a program ignores the soft one, or for want of memory
        raise InputError(f"{what}: was killed by the system: it takes too long, or more memory than this machine has free")
    found: dict[str, Any] = {"over": "memory"} if -code in MEMORY_SIGNALS else {}
    with suppress(ValueError):
        found = json.loads(answer) if answer else found
    if "result" in found:
        return found["result"]
    if found.get("over") == "memory":
        raise InputError(f"{what}: takes more than {limits.memory:,} bytes of memory; it is refused")
    if found.get("over") == "answer":
        raise InputError(f"{what}: gives more than {limits.answer:,} bytes; it is refused")
    if found.get("kind") in KINDS:
        raise KINDS[found["kind"]](found["error"])
    raise InputError(f"{what}: {found.get('error') or f'ended with exit code {code}'}")


def _serve() -> None:
    """The child: read what is to be done, accept the limits, do it, and write what came of it."""
    try:
        function, words, limits = pickle.loads(sys.stdin.buffer.read())  # noqa: S301  # written by `bounded`, our parent
        _accept(limits)
        answer = json.dumps({"result": function(*words)}).encode()
        if len(answer) > limits.answer:
            answer = b'{"over": "answer"}'
    except MemoryError:
        answer = b'{"over": "memory"}'
    except MoeReleaseError as error:
        answer = json.dumps({"kind": type(error).__name__, "error": str(error)}).encode()
    except Exception as error:  # noqa: BLE001  # whatever a foreign text brings about is told as one line
        told = " ".join(str(error)[:1000].split())
        answer = json.dumps({"error": f"{type(error).__name__}: {told}"}).encode()
    sys.stdout.buffer.write(answer)


def _accept(limits: Limits) -> None:
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + limits.seconds
    wanted = [(resource.RLIMIT_CORE, 0, 0), (resource.RLIMIT_CPU, seconds, seconds + 5)]
    if (taken := _taken()) is not None:
        wanted.append((resource.RLIMIT_AS, taken + limits.memory, taken + limits.memory))
    for which, soft, hard in wanted:
        most = resource.getrlimit(which)[1]
        bounds = (soft, hard) if most == resource.RLIM_INFINITY else (min(soft, most), min(hard, most))
        with suppress(ValueError, OSError):  # a system that has no such limit
            resource.setrlimit(which, bounds)


def _taken() -> int | None:
    """Bytes of address space that this process has, None where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
