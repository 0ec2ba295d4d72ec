from __future__ import annotations

from pathlib import Path

import pytest

from pruner.base_identity import BaseIdentity, identity_of, named_base, require_same_base
from pruner.errors import InputError
from pruner.hub_source import HubSource
from pruner.sources import LocalSource

ONE, OTHER = "1" * 40, "2" * 40


def test_repositories_and_cache_snapshots_show_what_they_are_and_folders_do_not(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--base" / "snapshots" / ONE
    assert identity_of(HubSource("org/base", ONE, {})) == BaseIdentity("org/base", ONE)
    assert identity_of(LocalSource(snapshot)) == BaseIdentity("org/base", ONE)
    assert identity_of(LocalSource(snapshot.with_name("main"))) == BaseIdentity()
    assert identity_of(LocalSource(tmp_path / "base")) == BaseIdentity()


@pytest.mark.parametrize(
    ("provenance", "expected"),
    [
        ({}, BaseIdentity()),
        ({"base_model": "org/base"}, BaseIdentity()),
        ({"base_model": {"name": 3, "revision": "main"}}, BaseIdentity()),
        ({"base_model": {"name": "base", "revision": None}}, BaseIdentity("base")),
        ({"base_model": {"name": "org/base", "revision": ONE}}, BaseIdentity("org/base", ONE)),
    ],
)
def test_envelopes_name_a_base_or_do_not(provenance: dict[str, object], expected: BaseIdentity) -> None:
    assert named_base(provenance) == expected


def test_the_same_commit_is_the_same_base() -> None:
    assert require_same_base(BaseIdentity("org/base", ONE), BaseIdentity("mirror/base", ONE), "map") is None


@pytest.mark.parametrize(
    ("named", "found"),
    [
        (BaseIdentity("org/base", ONE), BaseIdentity("org/base", OTHER)),
        (BaseIdentity("org/base"), BaseIdentity("org/twin", OTHER)),
    ],
)
def test_another_base_is_refused(named: BaseIdentity, found: BaseIdentity) -> None:
    with pytest.raises(InputError, match=r"map.json: was made for org/base.*, the base is org/\w+@2222"):
        require_same_base(named, found, "map.json")


@pytest.mark.parametrize(
    ("named", "found", "words"),
    [
        (BaseIdentity(), BaseIdentity("org/base", ONE), "map.json does not say for which base it was made"),
        (BaseIdentity("base"), BaseIdentity("org/base", ONE), "names base without a commit"),
        (BaseIdentity("org/base", ONE), BaseIdentity(), "was made for org/base@111111111111, and a plain folder"),
    ],
)
def test_what_cannot_be_compared_is_said(named: BaseIdentity, found: BaseIdentity, words: str) -> None:
    assert words in str(require_same_base(named, found, "map.json"))
