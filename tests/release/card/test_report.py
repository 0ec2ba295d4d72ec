"""The report: what it says, what a browser makes of it, and that nothing foreign runs in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from release.card.claims import Claim
from release.card.concerns import Concern, lock_warnings, overlap_warnings, run_warnings, table_warnings
from release.card.facts import run_facts
from release.card.report import (
    Report,
    claims_table,
    digests_table,
    inline_picture,
    questions_table,
    render_report,
    results_table,
    seconds_table,
    times_table,
)
from release.card.table import Entry, Row, rows
from release.evaluation.evidence import Evidence, read_evidence, totals
from release.evaluation.timing import QuestionSeconds, Timing
from release.lock import Difference, Lock, LockedBase, LockedFile, LockedInputs
from release.records import Output, Record
from release.reported import Reported
from tests.browser import Visit, browser, visit
from tests.conftest import MANIFESTS

REFERENCE = read_evidence(MANIFESTS / "tiny" / "evidence" / "tiny-gemma4-16e-Q6_K.json")
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>\"'"
SECONDS = (
    QuestionSeconds(question_digest="a" * 64, raw=0.25),
    QuestionSeconds(question_digest="b" * 64, raw=0.5),
    QuestionSeconds(question_digest="c" * 64, raw=1200.25, patch=0.125),
)
TIMING = Timing(protocol_digest="d" * 64, model_sha256="e" * 64, questions=SECONDS)
UNPATCHED = TIMING.model_copy(update={"questions": SECONDS[:2]})
SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 1"><script>parent.document.title="owned"</script>'
    b'<rect width="2" height="1"/></svg>'
)


def changed(*, wrong: int = 0, **fields: object) -> Evidence:
    questions = []
    for question in REFERENCE.questions:
        update = {"raw_correct": False} if wrong and question.outcome == "valid" and question.raw_correct else {}
        wrong -= len(update)
        questions.append(question.model_copy(update=update))
    return REFERENCE.model_copy(update={"questions": tuple(questions), **totals(tuple(questions)), **fields})


def entries() -> list[Row]:
    reported = Reported(correct=162, total=198, url="https://example.org/card", date="2026-05-01")
    return rows(
        [
            Entry("base", "b.json", REFERENCE, reference=True),
            Entry("variant", "v.json", changed(wrong=60)),
            Entry(HOSTILE, "m", reported=reported),
        ]
    )


def report() -> Report:
    files = {
        f"weights/model-{number}.safetensors": LockedFile(sha256=f"{number:064x}", size=10**number) for number in range(10)
    }
    lock = Lock(
        name="variant",
        inputs=LockedInputs(base=LockedBase(name="base", files={"config.json": LockedFile(sha256="c" * 64, size=5)})),
        outputs=files,
    )
    records = [
        Record(name, "f", {"a": Output("d", 1, 1)}, seconds, 10**9) for name, seconds in (("prune", 9.5), ("eval", 80.0))
    ]
    return Report(
        name="variant",
        summary=f"About {HOSTILE}",
        warnings=[Concern("stop", "do not"), Concern("look", HOSTILE)],
        tables=[
            results_table(entries()),
            claims_table({"a.b": {"shown": "7", "value": 7, "unit": "count", "source": HOSTILE}}),
            questions_table({"Q6_K": REFERENCE, "Q4_K_M": changed(wrong=60)}),
            seconds_table({"Q6_K": TIMING}),
            times_table(records),
            digests_table(lock, {"weights/model-3.safetensors": "changed"}),
        ],
        pictures=[inline_picture(SVG, f"A picture {HOSTILE}")],
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_report(report()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    with browser() as found:
        yield found


def test_the_page_stands_alone_and_foreign_text_is_text(file: Path) -> None:
    class Tags(HTMLParser):
        found: list[tuple[str, dict[str, str | None]]]

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.found.append((tag, dict(attrs)))

    tags = Tags()
    tags.found = []
    text = file.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    tags.feed(text)
    assert [attributes for tag, attributes in tags.found if tag == "script"] == [{}]
    addresses = [value for _, attributes in tags.found for name, value in attributes.items() if name in ("src", "href")]
    assert all(str(each).startswith(("data:", "#")) for each in addresses)
    assert not [attributes for _, attributes in tags.found if any(name.startswith(("on", "style")) for name in attributes)]
    policy = next(str(attributes["content"]) for _, attributes in tags.found if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert text == render_report(report()), "equal reports are equal bytes"


def test_warnings_come_first(file: Path) -> None:
    order = re.findall(r"<h2 id=\"([a-z]+)-title\"", file.read_text(encoding="utf-8"))
    assert order == ["warnings", "results", "pictures", "claims", "questions", "seconds", "times", "digests"]


def test_seconds_per_question_are_shown_first_replies_and_patches_apart() -> None:
    shown = [[cell.text for cell in row] for row in seconds_table({"Q6_K": TIMING, "Q4_K_M": UNPATCHED}).rows]
    assert shown == [
        ["Q6_K", "first reply", "3", "0.500", "1,200.250", "1,201.000"],
        ["Q6_K", "patch", "1", "0.125", "0.125", "0.125"],
        ["Q4_K_M", "first reply", "2", "0.375", "0.500", "0.750"],
    ]


def test_seconds_are_not_called_as_locked() -> None:
    entry = LockedFile(sha256="a" * 64, size=1)
    outputs = {"eval/Q6_K/timing.json": entry.model_copy(update={"varies": True}), "eval/Q6_K/evidence.json": entry}
    lock = Lock(name="x", inputs=LockedInputs(base=LockedBase(name="base", files={})), outputs=outputs)
    assert [row[3].text for row in digests_table(lock, {}).rows] == ["varies", "as locked"]
    assert digests_table(lock, {"eval/Q6_K/timing.json": "new"}).rows[0][3].text == "new"


def test_no_text_of_a_question_stands_in_it(file: Path, manifests: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert REFERENCE.questions[0].id in text
    questions = re.findall(r'"Question": "([^"]{20,})"', (manifests / "tiny/exam/held_out.jsonl").read_text(encoding="utf-8"))
    assert len(questions) == 240
    assert not [each for each in questions if each in text]


@pytest.mark.browser
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_without_a_word_in_the_console(
    running: Browser, file: Path, width: int, height: int, scheme: str
) -> None:
    found = visit(running, file, width=width, height=height, scheme=scheme)
    assert found.said == []
    assert [each for each in found.requests if not each.startswith("data:")] == [file.as_uri()]
    assert found.page.title() == "variant: release report"
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    assert found.page.locator("main img").evaluate("each => each.naturalWidth") > 0
    small = found.page.locator("main button, main input, nav a").evaluate_all(
        "all => all.filter(each => each.getBoundingClientRect().height < 24).length"
    )
    assert small == 0, "too small for a finger"
    assert _contrast(found) >= 4.5
    found.page.close()


TOO_WIDE = """() => {
    const boxes = Array.from(document.querySelectorAll(".scroll"));
    const right = (element) => element.getBoundingClientRect().right;
    return {
        page: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        scrolling: boxes.filter((each) => each.scrollWidth > each.clientWidth).map((each) => each.firstElementChild.id),
        cut: boxes.filter((each) => ["hidden", "clip"].includes(getComputedStyle(each).overflowX)
            || (each.scrollWidth > each.clientWidth && each.tabIndex !== 0)).length,
        cells: Array.from(document.querySelectorAll("td, th")).filter((each) => each.scrollWidth > each.clientWidth + 1).length,
        outside: Array.from(document.querySelectorAll("main *:not(.scroll *)"))
            .filter((each) => right(each) > innerWidth).length,
    };
}"""


@pytest.mark.browser
@pytest.mark.parametrize(
    ("width", "media", "scrolling"),
    [
        (1280, "screen", []),
        (768, "screen", []),
        (390, "screen", ["results-table", "seconds-table"]),
        (718, "print", []),  # A4 without the browser's margins
    ],
)
def test_no_column_is_cut(running: Browser, file: Path, width: int, media: str, scrolling: list[str]) -> None:
    found = visit(running, file, width=width, scheme="dark")
    found.page.emulate_media(media=media)  # type: ignore[arg-type]
    wide = found.page.evaluate(TOO_WIDE)
    assert set(wide.pop("scrolling")) <= set(scrolling), "only a table that cannot be narrower scrolls, inside its own box"
    assert set(wide.values()) == {0}, wide
    assert found.page.locator("td.number, th button, td.code, td.words").first.is_visible()
    found.page.close()


@pytest.mark.browser
def test_on_paper_it_is_dark_on_white_and_whole(running: Browser, file: Path) -> None:
    found = visit(running, file, width=718, scheme="dark")
    assert found.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
    found.page.emulate_media(media="print")
    assert found.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert _contrast(found) >= 4.5
    boxes = "Array.from(document.querySelectorAll('.scroll'))"
    assert found.page.evaluate(f"{boxes}.every((each) => each.scrollHeight <= each.clientHeight)"), "rows are cut off"
    assert not found.page.locator("main input").first.is_visible()
    found.page.close()


def _contrast(found: Visit) -> float:
    """The least contrast of a text with what is behind it (WCAG 2.2, 1.4.3)."""
    return float(
        found.page.evaluate(
            """() => {
                const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
                const light = (colour) => channels(colour).slice(0, 3)
                    .map((each) => each / 255)
                    .map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
                    .reduce((sum, each, index) => sum + each * [0.2126, 0.7152, 0.0722][index], 0);
                const behind = (element) => {
                    for (; element; element = element.parentElement) {
                        const colour = getComputedStyle(element).backgroundColor;
                        if ((channels(colour)[3] ?? 1) > 0) return colour;
                    }
                    return "rgb(255, 255, 255)";
                };
                const all = document.querySelectorAll("h1, h2, p, a, td, button, li, strong, label, output, input");
                return Math.min(...Array.from(all).map((each) => {
                    const [first, second] = [light(getComputedStyle(each).color), light(behind(each))];
                    return (Math.max(first, second) + 0.05) / (Math.min(first, second) + 0.05);
                }));
            }"""
        )
    )


@pytest.fixture
def page(running: Browser, file: Path) -> Iterator[Page]:
    found = visit(running, file)
    yield found.page
    assert found.said == []
    found.page.close()


def column(page: Page, table: str, number: int) -> list[str]:
    cells = page.locator(f"#{table}-table tbody tr:not([hidden]) td:nth-child({number})")
    return [each.strip() for each in cells.all_inner_texts()]


@pytest.mark.browser
def test_the_keyboard_alone_reaches_and_works_everything(page: Page) -> None:
    order = []
    for _ in range(20):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.textContent.trim() || document.activeElement.id"))
    assert order[:3] == ["To the warnings", "Warnings", "Results"]
    assert page.locator(":focus-visible").count() == 1
    start = order.index("results-filter")
    assert order[start + 2 : start + 5] == ["Model", "Quant", "Correct, raw → patched"]
    page.locator("#results-table th:nth-child(6) button").focus()
    page.keyboard.press("Enter")
    assert column(page, "results", 6) == ["62.92 %", "81.82 %", "87.92 %"]
    assert page.locator("#results-table th:nth-child(6)").get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Space")
    assert column(page, "results", 6)[0] == "87.92 %"
    assert page.locator("#results-table th:nth-child(6)").get_attribute("aria-sort") == "descending"
    assert page.locator("#results-table th[aria-sort]").count() == 1


@pytest.mark.browser
def test_numbers_sort_as_numbers(page: Page) -> None:
    page.locator("#digests-table th:nth-child(3) button").click()
    sizes = column(page, "digests", 3)
    assert sizes[:3] == ["1 bytes", "5 bytes", "10 bytes"]
    assert sizes[-1] == "1.00 GB (0.93 GiB)"
    page.locator("#times-table th:nth-child(2) button").click()
    assert column(page, "times", 2) == ["9.5", "80.0"]


@pytest.mark.browser
def test_a_filter_has_a_label_and_says_how_many_rows_are_left(page: Page) -> None:
    box = page.get_by_role("searchbox", name="Show rows with").nth(2)
    assert box.get_attribute("id") == "questions-filter"
    expected = sum(first.outcome == "truncated" and first.correct for first in REFERENCE.questions)
    box.fill("TRUNCATED right")
    shown = column(page, "questions", 2)
    assert len(shown) == expected
    assert all("truncated" in each and "right" in each for each in shown)
    assert page.locator("#questions-count").inner_text() == f"{expected} of 240 rows"
    box.fill("nothing like it")
    assert page.locator("#questions-count").inner_text() == "0 of 240 rows"
    box.fill("")
    assert len(column(page, "questions", 1)) == 240


@pytest.mark.browser
def test_every_table_control_and_picture_has_a_name(page: Page) -> None:
    unnamed = page.evaluate(
        """() => Array.from(document.querySelectorAll("main button, main input, main img, main [role=region], nav"))
            .filter((each) => !(each.textContent.trim() || each.labels?.length || each.alt
                || each.getAttribute("aria-label") || document.getElementById(each.getAttribute("aria-labelledby"))))
            .length"""
    )
    assert unnamed == 0
    assert page.locator("main img").get_attribute("alt") == f"A picture {HOSTILE}"
    assert page.locator("h1").count() == 1


def words(concerns: Iterator[Concern]) -> list[tuple[str, str]]:
    return [(each.level, each.text) for each in concerns]


def test_what_differs_from_the_lock_stops() -> None:
    wrong, explained = Difference("a", "changed"), Difference("b", "changed", "locked with matplotlib 1, here 2")
    assert words(lock_warnings(None))[0][0] == "look"
    assert words(lock_warnings([])) == []
    assert words(lock_warnings([wrong, explained], ["the protocol"])) == [
        ("stop", "made from other inputs than the lock: the protocol"),
        ("stop", "other than the lock, and nothing explains it: a (changed)"),
        ("look", "not comparable with the lock: b (changed; locked with matplotlib 1, here 2)"),
    ]
    assert {each.level for each in lock_warnings([wrong], ["x"], accepted=True)} == {"look"}


def test_what_is_doubtful_in_a_run_is_said() -> None:
    def said(run: Evidence, reference: Evidence | None = REFERENCE) -> str:
        return "\n".join(each.text for each in run_warnings({"Q6_K": run}, [run_facts(run, 4)], reference))

    assert "no row is the reference" in said(REFERENCE, None)
    assert "worse than the reference" in said(changed(wrong=60))
    assert "worse" not in said(REFERENCE)
    assert "cannot be compared" in said(changed(protocol_digest="0" * 64))
    elsewhere = said(changed(unverified=("the model file",)))
    assert "not verified there: the model file" in elsewhere
    assert "delete eval/Q6_K/evidence.json from the work folder" in elsewhere
    assert "by more than its model" not in said(changed(quant="Q4_K_M"))
    assert "differs from the reference run by more than its model: llama.cpp " in said(changed(toolchain_commit="f" * 40))
    bad = REFERENCE.total - REFERENCE.outcomes["valid"]
    assert f"{bad} of 240 raw answers are not valid" in said(REFERENCE)


def test_rows_in_no_test_and_seen_questions_are_said() -> None:
    assert any("reported by others" in text for _, text in words(table_warnings(entries())))
    seen = {"overlap": Claim(3, "count", "x"), "exam": Claim(240, "count", "x")}
    assert "in-sample" in words(overlap_warnings(seen, evaluated=True))[0][1]
    assert words(overlap_warnings({**seen, "overlap": Claim(0, "count", "x")}, evaluated=True)) == []
    assert "nobody said" in words(overlap_warnings(None, evaluated=True))[0][1]
    assert "no score" in words(overlap_warnings(None, evaluated=False))[0][1]
