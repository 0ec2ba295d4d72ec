# ruff: noqa: INP001 - a script, not a package
"""How fast and how small pruning, proving and planning are, as ratios within one run.

    python bench/prune_speed.py [--folder /dev/shm] [--layers 3] [--scale 0.1] [--rounds 3] [--workers N] [--tensors] [--json]

A checkpoint of Gemma 4 26B-A4B's tensor shapes (`--layers` layers and the embedding; `--scale 1` is about 5 GB, smaller scales
shrink every row) is filled with random bytes, and 19 of its 128 experts are dropped.  The folder must hold about 1.9 times the
base (`--scale 1`: 10 GB), with `--tensors` 2.8 times.  Each round runs, in turns:

- `prune` with SHA-256 of all output, against `cp` of each shard followed by `openssl dgst -sha256`, on one core;
- `prove` of the build, against hashing of the same bytes with the same workers (once the base's kept ranges, once the target);
- with `--tensors` a rebuild tensor by tensor with `safe_open` and `save_file`, followed by SHA-256 of what it wrote;
- `plan` at the full size, from the headers of files that are holes otherwise.

Each ratio is printed beside its target, which holds at `--scale 1`.  Figures are medians, of wall-clock and of processor
time; on a busy machine only the latter mean anything.  They begin after Python's start and imports.  Peak memory is VmHWM of
each child process.  A build calls fsync, `cp` does not: on a RAM disk that costs nothing, on another disk it belongs to the
promise that a finished shard survives a crash and has no counterpart in `cp`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pruner.safetensors_format import build_header

EXPERTS, DROPPED, TOP_K = 128, 19, 8
SHARD_BYTES = 1 << 29

TARGETS = {
    "prune / (cp + openssl)": "at most 1",
    "prove / (hash)": "at most 1.1",
    "tensors / (prune)": "several",
    "memory: tensors / (prune)": "at least 50",
}
"""What each ratio should be, at --scale 1; a ratio without an entry is shown to be compared with these."""
PEAK_TARGETS = {"prune": 150, "prove": 200}
"""Megabytes that a job may take, at any scale."""
PLAN_TARGET = 0.3
"""Seconds of wall-clock time for a plan of the whole model, after Python's start."""

ROOT = Path(__file__).resolve().parent.parent

CHILD = """
import hashlib, json, os, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
what, base, out, workers = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
drop = json.loads(sys.argv[5])
if what in ("prune", "prove"):
    from pruner.build import build
    from pruner.checkpoint import open_checkpoint
    from pruner.drop_map import DropMap
    from pruner.plan import plan_build
    from pruner.proof import prove
    from pruner.sources import LocalSource
elif what == "tensors":
    from safetensors import safe_open
    from safetensors.torch import save_file
elif what == "plan":
    from release.commands.running import context_of
    from release.actions.plan_report import describe_plan, plan_table
    from tests.pruner.sparse import gemma4_26b_a4b, sparse_checkpoint
    sparse_checkpoint(out / "base", *gemma4_26b_a4b())
    (out / "map.json").write_text(json.dumps({str(layer): drop["0"] for layer in range(30)}))
    (out / "v.yaml").write_text("schema: moe-release/v1\\nname: v\\nbase: {path: base}\\n"
                                "prune: {experts: 109, drop_map: {path: map.json}}\\n")
def digest(path):
    state = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()
said = ""
before = {}
start, cpu = time.perf_counter(), time.process_time()
if what == "prune":
    drop_map = DropMap({layer: tuple(ids) for layer, ids in drop.items()})
    plan = plan_build(open_checkpoint(base), drop_map, base_name={"name": "b"}, max_shard_size=SHARD_BYTES)
    build(plan, base, out, workers=workers)
elif what == "prove":
    assert prove(LocalSource(out), LocalSource(base), workers=workers).good
elif what == "plan":
    said = plan_table(describe_plan(context_of(out / "v.yaml", None))).splitlines()[3]
elif what == "hash":
    files = [path for path in out.iterdir() if path.suffix == ".safetensors"]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(digest, [*files, *files]))  # what prove reads: the planned bytes and the target
elif what == "tensors":
    keep = {layer: [e for e in range(128) if e not in ids] for layer, ids in drop.items()}
    tensors = {}
    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                tensor, layer = file.get_tensor(name), name.split(".")[3]
                expert = ".experts." in name or ".router." in name
                tensors[name] = tensor[keep[layer]] if expert and layer in keep else tensor
    out.mkdir()
    save_file(tensors, out / "model.safetensors")
    before = {"before_hashing": time.perf_counter() - start, "cpu_before_hashing": time.process_time() - cpu}
    digest(out / "model.safetensors")
result = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, "said": said, **before}
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({**result, "memory": int(status["VmHWM"].split()[0]) * 1024}))
""".replace("SHARD_BYTES", str(SHARD_BYTES))
"""One job and its measurement, in a process of its own."""


def shapes(layers: int, scale: float) -> dict[str, tuple[int, ...]]:
    """Tensors of Gemma 4 26B-A4B; `scale` shrinks the hidden size."""
    hidden = max(int(2816 * scale) // 8 * 8, 8)
    result: dict[str, tuple[int, ...]] = {"model.language_model.embed_tokens.weight": (262144, hidden)}
    for layer in range(layers):
        prefix = f"model.language_model.layers.{layer}"
        result |= {
            f"{prefix}.experts.gate_up_proj": (EXPERTS, 1408, hidden),
            f"{prefix}.experts.down_proj": (EXPERTS, hidden, 704),
            f"{prefix}.router.proj.weight": (EXPERTS, hidden),
            f"{prefix}.router.per_expert_scale": (EXPERTS,),
            f"{prefix}.self_attn.q_proj.weight": (4096, hidden),
            f"{prefix}.self_attn.o_proj.weight": (hidden, 4096),
            f"{prefix}.mlp.gate_proj.weight": (2112, hidden),
            f"{prefix}.mlp.up_proj.weight": (2112, hidden),
            f"{prefix}.mlp.down_proj.weight": (hidden, 2112),
        }
    return dict(sorted(result.items()))


def write_base(folder: Path, layers: int, scale: float) -> int:
    """Write the checkpoint, and return its bytes of data."""
    folder.mkdir()
    wanted = shapes(layers, scale)
    header = build_header(((name, "BF16", shape) for name, shape in wanted.items()), "pt")
    size = len(header)
    for shape in wanted.values():
        product = 2
        for extent in shape:
            product *= extent
        size += product
    block = os.urandom(1 << 22)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header)
        while (left := size - file.tell()) > 0:
            file.write(block[: min(left, len(block))])
    text = {
        "model_type": "gemma4_text",
        "num_experts": EXPERTS,
        "top_k_experts": TOP_K,
        "num_hidden_layers": layers,
    }
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma4", "text_config": text}))
    return size


def child(what: str, base: Path, out: Path, workers: int, drop: dict[str, list[int]]) -> dict[str, Any]:
    """Run one job in a process of its own."""
    words = [sys.executable, "-c", CHILD, what, str(base), str(out), str(workers), json.dumps(drop)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def copy_and_digest(source: Path, target: Path) -> dict[str, Any]:
    """`cp` of each shard and `openssl dgst -sha256` of the copy, one after the other; a copy is deleted before the next."""
    seconds, before = 0.0, resource.getrusage(resource.RUSAGE_CHILDREN)
    for shard in sorted(source.glob("*.safetensors")):
        start = time.perf_counter()
        subprocess.run(["cp", shard, target], check=True)
        subprocess.run(["openssl", "dgst", "-sha256", target], check=True, capture_output=True)
        seconds += time.perf_counter() - start
        target.unlink()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": seconds, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, "memory": 0}


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All rounds in `folder`."""
    base, out, copy, other = (folder / name for name in ("base", "out", "copy", "other"))
    size = write_base(base, options.layers, options.scale)
    drop = {
        str(layer): sorted((7 * layer + 13 * place) % EXPERTS for place in range(DROPPED)) for layer in range(options.layers)
    }
    found: dict[str, list[dict[str, Any]]] = {}

    def run(name: str, job: Callable[[], dict[str, Any]], fresh: Path | None = None) -> None:
        if fresh:
            shutil.rmtree(fresh, ignore_errors=True)
        found.setdefault(name, []).append(job())

    child("prune", base, out, options.workers, drop)  # unmeasured: the first to touch memory of the machine pays for it
    for _ in range(options.rounds):
        run("prune, one worker", lambda: child("prune", base, out, 1, drop), out)
        run("prune", lambda: child("prune", base, out, options.workers, drop), out)
        run("cp + openssl", lambda: copy_and_digest(out, copy))
        run("prove", lambda: child("prove", base, out, options.workers, drop))
        run("hash", lambda: child("hash", base, out, options.workers, drop))
        if options.tensors:
            shutil.rmtree(out)
            run("tensors", lambda: child("tensors", base, other, 1, drop))
            shutil.rmtree(other)
        other.mkdir()
        run("plan", lambda: child("plan", base, other, 1, drop))
        shutil.rmtree(other)
    return {"base_bytes": size, "workers": options.workers, "load": os.getloadavg()[0], **summarize(found)}


def summarize(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of each job, and the ratios of pairs of jobs."""

    def median(name: str, key: str) -> float:
        return statistics.median(each[key] for each in found[name])

    pairs = [("prune", "cp + openssl"), ("prune, one worker", "cp + openssl"), ("prove", "hash")]
    pairs += [("tensors", "prune"), ("tensors", "prune, one worker")] if "tensors" in found else []
    ratios = {
        f"{one} / ({other})": {key: median(one, key) / median(other, key) for key in ("seconds", "cpu")} for one, other in pairs
    }
    memory = {name: max(each["memory"] for each in runs) / 1e6 for name, runs in found.items()}
    if "tensors" in found:
        before = {"seconds": "before_hashing", "cpu": "cpu_before_hashing"}
        ratios["tensors before hashing / (prune)"] = {
            key: median("tensors", name) / median("prune", key) for key, name in before.items()
        }
        ratios["memory: tensors / (prune)"] = {"bytes": memory["tensors"] / memory["prune"]}
    return {
        "seconds": {name: median(name, "seconds") for name in found},
        "cpu": {name: median(name, "cpu") for name in found},
        "peak_megabytes": memory,
        "plan": found["plan"][0]["said"],
        "ratios": ratios,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))  # noqa: S108  # a RAM disk, so that disks play no part
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--scale", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--tensors", action="store_true", help="also rebuild tensor by tensor (needs torch, and the kept bytes twice in memory)"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="prune-speed-") as folder:
        result = measure(Path(folder), options)
    if options.json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
        return
    show(result)


def show(result: dict[str, Any]) -> None:
    """Print what was measured, each figure that has a target with it."""
    write = sys.stdout.write
    write(f"base of {result['base_bytes']:,} bytes, {result['workers']} workers, load {result['load']:.1f}\n")
    write(f"{'':<40}{'wall s':>9}{'cpu s':>9}{'peak MB':>9}  target\n")
    for name, value in result["seconds"].items():
        target = f"at most {PEAK_TARGETS[name]} MB" if name in PEAK_TARGETS else ""
        target = f"at most {PLAN_TARGET} s" if name == "plan" else target
        row = f"{name:<40}{value:9.2f}{result['cpu'][name]:9.2f}{result['peak_megabytes'][name]:9.0f}  {target}"
        write(f"{row.rstrip()}\n")
    write(f"plan: {result['plan']}\n{'ratio':<40}{'wall':>9}{'cpu':>9}  target\n")
    for name, ratio in result["ratios"].items():
        figures = "".join(f"{value:9.2f}" for value in ratio.values())
        write(f"{name:<40}{figures:<18}  {TARGETS.get(name, '')}".rstrip() + "\n")


if __name__ == "__main__":
    main()
