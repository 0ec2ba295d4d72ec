from __future__ import annotations

import pytest

from pruner.wording import counted, counted_that, every, some


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(0, 3, ""), (1, 3, "w0"), (3, 3, "w0, w1, w2"), (4, 3, "w0, w1, w2 and 1 more"), (2001, 1, "w0 and 2,000 more")],
)
def test_the_first_words_and_how_many_more_there_are(count: int, most: int, expected: str):
    assert some([f"w{number}" for number in range(count)], most) == expected


def test_one_is_no_plural() -> None:
    assert [counted(number, "shard") for number in (0, 1, 1200)] == ["0 shards", "1 shard", "1,200 shards"]
    assert [every(number, "file") for number in (1, 3)] == ["the 1 file", "all 3 files"]


def test_the_verb_follows_its_number() -> None:
    assert [counted_that(number, "file", "differ") for number in (1, 2)] == ["1 file differs", "2 files differ"]
    assert [counted_that(number, "file", "are") for number in (1, 0)] == ["1 file is", "0 files are"]
