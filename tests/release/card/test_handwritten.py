"""Hand-written parts of a published card: kept, taken out again, and never lost unasked."""

from __future__ import annotations

import pytest

from pruner.errors import CheckFailedError, InputError
from pruner.files import sha256_bytes
from release.card.handwritten import (
    KEPT,
    MOST_LINES,
    difference,
    hand_written,
    hand_written_lines,
    merge,
    only_parts_changed,
    without_parts,
)

RENDERED = """---
license: apache-2.0
---
# a

<!-- hand-written: notes -->
<!-- end of hand-written: notes -->
"""
EXISTING = RENDERED.replace("notes -->\n<!-- end", "notes -->\nMine, 42.\n\n  spaced\n<!-- end").replace("# a", "# old")


def test_a_part_is_kept_and_all_else_is_new() -> None:
    merged = merge(RENDERED, EXISTING)
    assert merged == RENDERED.replace("notes -->\n<!-- end", "notes -->\nMine, 42.\n\n  spaced\n<!-- end")
    assert merge(RENDERED, merged) == merged, "nothing changes the second time"


def test_without_its_parts_a_published_card_is_the_rendered_one_byte_for_byte() -> None:
    extra = EXISTING + "\n<!-- hand-written: thanks -->\nTo all.\n<!-- end of hand-written: thanks -->\n"
    merged = merge(RENDERED, extra)
    assert merged.count(KEPT) == 1
    assert "To all." in merged
    assert without_parts(merged) == RENDERED
    assert merge(RENDERED, merged) == merged
    assert only_parts_changed(merged, sha256_bytes(RENDERED.encode()))
    assert not only_parts_changed(merged.replace("# a", "# b"), sha256_bytes(RENDERED.encode()))


def test_a_card_without_parts_gives_none() -> None:
    assert merge(RENDERED, "# somebody's card\n") == RENDERED
    assert merge("# no place\n", "# nothing\n") == "# no place\n"
    assert merge(RENDERED, RENDERED) == RENDERED


def test_line_ends_of_a_web_form_are_read() -> None:
    edited = EXISTING.replace("\n", "\r\n")
    assert merge(RENDERED, edited) == merge(RENDERED, EXISTING)
    assert only_parts_changed(edited.replace("# old", "# a"), sha256_bytes(RENDERED.encode()))


@pytest.mark.parametrize(
    "existing",
    [
        "<!-- hand-written: notes -->\nnever closed\n",
        "<!-- end of hand-written: notes -->\n",
        "<!-- hand-written: a -->\n<!-- end of hand-written: b -->\n",
        "<!-- hand-written: a -->\n<!-- hand-written: b -->\n<!-- end of hand-written: a -->\n<!-- end of hand-written: b -->",
        "<!-- hand-written: a -->\n<!-- end of hand-written: a -->\n" * 2,
        "<!-- hand-written: A name! -->\n<!-- end of hand-written: A name! -->\n",
        "x" * 1_100_000,
    ],
)
def test_markers_that_do_not_pair_stop_the_release(existing: str) -> None:
    with pytest.raises(CheckFailedError, match=r"^org/name: README\.md: "):
        merge(RENDERED, existing, "org/name: README.md")


def test_a_template_may_not_fill_a_part() -> None:
    with pytest.raises(InputError, match="leave it empty"):
        merge(EXISTING, "")


def test_a_marker_inside_a_line_is_text() -> None:
    assert hand_written("say `<!-- hand-written: notes -->` to keep it", "here") == {}


def test_the_difference_is_shown_and_obeys_nothing() -> None:
    shown = difference("# a\nred\x1b[31m\n", "# a\nblue\n", "README.md")
    assert shown.splitlines()[:2] == ["--- published/README.md", "+++ new/README.md"]
    assert "-red\\x1b[31m" in shown
    assert "+blue" in shown
    assert difference(RENDERED, RENDERED, "README.md") == ""
    long = difference("\n".join(map(str, range(500))), "", "README.md").splitlines()
    assert len(long) == MOST_LINES + 1
    assert long[-1].endswith("lines more")


def test_a_card_of_markers_alone_is_refused_before_anybody_looks_for_partners() -> None:
    with pytest.raises(CheckFailedError, match=r"the card: has 20,000 markers of hand-written parts; at most 100"):
        hand_written("<!-- hand-written: a -->\n" * 20_000, "the card")


def test_lines_that_people_wrote_are_counted() -> None:
    assert hand_written_lines(RENDERED) == []
    assert [EXISTING.splitlines()[number - 1] for number in hand_written_lines(EXISTING)] == ["Mine, 42.", "  spaced"]
    merged = merge(RENDERED, EXISTING + "\n<!-- hand-written: thanks -->\nTo all.\n<!-- end of hand-written: thanks -->\n")
    for text in (merged, merged.replace("\n", "\r\n"), merged + "Below all.\n"):
        found = [text.splitlines()[number - 1] for number in hand_written_lines(text)]
        assert found == ["Mine, 42.", "  spaced", "To all.", *(["Below all."] if "Below" in text else [])]
