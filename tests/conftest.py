"""Fixtures that every test may use: small real checkpoints, the tiny model, the llama.cpp toolchain."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from release.gguf.toolchain import Toolchain

for name, value in {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DOWNLOAD_TIMEOUT": "300",
    "HF_HUB_ETAG_TIMEOUT": "300",
    "HF_DATASETS_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # two test processes whose threads wait for each other slow down a hundredfold
    "GOMP_SPINCOUNT": "0",
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(name, value)

FUZZ_TIMES = int(os.environ.get("FUZZ_TIMES", "1"))
"""How many times as many examples fuzz tests take; with more than one they are others each time (`make fuzz`)."""

# Neither timing nor chance decides a test, and a folder that all examples share is what most properties here want.
settings.register_profile(
    "house",
    deadline=None,
    derandomize=FUZZ_TIMES == 1,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("house")

ROOT = Path(__file__).resolve().parent.parent
MANIFESTS = ROOT / "manifests"
TINY_MODEL = MANIFESTS / "tiny" / "model"

CheckpointFactory = Callable[..., Path]

WITHOUT_TORCH = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "lm_eval", "datasets"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from release.cli import main
main()
"""
"""The command as the base install has it: none of the extras' packages can be imported."""


CLIENTS = tuple(ROOT / "tests" / folder for folder in ("documentation", "release/hub", "release/verification"))
"""Tests that upload with huggingface_hub themselves."""
CUTS = ROOT / "tests" / "end_to_end"
NEEDS = {"toolchain": ("llama",), "tiny_release": ("llama", "torch"), "tiny_gguf": ("llama", "torch")}
"""Marks of the tests that ask for a fixture."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they need.

    huggingface_hub 2.4.0 itself uses a parameter that its HTTP library has deprecated; everything else stays an error.
    """
    for item in items:
        if any(folder in item.path.parents for folder in CLIENTS):
            item.add_marker(pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"))
        fixtures = [*NEEDS] if CUTS in item.path.parents else getattr(item, "fixturenames", [])
        for mark in {mark for fixture in fixtures for mark in NEEDS.get(fixture, ())}:
            item.add_marker(mark)


@pytest.fixture(scope="session")
def manifests() -> Path:
    """The committed manifests."""
    return MANIFESTS


@pytest.fixture(scope="session")
def toolchain() -> Toolchain:
    """The llama.cpp of this machine."""
    from pruner.errors import UnavailableError
    from release.gguf.toolchain import find_toolchain

    try:
        return find_toolchain()
    except UnavailableError as error:
        pytest.skip(f"no llama.cpp: {error}")


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The committed tiny Gemma 4 MoE."""
    return TINY_MODEL


def gemma4_config(experts: int = 8, layers: int = 3, top_k: int = 2) -> dict[str, Any]:
    text = {
        "model_type": "gemma4_text",
        "num_experts": experts,
        "top_k_experts": top_k,
        "num_hidden_layers": layers,
        "eps": 1e-06,
    }
    return {"architectures": ["Gemma4ForConditionalGeneration"], "model_type": "gemma4", "text_config": text, "tied": True}


def gemma4_tensors(experts: int = 8, layers: int = 3, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Real arrays under Gemma 4's names, in several dtypes so that the order of data differs from the order of names."""
    random = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "model.language_model.embed_tokens.weight": random.standard_normal((20, 6)).astype(np.float16)
    }
    for layer in range(layers):
        prefix = f"model.language_model.layers.{layer}"
        tensors[f"{prefix}.self_attn.q_proj.weight"] = random.standard_normal((6, 6)).astype(np.float16)
        tensors[f"{prefix}.router.proj.weight"] = random.standard_normal((experts, 6)).astype(np.float16)
        tensors[f"{prefix}.router.per_expert_scale"] = random.standard_normal(experts).astype(np.float32)
        tensors[f"{prefix}.experts.gate_up_proj"] = random.standard_normal((experts, 8, 6)).astype(np.float16)
        tensors[f"{prefix}.experts.down_proj"] = random.standard_normal((experts, 6, 4)).astype(np.float16)
    return tensors


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> CheckpointFactory:
    """Write a checkpoint of several shards whose index order is not the order of names, with a tokenizer file beside it."""

    def make(
        name: str = "base",
        *,
        experts: int = 8,
        layers: int = 3,
        shards: int = 2,
        seed: int = 0,
        config: dict[str, Any] | None = None,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        tensors = gemma4_tensors(experts, layers, seed)
        names = list(tensors)
        weight_map = {}
        for number in range(shards):
            part = names[number::shards]
            shard = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
            save_file({key: tensors[key] for key in part}, folder / shard, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(reversed(part), shard)
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map})
        )
        (folder / "config.json").write_text(json.dumps(config or gemma4_config(experts, layers)))
        (folder / "tokenizer.json").write_text('{"version": "1.0"}')
        (folder / "README.md").write_text("the base's own card")
        return folder

    return make


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a file system of a given size, such as `1m`; only root may."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a small file system can only be mounted by root")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)
