"""The importance matrix: mean squared activations of a calibration text, one row a tensor, and one an expert."""

from __future__ import annotations

import math
import re
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.progress import SILENT, Advance, Progress
from pruner.wording import counted
from release.gguf.reader import MAGIC, GgufHeader, GgufTensor, read_header
from release.gguf.scratch import OUTPUT, check_output, deliver, link, scratch_folder, tool_space
from release.gguf.toolchain import Toolchain
from release.processes import run_tool

TOOL = "llama-imatrix"
MODEL, TEXT, TOOL_LOG = "model.gguf", "calibration.txt", "progress.log"
NEVER = 1 << 30
"""A save frequency that is never reached: llama-imatrix would write its file again and again while it works."""
_COUNTS, _SUMS = ".counts", ".in_sum2"
_SHARED = ("output.weight", "token_embd.weight")
"""A model may have one matrix under both names."""
_EXPERTS = re.compile(r"blk\.(\d+)\.ffn_\w+_exps\.weight")
_CHUNK = re.compile(rb"\[(\d+)\]-?(?:[\d.]+|nan|inf),")
_TOO_SHORT = re.compile(r"tokenizes to only (\d+) tokens")


@dataclass(frozen=True)
class ImatrixSummary:
    """What an imatrix holds.

    `unreached` gives, by tensor, the experts that no token of the calibration text was routed to: their rows say nothing, and
    llama-quantize then weighs all their columns equally.
    """

    chunks: int
    context: int
    entries: int
    experts: int
    unreached: Mapping[str, tuple[int, ...]]

    @property
    def unreached_experts(self) -> int:
        """Experts that no token reached, counted once a layer."""
        return len({(_layer(name), expert) for name, experts in self.unreached.items() for expert in experts})

    def to_json(self) -> dict[str, Any]:
        """The summary as a JSON value, for records and evidence."""
        return {
            "chunks": self.chunks,
            "context": self.context,
            "entries": self.entries,
            "experts": self.experts,
            "unreached": {name: list(experts) for name, experts in sorted(self.unreached.items())},
            "unreached_experts": self.unreached_experts,
        }


def _layer(name: str) -> str:
    """`blk.3` of `blk.3.ffn_down_exps.weight`."""
    return ".".join(name.split(".")[:2])


def compute_imatrix(
    toolchain: Toolchain,
    model: Path,
    text: Path,
    target: Path,
    *,
    chunks: int,
    context: int,
    threads: int,
    log: Path,
    parse_special: bool = False,
    progress: Progress = SILENT,
) -> ImatrixSummary:
    """Compute an importance matrix; the same toolchain gives the same bytes for any thread count and in any folder.

    Args:
        toolchain: provides llama-imatrix.
        model: the unquantized GGUF.
        text: the calibration text, UTF-8.
        target: appears only when it is complete and checked.
        chunks: number of chunks of the text that are read, at most; fewer when the text is shorter.
        context: tokens a chunk.
        threads: of llama-imatrix.
        log: the tool's output is appended to it.
        parse_special: the text holds special tokens such as turn markers, which are to be read as such.
        progress: counts chunks.

    Raises:
        InputError: an input is missing, or the text has fewer than two chunks.
        UnavailableError: the tool is missing, fails or is killed, or the disk is full.
        CheckFailedError: the tool wrote an unusable file.
    """
    read_header(model)
    with scratch_folder(target) as folder:
        link(folder, MODEL, model, "model")
        link(folder, TEXT, text, "calibration text")
        require_length(text, context, "calibration text")
        command = _command(toolchain, chunks, context, threads, parse_special=parse_special)
        with progress.task("calibrating", chunks) as advance, follow_chunks(folder / TOOL_LOG, chunks, advance):
            _run(command, folder, text, context=context, log=log)
        check_output(folder, TOOL)
        summary = read_imatrix(folder / OUTPUT)
        if not summary.entries or not summary.chunks:
            raise CheckFailedError(f"{TOOL} reported success but collected nothing; see {log}")
        deliver(folder, target)
    if summary.chunks < chunks:
        progress.note(
            f"the calibration text has {counted(summary.chunks, 'chunk')} of {context} tokens; {chunks} were asked for"
        )
    if summary.unreached:
        where = counted(len(summary.unreached), "tensor")
        progress.note(f"calibration never reached {counted(summary.unreached_experts, 'expert')} of {where}")
    return summary


def require_length(text: Path, context: int, what: str) -> None:
    """Raise InputError for a text that cannot be long enough, before a large model is loaded: a token takes a byte at least."""
    if (size := text.stat().st_size) < 2 * context:
        raise InputError(
            f"{text}: the {what} has {size:,} bytes, two chunks need {2 * context:,} tokens; use a longer text or less context"
        )


def _run(command: list[Path | str], folder: Path, text: Path, *, context: int, log: Path) -> None:
    """Run the tool; it may lose its last lines when it ends, so the reason of a failure is not always among them."""
    tokens: list[str] = []
    started: list[bool] = []

    def on_line(line: str) -> None:
        tokens.extend(_TOO_SHORT.findall(line))
        started.extend([True] if "computing over" in line else [])

    try:
        with tool_space(folder):
            run_tool(command, log=log, folder=folder, on_line=on_line)
    except UnavailableError as error:
        need = f"two chunks need {2 * context:,}; use a longer text or less context"
        if tokens:
            raise InputError(f"{text}: the calibration text has {tokens[0]} tokens, {need}") from None
        if not started and "exit code 1:" in str(error):
            raise UnavailableError(f"{error}; if the text is short: {need}") from None
        raise


def _command(toolchain: Toolchain, chunks: int, context: int, threads: int, *, parse_special: bool) -> list[Path | str]:
    return [
        toolchain.binary(TOOL),
        *("-m", MODEL, "-f", TEXT, "-o", OUTPUT),
        *("--output-format", "gguf", "--output-frequency", str(NEVER)),
        *("-c", str(context), "--chunks", str(chunks)),
        *("-t", str(threads), "-tb", str(threads)),
        *("--log-file", TOOL_LOG),
        *(("--parse-special",) if parse_special else ()),
    ]


@contextmanager
def follow_chunks(log: Path, chunks: int, advance: Advance) -> Iterator[None]:
    """Report chunks while the tool works: it prints `[1]5.2,[2]4.9,` on one line, which run_tool sees at the end only."""
    ended = threading.Event()
    done = 0

    def report() -> None:
        nonlocal done
        while not ended.wait(0.2):
            if (now := _chunks_in(log)) > done:
                advance(now - done)
                done = now

    follower = threading.Thread(target=report, daemon=True)
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()
    advance(max(0, chunks - done))


def _chunks_in(log: Path) -> int:
    """Chunks that the tool's own log says are done."""
    try:
        return max((int(number) for number in _CHUNK.findall(log.read_bytes())), default=0)
    except OSError:
        return 0


def read_imatrix(path: Path) -> ImatrixSummary:
    """Summarise an imatrix in GGUF form.

    Raises:
        InputError: it is no GGUF, or a GGUF of something else.
    """
    header = _imatrix_header(path)
    counted = [tensor for tensor in header.tensors if tensor.name.endswith(_COUNTS)]
    unreached: dict[str, tuple[int, ...]] = {}
    experts = 1
    for tensor in counted:
        counts = _floats(header, tensor)
        experts = max(experts, len(counts))
        if never := tuple(index for index, count in enumerate(counts) if not count > 0):
            unreached[tensor.name.removesuffix(_COUNTS)] = never
    return ImatrixSummary(
        chunks=_integer(header, "imatrix.chunk_count"),
        context=_integer(header, "imatrix.chunk_size"),
        entries=len(counted),
        experts=experts,
        unreached=unreached,
    )


def _imatrix_header(path: Path) -> GgufHeader:
    """The header of an imatrix.  Older ones, which end in .dat, are no GGUFs."""
    header = read_header(path) if _is_gguf(path) else None
    if header is None or header.value("general.type") != "imatrix":
        raise InputError(
            f"{path}: is no imatrix in GGUF form; recompute it, or turn an old one into GGUF with `llama-imatrix --in-file`"
        )
    return header


def _is_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return True  # the header's reader says why


def require_fits(path: Path, model: GgufHeader) -> None:
    """Require that an imatrix was made on a model of these tensors: llama-quantize passes over entries that it does not know.

    Raises:
        InputError: it has an entry for a tensor that the model has not, or one of another size, or none for its experts.
    """
    remedy = "it was made on another model; compute one on this model"
    header, tensors = _imatrix_header(path), {tensor.name: tensor for tensor in model.tensors}
    entries = {tensor.name.removesuffix(_SUMS): tensor for tensor in header.tensors if tensor.name.endswith(_SUMS)}
    for name, entry in entries.items():
        if (tensor := tensors.get(name)) is None:
            if name in _SHARED:
                continue
            raise InputError(f"{path}: has an entry for {name!r}, which the model does not have; {remedy}")
        rows, matrices = tensor.shape[0], math.prod(tensor.shape[2:])
        if entry.shape[0] != rows or entry.elements != rows * matrices:
            shape = " × ".join(map(str, entry.shape))
            raise InputError(
                f"{path}: the entry for {name!r} is {shape}, the model's tensor wants {rows} × {matrices}; {remedy}"
            )
    if missing := [name for name in tensors if name not in entries and _weighed(name, model)]:
        raise InputError(f"{path}: has no entry for {missing[0]!r} ({counted(len(missing), 'tensor')} of experts); {remedy}")


def _weighed(name: str, model: GgufHeader) -> bool:
    """Whether calibration must have reached a tensor: experts, but for those of a multi-token prediction block."""
    found = _EXPERTS.fullmatch(name)
    blocks, skipped = model.model_value("block_count"), model.model_value("nextn_predict_layers") or 0
    if found is None or not isinstance(blocks, int) or not isinstance(skipped, int):
        return False
    return int(found[1]) < blocks - skipped


def _integer(header: GgufHeader, key: str) -> int:
    value = header.value(key)
    return value if isinstance(value, int) else 0


def _floats(header: GgufHeader, tensor: GgufTensor) -> tuple[float, ...]:
    if tensor.type.name != "F32" or tensor.elements > 1 << 16:
        raise InputError(f"{header.path}: damaged imatrix: {tensor.name!r} holds no counts of experts")
    with header.path.open("rb") as file:
        file.seek(tensor.offset)
        return struct.unpack(f"<{tensor.elements}f", file.read(tensor.size))
