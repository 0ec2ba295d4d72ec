"""Measuring quality: llama-perplexity stores the unquantized model's predictions once, and compares each quant with them."""

from __future__ import annotations

import re
import shutil
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.files import require_space
from pruner.progress import SILENT, Advance, Progress
from pruner.wording import counted
from release.gguf.imatrix import follow_chunks, require_length
from release.gguf.quality import MINIMUM_TOKENS, Divergence, Estimate, is_complete, parse_divergence
from release.gguf.reader import GgufArray, GgufHeader, read_header
from release.gguf.scratch import NEARLY_FULL, OUTPUT, deliver, link, scratch_folder, tool_space
from release.gguf.toolchain import Toolchain
from release.processes import run_tool

TOOL = "llama-perplexity"
MODEL, TEXT, TOOL_LOG = "model.gguf", "text.txt", "progress.log"
ATTEMPTS, LONGEST_PAUSE = 10, 8.0
"""How often it is run when its last lines are lost, and the longest pause before that in seconds.

llama.cpp prints from a thread of its own that nobody waits for at the end: common/log.cpp leaks the logger, tools/perplexity
never flushes it, and --log-file is written by the same thread.  The last lines are what the program was started for; on a busy
machine they are lost several times in a row."""
FEWEST_THREADS = 2
"""Of a comparison: waiting for a second thread at the end leaves the printing one its moment.  Measured on two busy cores, the
statistics were lost in 12 of 14 runs with one thread and in 1 of 14 with two; no other option of the tool helped."""
LARGEST_BATCH = 512
_MAGIC = b"_logits_"
_HEADER = struct.Struct("<8sIii")
_CHUNK_LINE = re.compile(r"^\s*(\d+)\s+\S+\s+±")
_TOO_SHORT = re.compile(r"tokenizes to only (\d+) tokens")


@dataclass(frozen=True)
class Predictions:
    """The unquantized model's log-probabilities of a text, as llama-perplexity stores them.

    `chunks` chunks of `context` tokens; for the second half of each, every word of a vocabulary of `vocabulary` in 16 bits.
    """

    path: Path
    chunks: int
    context: int
    vocabulary: int

    @property
    def tokens(self) -> int:
        """Tokens that are scored."""
        return self.chunks * scored_tokens(self.context)

    @property
    def size(self) -> int:
        """Bytes that the file must have."""
        return predictions_size(self.chunks, self.context, self.vocabulary)


def scored_tokens(context: int) -> int:
    """Tokens of a chunk that are scored: its second half without the last, which predicts nothing."""
    return context - 1 - context // 2


def predictions_size(chunks: int, context: int, vocabulary: int) -> int:
    """Bytes of a predictions file: header, the tokens, and scale, offset and 16 bits a word for each scored token.

    The layout is that of `perplexity` in llama.cpp's tools/perplexity/perplexity.cpp.
    """
    row = 2 * ((vocabulary + 1) // 2) + 4
    return _HEADER.size + chunks * context * 4 + chunks * scored_tokens(context) * row * 2


def predict(
    toolchain: Toolchain,
    model: Path,
    text: Path,
    target: Path,
    *,
    chunks: int,
    context: int,
    threads: int,
    log: Path,
    progress: Progress = SILENT,
) -> Predictions:
    """Store what the unquantized model predicts for a text.

    Args:
        toolchain: provides llama-perplexity.
        model: the unquantized GGUF.
        text: UTF-8; its special tokens, if it holds any, are read as plain text.
        target: the predictions file, which appears only when it is complete.
        chunks: chunks of the text that are used, at most; fewer when the text is shorter.
        context: tokens a chunk.
        threads: of the tool; results do not depend on them.
        log: the tool's output is appended to it.
        progress: counts chunks.

    Raises:
        InputError: an input is missing, or the text is too short.
        UnavailableError: the tool is missing, fails or is killed, or the disk is full.
        CheckFailedError: the tool reported success and wrote half a file.
    """
    need = predictions_size(chunks, context, _vocabulary(read_header(model)))
    short: list[str] = []
    with scratch_folder(target) as folder:
        link(folder, MODEL, model, "model")
        link(folder, TEXT, text, "text")
        require_length(text, context, "text")
        require_space(target.parent, need, "the unquantized model's predictions")
        words: list[str | Path] = [toolchain.binary(TOOL), "-m", MODEL, "-f", TEXT, "--kl-divergence-base", OUTPUT]
        words += ["--chunks", str(chunks), *_shape(context, threads), "--log-file", TOOL_LOG]
        task = progress.task("predicting with the unquantized model", chunks)
        with task as advance, follow_chunks(folder / TOOL_LOG, chunks, advance), tool_space(folder):
            run_tool(words, log=log, folder=folder, on_line=lambda line: short.extend(_TOO_SHORT.findall(line)))
        found = _check(folder / OUTPUT, text, context, short)
        deliver(folder, target)
    if found.chunks < chunks:
        progress.note(f"the text has {counted(found.chunks, 'chunk')} of {context} tokens; {chunks} were asked for")
    return Predictions(target, found.chunks, found.context, found.vocabulary)


def _vocabulary(header: GgufHeader) -> int:
    """Words of the model's vocabulary, as its tokenizer lists them."""
    entry = header.entries.get("tokenizer.ggml.tokens")
    if entry is None or not isinstance(entry.value, GgufArray):
        raise InputError(f"{header.path}: holds no tokenizer; this is no model that a text can be given to")
    return entry.value.count


def _shape(context: int, threads: int) -> list[str]:
    """One chunk at a time, so that memory and order of sums do not depend on the tool's defaults."""
    batch = ["-b", str(context), "-ub", str(min(context, LARGEST_BATCH))]
    return ["-c", str(context), *batch, "-t", str(threads), "-tb", str(threads)]


def read_predictions(path: Path) -> Predictions | None:
    """A complete predictions file, or None when it is missing or is not whole."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
            size = path.stat().st_size
    except OSError:
        return None
    if len(head) < _HEADER.size or not head.startswith(_MAGIC):
        return None
    _, context, vocabulary, chunks = _HEADER.unpack(head)
    found = Predictions(path, chunks, context, vocabulary)
    return found if chunks > 0 and vocabulary > 0 and size == found.size else None


def _check(path: Path, text: Path, context: int, short: list[str]) -> Predictions:
    """What the tool wrote; it ends with code 0 after a text that is too short, and on a full disk."""
    found = read_predictions(path)
    if found is None and path.is_file() and path.stat().st_size < _HEADER.size:
        tokens = f"has {short[0]} tokens" if short else "is too short"
        raise InputError(f"{text}: the text {tokens}, two chunks need {2 * context:,}; use a longer text or less context")
    if found is None and shutil.disk_usage(path.parent).free < NEARLY_FULL:
        raise UnavailableError(f"{path.parent.parent}: no space left on the disk; free some and run again")
    if found is None or found.context != context:
        raise CheckFailedError(f"{TOOL} reported success but its predictions are incomplete")
    if found.tokens < MINIMUM_TOKENS:
        raise InputError(f"{text}: only {found.tokens} tokens are scored, {MINIMUM_TOKENS} are needed; use a longer text")
    return found


def compare_quant(
    toolchain: Toolchain,
    model: Path,
    predictions: Predictions,
    *,
    threads: int,
    log: Path,
    title: str,
    progress: Progress = SILENT,
) -> tuple[Divergence, Estimate]:
    """Compare a quant's predictions with the unquantized model's.

    Args:
        toolchain: provides llama-perplexity.
        model: the quant, or its first shard.
        predictions: of the unquantized model.
        threads: of the tool; results do not depend on them.
        log: the tool's output is appended to it.
        title: of the progress.
        progress: counts chunks.

    Returns:
        The quant's divergence, and the unquantized model's perplexity on the same tokens.

    Raises:
        UnavailableError: the tool is missing, fails, is killed, or lost its statistics each time.
        CheckFailedError: its statistics cannot be read.
    """
    shape = _shape(predictions.context, max(threads, FEWEST_THREADS))
    words: list[str | Path] = [toolchain.binary(TOOL), "-m", model.absolute(), *shape]
    words += ["--kl-divergence", "--kl-divergence-base", predictions.path.absolute()]
    for attempt in range(ATTEMPTS):
        if attempt:
            progress.note(f"{TOOL} lost its last lines; running it again")
            time.sleep(min(2.0**attempt / 8, LONGEST_PAUSE))
        lines: list[str] = []
        with progress.task(title, predictions.chunks) as advance:
            run_tool(words, log=log, on_line=_counting(lines, advance))
        if is_complete("\n".join(lines)):
            return parse_divergence("\n".join(lines))
    raise UnavailableError(f"{TOOL} ended {ATTEMPTS} times without its statistics (see {log}); run the same command again")


def _counting(lines: list[str], advance: Advance) -> Callable[[str], None]:
    def on_line(line: str) -> None:
        lines.append(line)
        if _CHUNK_LINE.match(line):
            advance(1)

    return on_line
