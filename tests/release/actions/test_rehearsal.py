"""What a rehearsal may remove, and what it refuses; whole rehearsals stand in tests/end_to_end/test_publishing.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruner.errors import CheckFailedError, InputError
from release.actions.promotion import promote
from release.actions.rehearsal import rehearsable, scratch_hub
from release.context import Context
from release.hub.endpoint import HubTarget
from release.hub.local import LocalHub
from release.manifest import load_manifest

TEXT = "schema: moe-release/v1\nname: small\nbase: {path: base}\nprune: {experts: 6, drop_map: {path: map.json}}\n"


def test_only_the_hub_of_an_earlier_rehearsal_is_removed(tmp_path: Path) -> None:
    folder = scratch_hub(tmp_path)
    assert folder == tmp_path / "hub"
    with LocalHub(folder):
        pass
    assert (folder / "hub.json").exists()
    assert not scratch_hub(tmp_path).exists()
    folder.mkdir()
    (folder / "photo.png").write_bytes(b"png")
    with pytest.raises(CheckFailedError, match="is no rehearsal Hub"):
        scratch_hub(tmp_path)
    assert (folder / "photo.png").exists()


def test_a_manifest_that_publishes_nothing_is_not_rehearsed(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(TEXT)
    with pytest.raises(InputError, match="has no publish section"):
        rehearsable(load_manifest(tmp_path / "m.yaml"))


def test_what_was_never_published_is_not_promoted(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(f"{TEXT}publish: {{weights: org/small}}\n")
    context = Context(load_manifest(tmp_path / "m.yaml"), tmp_path / "work")
    context.options = type(context.options)(hub=HubTarget("http://127.0.0.1:9", "hf_" + "x" * 34))
    with pytest.raises(CheckFailedError, match="publish has not been run"):
        promote(context)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("gated: sometimes", "publish.gated"),
        ("supersedes: {gguf: org/old}", "publish.supersedes.gguf needs publish.gguf"),
        ("supersedes: no slash", "publish.supersedes"),
        ('collection: ""', "publish.collection"),
    ],
)
def test_impossible_settings_are_one_line(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "m.yaml").write_text(f"{TEXT}publish:\n  weights: org/small\n  {line}\n")
    with pytest.raises(InputError, match=said) as caught:
        load_manifest(tmp_path / "m.yaml")
    assert "\n" not in str(caught.value)


def test_one_older_repository_may_be_named_alone(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(f"{TEXT}publish: {{weights: org/small, gated: false, supersedes: org/old}}\n")
    publish = load_manifest(tmp_path / "m.yaml").content.publish
    assert publish is not None
    assert publish.supersedes is not None
    assert (publish.supersedes.weights, publish.supersedes.gguf, publish.gated) == ("org/old", None, False)
