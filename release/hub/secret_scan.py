"""Text that must not be published: credentials, and paths of the machine that it was made on.

Every file is looked at: texts line by line, the metadata of safetensors and GGUF files key by key (tensors hold no text), and
other binary files up to 64 MiB for credentials.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pruner.errors import CheckFailedError, InputError
from pruner.wording import some

SAMPLE = 8192
MOST_SHOWN = 5
LARGEST_BINARY = 64 << 20
Pattern = tuple[str, re.Pattern[str]]
CREDENTIALS: tuple[Pattern, ...] = (
    ("a Hugging Face token", re.compile(r"(?<![A-Za-z0-9_])(?:hf|api_org|hf_oauth)_[A-Za-z0-9]{30,}")),
    ("a GitHub token", re.compile(r"(?<![A-Za-z0-9_])(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,})")),
    ("a GitLab token", re.compile(r"(?<![A-Za-z0-9_-])glpat-[A-Za-z0-9_-]{20,}")),
    ("an API key", re.compile(r"(?<![A-Za-z0-9_-])sk-(?=[A-Za-z_-]*[0-9])(?=[a-z0-9_-]*[A-Z])[A-Za-z0-9_-]{20,}")),
    ("a Google API key", re.compile(r"(?<![A-Za-z0-9_-])AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])")),
    ("a Slack token", re.compile(r"(?<![A-Za-z0-9])xox[abeoprs]-[A-Za-z0-9-]{10,}")),
    ("an AWS key", re.compile(r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])")),
    ("a private key", re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")),
    (
        "a credential in a header",
        re.compile(r"(?i)authorization[\"']?\s*[:=]\s*[\"']?(?:bearer|token|basic)\s+(?=\S*[0-9])[A-Za-z0-9._~+/=-]{16,}"),
    ),
    ("a password in an address", re.compile(r"(?<![A-Za-z0-9])https?://[^\s/:@\"'<>{}]+:[^\s/:@\"'<>{}]{3,}@[A-Za-z0-9]")),
)
PLACES: tuple[Pattern, ...] = (
    (
        "an absolute home path",
        re.compile(r"(?<![\w.~-])(?:/(?:home|Users)/|/root/|[A-Za-z]:(?:\\{1,2}|/)Users(?:\\{1,2}|/))[\w.-]"),
    ),
    ("an absolute home path", re.compile(r"(?:^|[:=]\s*[\"']?|\s)/root(?=[\"'\s,;:)]|$)(?![\"']\s*:)")),
)


@dataclass(frozen=True)
class Finding:
    """One place that must not be published: a line, or a key of a header; the secret itself is not kept."""

    path: str
    place: int | str
    kind: str

    def __str__(self) -> str:
        return f"{self.path}:{self.place} holds {self.kind}"


def require_no_secrets(files: Mapping[str, Path], folders: Sequence[Path] = (), inherited: Collection[str] = ()) -> None:
    """Refuse files that hold a credential or a path below a home folder or one of `folders`.

    Args:
        files: path in the repo -> local file.
        folders: more folders of this machine that may not be named, such as the work folder.
        inherited: paths whose bytes are the base's own: a vocabulary of 262,144 words holds everything, and is published.

    Raises:
        CheckFailedError: says file and line (or key of a header) of the first findings, never the secret.
    """
    findings = [
        finding for path, file in sorted(files.items()) if path not in inherited for finding in scan_file(path, file, folders)
    ]
    if findings:
        shown = some([str(each) for each in findings], MOST_SHOWN)
        raise CheckFailedError(f"{shown}; remove it before publishing, and revoke a token that was written to a file")


def scan_file(path: str, file: Path, folders: Sequence[Path] = ()) -> Iterator[Finding]:
    """The findings in one file, in the order of its lines or keys."""
    local = [_below(folder) for folder in (Path.home(), *folders) if len(folder.parts) > 1]
    patterns = [*CREDENTIALS, *PLACES]
    if local:
        patterns.append(("a path of this machine", re.compile(rf"(?<![\w.~-])(?:{'|'.join(local)})")))
    with file.open("rb") as handle:
        binary = b"\0" in handle.read(SAMPLE)
        handle.seek(0)
        if not binary:
            lines = ((number, raw.decode("utf-8", "replace")) for number, raw in enumerate(handle, 1))
            yield from _found(path, lines, patterns)
            return
    header = _header_texts(file)
    if header is not None:
        yield from _found(path, header, patterns)
    elif file.stat().st_size <= LARGEST_BINARY:
        yield from _found(path, [("binary", file.read_bytes().decode("latin-1"))], CREDENTIALS)


def _below(folder: Path) -> str:
    """What matches a folder and paths below it; of a short one such as /root, a word of vocabularies, only the latter."""
    short = 2
    name = re.escape(str(folder))
    return rf"{name}/[\w.-]" if len(folder.parts) == short else rf"{name}(?![\w.-])"


def _found(path: str, texts: Iterable[tuple[int | str, str]], patterns: Sequence[Pattern]) -> Iterator[Finding]:
    """The first kind that each text holds.  A slash may be escaped in JSON."""
    for place, text in texts:
        plain = text.replace("\\/", "/")
        kind = next((kind for kind, pattern in patterns if pattern.search(plain)), None)
        if kind:
            yield Finding(path, place, kind)


def _header_texts(file: Path) -> list[tuple[int | str, str]] | None:
    """Key and text of everything that the header of a safetensors or GGUF file says; None for a file that is neither."""
    from pruner.safetensors_format import read_header as read_safetensors
    from release.gguf.reader import GgufArray
    from release.gguf.reader import read_header as read_gguf

    try:
        if _magic(file) == b"GGUF":
            rows: list[tuple[int | str, str]] = []
            for key, entry in read_gguf(file).entries.items():
                values = entry.value.values or () if isinstance(entry.value, GgufArray) else (entry.value,)
                rows += [(key, f"{key} {value}") for value in values if isinstance(value, str)]
            return rows
        header = read_safetensors(file)
    except InputError:
        return None
    metadata: list[tuple[int | str, str]] = [
        (f"__metadata__.{key}", f"{key} {value}") for key, value in header.metadata.items()
    ]
    return metadata + [(tensor.name, tensor.name) for tensor in header.tensors]


def _magic(file: Path) -> bytes:
    with file.open("rb") as handle:
        return handle.read(4)
