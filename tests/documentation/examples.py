"""What stands for the placeholders of the pages: a release on a Hub of the page's own, and files that a reader would have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pruner.files import sha256_bytes
from release.evaluation.protocol import load_protocol
from release.evaluation.server import LlamaServer
from release.gguf.toolchain import find_toolchain
from release.hub.local import LocalHub
from release.hub.remote import hub_api
from tests.documentation.pages import Command
from tests.documentation.sandbox import Sandbox
from tests.small_release import DROPPED

TINY, VARIANT, EVALUATED = (f"manifests/{name}.yaml" for name in ("tiny-gemma4-4e", "variant", "evaluated"))
BASE_FOLDER = "manifests/tiny/model"
SERVERS = ("http://10.0.0.5:8080", "http://10.0.0.6:8080")
VARIANT_TEXT = """schema: moe-release/v1
name: variant
base: {{repo: org/base, revision: {revision}}}
prune:
  experts: 4
  drop_map: {{path: variant-map.json, sha256: {digest}}}
publish: {{weights: org/variant, tag: v1, private: true}}
"""

VALUES: dict[str, dict[str, str]] = {
    "README.md": {"MANIFEST": VARIANT},
    "docs/how-to/evaluate.md": {"M.yaml": EVALUATED, "P.yaml": "manifests/protocols/tiny-exam.yaml"},
    "docs/how-to/experts.md": {
        "MANIFEST": TINY,
        "MAP": "drop_map.json",
        "OUT": "bare.json",
        "A": "drop_map.json",
        "B": "manifests/variant-map.json",
        "128": "16",
    },
    "docs/how-to/first-release.md": {"MANIFEST": VARIANT},
    "docs/how-to/other-places.md": {"manifest.yaml": EVALUATED},
    "docs/how-to/publish.md": {"MANIFEST": VARIANT},
    "docs/how-to/quants.md": {"MANIFEST": TINY, "FILE": "imatrix.gguf"},
    "docs/how-to/rebuild.md": {
        "MANIFEST": VARIANT,
        "BASE_FOLDER": BASE_FOLDER,
        "A": "rebuilt",
        "B": "other",
        "TARGET": "other",
        "BASE": "hf://org/base",
    },
}
"""What each page's placeholders stand for in a test; commits and servers are filled in by themselves."""

NOT_RUN = {
    "moe-release toolchain install -- -DGGML_CUDA=ON": "needs a CUDA compiler, and builds llama.cpp again",
}
"""Commands that no test can run, with the reason."""

OTHER_SHARDS = tuple(f"moe-release analyze {TINY} --shard {part}/3 --out part{part}.safetensors" for part in (1, 2))


def prepare(sandbox: Sandbox, folder: Path) -> None:
    """Put everything that the pages' commands need into a folder: `sandbox` holds a finished tiny release."""
    shutil.copytree(sandbox.folder / "manifests", folder / "manifests")
    shutil.copytree(sandbox.folder / "build", folder / "build", ignore=shutil.ignore_patterns("hub"))
    finished = folder / "build/tiny-gemma4-4e"
    shutil.copy(finished / "drop_map.json", folder)
    for name, quant in {"A.json": "Q6_K", "B.json": "Q4_K_M"}.items():
        shutil.copy(finished / "eval" / quant / "evidence.json", folder / name)
    shutil.copy(next((finished / "imatrix").glob("*.gguf")), folder / "imatrix.gguf")
    evaluated = (folder / TINY).read_text().replace("-exam.yaml\n  quants: [Q6_K, Q4_K_M]", "-exam.yaml\n  quants: [Q6_K]")
    (folder / EVALUATED).write_text(evaluated)
    with LocalHub(folder / "hub") as hub:
        local = Sandbox(folder, hub.environment())
        _publish_variant(local, hub)
        local.expect("quantize", "manifests/tiny-gemma4-16e.yaml")
    shutil.copy(folder / "build/tiny-gemma4-16e/gguf/tiny-gemma4-16e-Q6_K.gguf", folder / "BASE-Q6_K.gguf")


def _publish_variant(local: Sandbox, hub: LocalHub) -> None:
    """The base, a variant of it, and two prunes that somebody else uploaded."""
    api, folder = hub_api(hub.endpoint, hub.token), local.folder
    api.create_repo("org/base")
    revision = api.upload_folder(folder_path=folder / BASE_FOLDER, repo_id="org/base").oid
    drop_map = json.dumps(DROPPED).encode()
    (folder / "manifests/variant-map.json").write_bytes(drop_map)
    (folder / VARIANT).write_text(VARIANT_TEXT.format(revision=revision, digest=sha256_bytes(drop_map)))
    local.expect("cut", VARIANT)
    api.snapshot_download("org/variant", allow_patterns="reproduce/*", local_dir=folder)
    shutil.copytree(folder / "build/variant/weights", folder / "other")
    for repo, left_out in (("org/pruned", None), ("org/someones-prune", "expert_drop_metadata.json")):
        api.create_repo(repo)
        api.upload_folder(folder_path=folder / "other", repo_id=repo, ignore_patterns=left_out)
        api.create_tag(repo, tag="v1")


@dataclass
class Examples:
    """A page's own copy of all that, with its Hub and its servers running."""

    local: Sandbox
    hub: LocalHub
    _exits: ExitStack
    _servers: dict[str, str] = field(default_factory=dict)

    def run(self, command: Command) -> subprocess.CompletedProcess[str]:
        """A command with its placeholders filled in; what is not ours goes to a shell as it stands."""
        if command.words[0] != "moe-release":
            return self.local.shell(" ".join(command.words))
        self._make_way(command)
        return self.local.run(*self._filled(command)[1:])

    def _filled(self, command: Command) -> tuple[str, ...]:
        """The words of a command with its placeholders filled in, and patterns of files as a shell expands them."""
        values = VALUES.get(command.page, {})
        words: list[str] = []
        for word in command.words:
            found = values.get(word, word).replace("/NAME/", "/joined/")
            found = re.sub(r"hf://([\w/-]+)@COMMIT", lambda match: f"hf://{match[1]}@{self._commit(match[1])}", found)
            words += self._matching(found) if "*" in found else [self._server(found) if found in SERVERS else found]
        return tuple(words)

    def _make_way(self, command: Command) -> None:
        """What a reader would have done before a command: no folder is written over, no exam is taken twice."""
        folder = self.local.folder
        if "rebuilt" in command.words and command.words[1] in {"prune", "materialize"}:
            shutil.rmtree(folder / "rebuilt", ignore_errors=True)
        if command.words[1] == "eval":
            shutil.rmtree(folder / "build/tiny-gemma4-4e/eval")
            (folder / "build/tiny-gemma4-4e/records/eval.json").unlink()
        if command.words[1] == "merge":
            for each in OTHER_SHARDS:
                self.local.expect(*each.split()[1:])

    def _commit(self, repo: str) -> str:
        return str(hub_api(self.hub.endpoint, self.hub.token).model_info(repo).sha)

    def _matching(self, pattern: str) -> list[str]:
        return sorted(path.relative_to(self.local.folder).as_posix() for path in self.local.folder.glob(pattern))

    def _server(self, address: str) -> str:
        """A llama-server that somebody else might run there, with the evaluated quant."""
        if address not in self._servers:
            manifests = self.local.folder / "manifests"
            server = LlamaServer(
                binary=find_toolchain().binary("llama-server"),
                model=self.local.folder / "build/tiny-gemma4-4e/gguf/tiny-gemma4-4e-Q6_K.gguf",
                alias="theirs",
                protocol=load_protocol(manifests / "protocols/tiny-exam.yaml", manifests),
                log=self.local.folder / f"{len(self._servers)}.log",
            )
            self._servers[address] = self._exits.enter_context(server).url
        return self._servers[address]
