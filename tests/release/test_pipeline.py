"""The loop around stages, with real stage values of our own instead of hours of work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pruner.errors import CheckFailedError, InputError
from pruner.progress import NoProgress
from release import pipeline
from release.context import Context, Options
from release.manifest import load_manifest
from release.pipeline import run_pipeline
from release.records import read_record
from release.stages.stage import Stage

MANIFEST = "schema: moe-release/v1\nname: x\nbase: {path: base}\n"


class Told(NoProgress):
    """Keeps the lines that stay."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


class Counter:
    """Stages that write one file each and count their runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.runs: list[str] = []
        self.progress = Told()
        self.input = "1"
        (tmp_path / "x.yaml").write_text(MANIFEST)
        self.manifest = load_manifest(tmp_path / "x.yaml")
        self.work = tmp_path / "work"
        stages = (self.stage("a"), self.stage("b", needs=("a",)), self.stage("c", needs=("b",)), self.stage("d"))
        monkeypatch.setattr(pipeline, "STAGES", stages)

    def stage(self, name: str, needs: tuple[str, ...] = ()) -> Stage:
        def run(context: Context) -> str:
            self.runs.append(name)
            context.work.mkdir(exist_ok=True)
            (context.work / name).write_text(f"{name}{self.input if name == 'a' else ''}")
            return f"made {name}"

        def inputs(context: Context) -> list[str]:
            return [self.input] if name == "a" else [context.made_by(each) for each in needs]

        return Stage(name, f"making {name}", run, inputs, lambda context: (context.work / name,), needs=needs)

    def run(self, **options: object) -> dict[str, tuple[str, str]]:
        self.runs.clear()
        context = Context(self.manifest, self.work, Options(**options), self.progress)  # type: ignore[arg-type]
        return {result.stage: (result.status, result.detail) for result in run_pipeline(context)}


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    return Counter(monkeypatch, tmp_path)


def test_a_second_run_does_nothing_and_a_change_runs_only_what_depends_on_it(counter: Counter) -> None:
    assert set(counter.run().values()) == {("done", f"made {name}") for name in "abcd"}
    assert set(counter.run().values()) == {("up to date", "")}
    assert counter.runs == []
    counter.input = "2"
    counter.run()
    assert counter.runs == ["a", "b"], "b made the same bytes again, so c is up to date"


def test_a_damaged_output_is_made_again_and_named(counter: Counter) -> None:
    counter.run()
    (counter.work / "b").write_text("x")
    counter.run()
    assert counter.runs == ["b"]
    (counter.work / "c").unlink()
    counter.run()
    assert counter.runs == ["c"]
    said = "is gone or was changed since it was made; it is made again"
    assert counter.progress.lines == [f"making b: b {said}", f"making c: c {said}"]


def test_what_passes_through_may_be_deleted_until_it_is_needed(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c, d = pipeline.STAGES
    monkeypatch.setattr(pipeline, "STAGES", (a, replace(b, passing=True), c, d))
    counter.run()
    (counter.work / "b").unlink()
    assert counter.run()["b"] == ("up to date", "deleted, and not needed")
    assert (counter.runs, counter.progress.lines) == ([], [])
    (counter.work / "c").unlink()
    assert counter.run(skip=frozenset("b"))["c"] == ("skipped", "needs b, which was skipped")
    assert counter.run()["c"] == ("done", "made c")
    assert counter.runs == ["b", "c"]
    (counter.work / "b").unlink()
    assert counter.run(skip=frozenset("b"))["c"] == ("up to date", "")
    assert counter.run(until="b")["b"] == ("done", "made b"), "who names it wants it"
    (counter.work / "b").write_text("damaged")
    counter.run()
    assert counter.runs == ["b"]


def test_a_lost_record_is_made_again(counter: Counter) -> None:
    counter.run()
    (counter.work / "records" / "d.json").write_text("{")
    counter.run()
    assert counter.runs == ["d"]


def test_skipping_reaches_everything_that_needs_it(counter: Counter) -> None:
    result = counter.run(skip=frozenset({"a"}))
    assert result["a"] == ("skipped", "--skip")
    assert result["b"] == ("skipped", "needs a, which was skipped")
    assert result["c"] == ("skipped", "needs b, which was skipped")
    assert result["d"][0] == "done"
    counter.run()
    assert counter.run(skip=frozenset({"a"}))["b"][0] == "up to date", "what is up to date may be used"
    counter.input = "2"
    stale = counter.run(skip=frozenset({"a"}))
    assert stale["b"] == ("skipped", "needs a, which was skipped"), "what is outdated may not"
    counter.input = "1"
    (counter.work / "a").write_text("damaged")
    assert counter.run(skip=frozenset({"a"}))["b"][0] == "skipped"


def test_until_stops_after_its_stage(counter: Counter) -> None:
    assert list(counter.run(until="b")) == ["a", "b"]


def test_unknown_stages_are_refused_before_anything_runs(counter: Counter) -> None:
    with pytest.raises(InputError, match="no stage is called 'e'; the stages are a, b, c, d"):
        counter.run(skip=frozenset({"e"}))
    assert counter.runs == []


def test_an_error_names_its_stage_and_leaves_no_record(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_context: Context) -> str:
        raise CheckFailedError("x: wrong; mend it")

    monkeypatch.setattr(pipeline, "STAGES", (counter.stage("a"), Stage("b", "making b", fail), counter.stage("d")))
    with pytest.raises(CheckFailedError, match=r"^making b: x: wrong; mend it$"):
        counter.run()
    assert counter.runs == ["a"]
    assert not (counter.work / "records" / "b.json").exists()


def test_a_stage_tells_what_came_after_it_and_stays_up_to_date(monkeypatch: pytest.MonkeyPatch, counter: Counter) -> None:
    """`c` writes down which stages have a record; `d` gets its own later."""

    def told(context: Context) -> None:
        found = [name for name in "abcd" if read_record(context.work, name)]
        (context.work / "c").write_text(" ".join(found))

    stages = [replace(stage, again=told) if stage.name == "c" else stage for stage in pipeline.STAGES]
    monkeypatch.setattr(pipeline, "STAGES", stages)
    counter.run(until="c")
    assert (counter.work / "c").read_text() == "c", "nothing came after it"
    assert [status for status, _ in counter.run().values()] == ["up to date"] * 3 + ["done"]
    assert (counter.work / "c").read_text() == "a b c d"
    assert {status for status, _ in counter.run().values()} == {"up to date"}
    (counter.work / "d").unlink()
    (counter.work / "c").write_text("theirs")
    counter.run(skip=frozenset({"c"}))
    assert (counter.work / "c").read_text() == "theirs", "a stage that is left out writes nothing"


def test_a_page_about_inputs_that_the_run_itself_changed_stays(monkeypatch: pytest.MonkeyPatch, counter: Counter) -> None:
    def changes(_context: Context) -> str:
        counter.input = "2"
        return ""

    def never(_context: Context) -> None:
        pytest.fail("what the page said before is lost")

    monkeypatch.setattr(
        pipeline,
        "STAGES",
        (replace(pipeline.STAGES[0], again=never), replace(pipeline.STAGES[3], run=changes, outputs=lambda _: ())),
    )
    assert [status for status, _ in counter.run().values()] == ["done", "done"]
