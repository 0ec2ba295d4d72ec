"""No published file names a folder of the machine that it was made on, wherever that lies."""

from __future__ import annotations

import shutil
from pathlib import Path

from release.hub.local import LocalHub
from release.hub.remote import hub_api
from tests.conftest import ROOT
from tests.end_to_end.conftest import run_command
from tests.small_release import REPO, write_small_release

PLACES = ("a base", "a cache", "a scratch", "a llama.cpp")


def test_base_cache_scratch_and_tools_are_known(tmp_path: Path) -> None:
    places = {name: tmp_path / "elsewhere" / name.removeprefix("a ") for name in PLACES}
    (tmp_path / "release").mkdir()
    manifest = write_small_release(tmp_path / "release")
    shutil.copytree(tmp_path / "release/tiny/model", places["a base"])
    for name in PLACES[1:]:
        places[name].mkdir()
    prose = "".join(f"Made with {name} in {place}/x.\n\n" for name, place in places.items())
    (manifest.parent / "words.md").write_text(f"Nothing is wrong here.\n\n{prose}")
    manifest.write_text(manifest.read_text().replace("license: apache-2.0", "license: apache-2.0, prose: words.md"))
    options = ("--base", places["a base"], "--llama-cpp", places["a llama.cpp"])
    with LocalHub(tmp_path / "hub") as hub:
        environment = {"HF_TOKEN": hub.token, "HF_HOME": str(places["a cache"]), "TMPDIR": str(places["a scratch"])}
        words = ("cut", manifest, "--work", tmp_path / "work", "--hub", hub.endpoint, *options)
        done = run_command(*words, check=False, **environment, PYTHONPATH=str(ROOT))
        assert done.returncode == 1
        assert done.stderr.count(" holds a path of this machine") == 5, done.stderr  # the most that are shown
        assert "and 3 more" in done.stderr, "each of the four, in the card and in its prose"
        assert not hub_api(hub.endpoint, hub.token).repo_exists(REPO)
