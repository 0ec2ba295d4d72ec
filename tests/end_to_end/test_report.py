"""The report and the card of a real release: opened, published, written into by hand, and published again."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard, parse_eval_result_entries

from release.hub.local import LocalHub
from release.pipeline import stage_names
from tests.browser import browser, visit
from tests.end_to_end.conftest import MANIFEST, Release, copy_manifests, run_command

WEIGHTS = "moe-release/tiny-gemma4-4e"
PICTURES = ("experts", "outcomes", "quants", "results")


@pytest.mark.browser
@pytest.mark.parametrize(("name", "width", "height"), [("desktop", 1280, 900), ("phone", 390, 844)])
def test_the_report_of_a_release_in_a_browser(release: Release, tmp_path: Path, name: str, width: int, height: int) -> None:
    file = release.work / "report.html"
    with browser() as running:
        found = visit(running, file, width=width, height=height)
        page = found.page
        page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
        assert found.said == []
        assert [each for each in found.requests if not each.startswith("data:")] == [file.as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("main img").count() == len(PICTURES)
        assert page.locator("main img").evaluate_all("all => all.every(each => each.complete && each.naturalWidth > 0)")
        assert page.locator("#questions-count").inner_text() == "240 rows"
        assert page.locator("#seconds-count").inner_text() == "4 rows"
        claims = json.loads((release.work / "card" / "claims.json").read_text())
        assert page.locator("#claims-count").inner_text() == f"{len(claims)} rows"
        assert page.locator("#warnings li").count() > 0
        assert f"{release.summary['scores']['Q6_K']['patched_correct']} of 240" in page.locator("#results-table").inner_text()
    assert str(release.work) not in file.read_text(encoding="utf-8")
    assert (tmp_path / f"{name}.png").stat().st_size > 50_000


def test_the_report_alone_builds_nothing_and_says_what_is_missing(release: Release, tmp_path: Path) -> None:
    (release.work / "report.html").rename(tmp_path / "before.html")
    shown = json.loads(run_command("report", release.manifest, "--work", release.work, "--json").stdout)
    assert shown["report"] == str(release.work / "report.html")
    once = (release.work / "report.html").read_bytes()
    run_command("report", release.manifest, "--work", release.work)
    assert (release.work / "report.html").read_bytes() == once
    missing = run_command("report", release.manifest, "--work", tmp_path / "empty", check=False)
    assert missing.returncode == 1
    assert missing.stderr.count("\n") == 1


def stage_times(page: Path) -> dict[str, float]:
    """Seconds by stage, as the page's table has them."""
    section = page.read_text(encoding="utf-8").partition('<section id="times"')[2].partition("</section>")[0]
    return {name: float(seconds) for name, seconds in re.findall(r'<td>([a-z]+)</td>\s*<td data-sort="([0-9.]+)"', section)}


def test_the_page_has_the_times_of_what_ran_after_it(release: Release) -> None:
    times = stage_times(release.work / "report.html")
    recorded = {path.stem: json.loads(path.read_text())["seconds"] for path in (release.work / "records").glob("*.json")}
    assert list(times)[-3:] == ["lock", "publish", "readback"]
    assert times == {name: recorded[name] for name in times}
    assert recorded.keys() & set(stage_names()) - times.keys() == {"preflight", "report"}
    run_command("report", release.manifest, "--work", release.work)
    assert stage_times(release.work / "report.html") == times


def test_pictures_are_published_as_locked(release: Release, tmp_path: Path) -> None:
    locked = json.loads((release.work / "lock.json").read_text())["outputs"]
    card = (release.work / "card" / "README.md").read_text()
    with LocalHub(release.hub) as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        for repo in (WEIGHTS, f"{WEIGHTS}-GGUF"):
            for name in (f"pictures/{each}.{form}" for each in PICTURES for form in ("png", "svg")):
                data = Path(api.hf_hub_download(repo, name, local_dir=tmp_path / repo)).read_bytes()
                assert hashlib.sha256(data).hexdigest() == locked[f"card/{name}"]["sha256"]
                assert "matplotlib" in locked[f"card/{name}"]["made_with"]
    assert "matplotlib" not in locked["card/README.md"]["made_with"]
    assert sorted(re.findall(r"!\[[^\]]{20,}\]\(pictures/([a-z]+)\.png\)", card)) == sorted(PICTURES)
    scores = ModelCard(card).data.eval_results
    assert scores is not None
    assert {each.metric_args["protocol"] for each in scores} == {"tiny-exam"}
    assert len(scores) == 4, "raw and patched of two quants, and of no other model"


class Again:
    """A copy of the release, to publish once more with another tag."""

    def __init__(self, release: Release, folder: Path) -> None:
        self.manifests = copy_manifests(folder / "manifests")
        self.work = folder / "build" / "tiny"
        shutil.copytree(release.work, self.work, ignore=shutil.ignore_patterns(".lock", "analysis"))
        shutil.copytree(release.hub, folder / "build" / "hub", ignore=shutil.ignore_patterns("*.lock"))
        self.hub = folder / "build" / "hub"

    def edit(self, old: str, new: str, name: str = MANIFEST) -> None:
        text = (self.manifests / name).read_text()
        assert text.count(old) == 1
        (self.manifests / name).write_text(text.replace(old, new))

    def publish(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run_command(
            "cut", self.manifests / MANIFEST, "--work", self.work, "--hub", "local", "--update-lock", *words, check=check
        )

    def card(self, new: tuple[str, str] | None = None) -> str:
        """The published card, after an edit on the Hub's page if one is given."""
        with LocalHub(self.hub) as hub:
            api = HfApi(endpoint=hub.endpoint, token=hub.token)
            folder = self.work.parent / "download"
            path = Path(api.hf_hub_download(WEIGHTS, "README.md", local_dir=folder, force_download=True))
            text = path.read_text(encoding="utf-8")
            if new:
                assert new[0] in text
                text = text.replace(*new)
                api.upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id=WEIGHTS)
            return text


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_what_people_wrote_into_the_published_card_is_kept(release: Release, tmp_path: Path) -> None:
    again = Again(release, tmp_path)
    slot = "<!-- hand-written: notes -->\n"
    again.card((slot, f"{slot}Thanks to *Ada*.\n\n"))
    again.edit("tag: v1", "tag: v2")
    again.edit("It is of no other use.", "Nothing else.", "tiny-gemma4-4e.md")
    shown = again.publish("--json")
    assert "-It exists to show and test a whole release. It is of no other use." in shown.stderr, "the change is shown"
    assert "+It exists to show and test a whole release. Nothing else." in shown.stderr
    card = again.card()
    assert f"{slot}Thanks to *Ada*.\n\n<!-- end" in card
    assert "Nothing else." in card
    assert card.replace("Thanks to *Ada*.\n\n", "") == (again.work / "card" / "README.md").read_text()
    done = {each["stage"]: each["status"] for each in json.loads(shown.stdout)["stages"]}
    assert (done["publish"], done["readback"]) == ("done", "done")


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_card_that_somebody_changed_is_not_overwritten_unasked(release: Release, tmp_path: Path) -> None:
    again = Again(release, tmp_path)
    again.card(("## Architecture", "## My own heading"))
    again.edit("tag: v1", "tag: v2")
    refused = again.publish(check=False)
    assert refused.returncode == 1
    assert "-## My own heading" in refused.stderr
    assert refused.stderr.strip().splitlines()[-1].count("or say --replace-card") == 1
    assert "## My own heading" in again.card()
    again.publish("--replace-card")
    assert "## My own heading" not in again.card()


def test_the_page_keeps_what_a_person_accepted_with_the_new_lock(release: Release, tmp_path: Path) -> None:
    again = Again(release, tmp_path)
    again.edit("It is of no other use.", "Nothing else.", "tiny-gemma4-4e.md")
    again.publish("--until", "lock")
    page = again.work / "report.html"
    assert "accepted with --update-lock" in page.read_text(encoding="utf-8")
    run_command("report", again.manifests / MANIFEST, "--work", again.work)
    assert "accepted with --update-lock" not in page.read_text(encoding="utf-8"), "it is the lock now"


def test_own_templates_are_used_and_locked(release: Release, tmp_path: Path) -> None:
    again = Again(release, tmp_path)
    again.edit("card: {prose", "card: {templates: mine, prose")
    (again.manifests / "mine").mkdir()
    template = again.manifests / "mine" / "weights_card.md.j2"
    template.write_text('{% extends "weights_card.md.j2" %}\n{% block use %}\n\n## How to run {{ name }}\n{% endblock %}\n')
    words = ("--until", "lock")
    again.publish(*words)
    card = (again.work / "card" / "README.md").read_text()
    assert "\n## How to run tiny-gemma4-4e\n" in card
    assert "AutoModelForCausalLM" not in card
    locked = json.loads((again.work / "lock.json").read_text())["inputs"]["files"]
    assert locked["mine/weights_card.md.j2"]["sha256"] == hashlib.sha256(template.read_bytes()).hexdigest()
    template.write_text(template.read_text().replace("How to run", "Running"))
    refused = run_command("cut", again.manifests / MANIFEST, "--work", again.work, "--hub", "local", *words, check=False)
    assert refused.returncode == 1
    assert "mine/weights_card.md.j2" in refused.stderr


def test_a_release_for_a_leaderboard_publishes_its_scores_there(release: Release, tmp_path: Path) -> None:
    again = Again(release, tmp_path)
    again.edit("card: {prose", "card: {leaderboard: {dataset: org/exam, task: diamond}, prose")
    again.edit("tag: v1", "tag: v2")
    again.publish("--skip", "readback")
    name = ".eval_results/tiny-exam.yaml"
    with LocalHub(again.hub) as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        assert name in api.list_repo_files(WEIGHTS)
        text = Path(api.hf_hub_download(WEIGHTS, name, local_dir=tmp_path / "read")).read_text()
    entries = parse_eval_result_entries(yaml.safe_load(text))
    scores = {quant: json.loads((again.work / "eval" / quant / "evidence.json").read_text()) for quant in ("Q6_K", "Q4_K_M")}
    assert [(each.dataset_id, each.task_id, each.value) for each in entries] == [
        ("org/exam", "diamond", round(100 * run["raw_correct"] / run["total"], 2)) for run in scores.values()
    ]
    assert entries[0].source_url == f"https://huggingface.co/{WEIGHTS}/blob/main/reproduce/evidence/Q6_K.json"
