"""What anybody may have put into a file of ours: changes to a sound one, and what reading it may and may not do.

A test draws a change (`changed_bytes`, `changed_json`, `changed_yaml`), writes it and calls `assert_read_or_refused`.
"""

from __future__ import annotations

import copy
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import settings
from hypothesis import strategies as st

from pruner.errors import MoeReleaseError
from tests.conftest import FUZZ_TIMES

LONGEST_MESSAGE = 2000
MEMORY, MEMORY_PER_BYTE = 16 << 20, 64
"""Bytes that reading may take, whatever is read, and for each byte of the file."""

FUZZ = settings(max_examples=60 * FUZZ_TIMES)

LENGTHS = (0, 1, 255, 256, 1 << 16, 1 << 24, (1 << 31) - 1, 1 << 31, 1 << 32, 100_000_001, 1 << 62, (1 << 63) - 1, 1 << 63,
           (1 << 64) - 1)  # fmt: skip
NAMES = (
    "..", "../x", "../../../../etc/passwd", "/etc/passwd", "a/../../x", ".", "", "~", "a\0b", "a\nb", "a\\..\\b", "x" * 5000,
    "\u202egnp.exe", "\ufeff", "ﬁ", "e\u0301", "İ", "\ud800", "\x1b[2J", "\u2028", "{{ 1 }}", "%s%n", "https://evil.example/x",
    "file:///etc/passwd", "hf://a/b", "-rf",
)  # fmt: skip
"""Words that try to leave a folder, a line, a table or an encoding."""

_deep: Any = []
for _ in range(300):
    _deep = [_deep]

hostile = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**400), 10**400),
    st.sampled_from([*LENGTHS, -1, 2**53 + 1, 10**4000]),
    st.floats(),
    st.text(st.characters(), max_size=5),
    st.sampled_from(NAMES),
    st.sampled_from(["length", "valid", "a" * 100_000, _deep, [], {}, [[]], [None], {"": {}}]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
"""JSON values (NaN and halves of surrogate pairs among them) that stand where others were expected."""


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every key and item."""
    pairs = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    return [place for key, each in pairs for place in [(*path, key), *places(each, (*path, key))]]


def spoiled(draw: st.DrawFn, value: Any) -> Any:
    """The value with one or two places replaced, renamed or gone."""
    result = copy.deepcopy(value)
    first, second = (draw(st.sampled_from(places(value))) for _ in range(2))
    for *parents, last in [first] if second[: len(first)] == first else [first, second]:
        target = result
        for parent in parents:
            target = target[parent] if isinstance(target, (dict, list)) and parent in _keys(target) else {}
        _spoil(draw, target, last)
    return result


def _spoil(draw: st.DrawFn, target: Any, last: Any) -> None:
    action = draw(st.integers(0, 7))
    if action > 1 and last in _keys(target):
        target[last] = copy.deepcopy(draw(hostile))
    elif isinstance(target, dict) and last in target:
        value = target.pop(last)
        if action:
            target[draw(st.sampled_from(NAMES))] = value


def _keys(value: Any) -> Any:
    return value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()


@st.composite
def changed_json(draw: st.DrawFn, value: Any) -> bytes:
    """A JSON text: a spoiled value, a key twice, nesting without end, a number without end, or changed bytes."""
    kind = draw(st.integers(0, 9))
    if kind < 6:
        return json.dumps(spoiled(draw, value)).encode()
    text = json.dumps(value, indent=draw(st.sampled_from([None, 1])))
    if kind == 6:
        return text.replace("{", '{"twice": 1, "twice": 2, ', 1).encode()
    if kind == 7:
        old = draw(st.sampled_from(_scalars(value) or ["{}"]))
        new = draw(st.sampled_from(["[" * 100_000, '{"a":' * 100_000, "9" * 5000, "-Infinity", "1e999", '"\\ud800"', "\ud800"]))
        return text.replace(old, new, 1).encode("utf-8", "surrogatepass")
    return draw(changed_bytes(text.encode()))


def _scalars(value: Any) -> list[str]:
    found = [json.dumps(each) for each in _leaves(value)]
    return sorted(set(found))


def _leaves(value: Any) -> list[Any]:
    parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    return [value] if parts is None else [leaf for part in parts for leaf in _leaves(part)]


@st.composite
def changed_yaml(draw: st.DrawFn, text: str) -> bytes:
    """A YAML text: a spoiled value (JSON is YAML), a hostile word put somewhere, or changed bytes."""
    kind = draw(st.integers(0, 5))
    if kind < 3:
        return json.dumps(spoiled(draw, yaml.safe_load(text))).encode()
    if kind < 5:
        words = text.split(" ")
        place = draw(st.integers(0, len(words) - 1))
        words[place] = draw(st.sampled_from(YAML_WORDS))
        return " ".join(words).encode("utf-8", "surrogatepass")
    return draw(changed_bytes(text.encode()))


YAML_WORDS = (
    "&a [*a, *a]", "*a", "!!python/object/apply:os.system [x]", "!!binary '%%'", "<<: {a: 1}", "? [1]", "1:30:99999999",
    "0x" + "f" * 500, "0b" + "1" * 5000, "1e999", ".nan", "-.inf", "2026-13-45", "9" * 5000, "[" * 5000, "{a: " * 3000, "---",
    "%YAML 9.9", "\t", "|", ">9", '"\\ud800"', '"\\0"', "\x00", "\x1b[2J", "'../../x'", "/etc/passwd", "null", "~", "!!set {a}",
    "!!float x", "!!int ''", "- - - -", "\u2028", "\ufeff", "yes", "=", '"\\U00110000"',
)  # fmt: skip


@st.composite
def changed_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """The data cut short, with flipped bits, with other lengths in place of eight bytes, with bytes gone or put in."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(len(changed) - 1, 0)))
        kind = draw(st.integers(0, 5))
        if kind == 0:
            del changed[place:]
        elif kind == 1 and changed:
            changed[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == 2:
            width = draw(st.sampled_from([4, 8]))
            changed[place : place + width] = (draw(st.sampled_from(LENGTHS)) % (1 << 8 * width)).to_bytes(width, "little")
        elif kind == 3:
            del changed[place : place + draw(st.integers(1, 64))]
        elif kind == 4:
            changed[place:place] = draw(
                st.sampled_from([b"\0", b"\xff", b"\xed\xa0\x80", b"\n", b'"', b"\r", b"}", b"\xef\xbb\xbf"])
            )
        else:
            changed[place:place] = draw(st.binary(max_size=16))
    return bytes(changed)


def assert_one_line(error: MoeReleaseError, named: str) -> None:
    """The error is one printable line of bearable length that names the file."""
    line = str(error)
    assert named in line
    assert line.isprintable(), ascii(line)
    assert len(line) < LONGEST_MESSAGE


def assert_read_or_refused(read: Callable[[], object], named: str, size: int) -> bool:
    """Call `read` on a file of `size` bytes called `named`: it works, or gives one line; within memory that fits the file.

    Returns:
        whether it was read.
    """
    accepted, peak = _measured(read, named)
    if peak > MEMORY + MEMORY_PER_BYTE * size:  # the first call may have imported something large
        accepted, peak = _measured(read, named)
    assert peak <= MEMORY + MEMORY_PER_BYTE * size, f"{peak:,} bytes for a file of {size:,}"
    return accepted


def _measured(read: Callable[[], object], named: str) -> tuple[bool, int]:
    """Whether it was read, and how many bytes that took at the most."""
    tracemalloc.start()
    try:
        read()
    except MoeReleaseError as error:
        assert_one_line(error, named)
        return False, tracemalloc.get_traced_memory()[1]
    else:
        return True, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
