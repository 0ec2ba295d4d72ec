# ruff: noqa: INP001 - a script, not a package
"""How fast and how small cutting a GGUF is, as ratios within one run.

    python bench/gguf_cut.py [--folder /dev/shm] [--scale 0.1] [--rounds 3] [--ladder] [--json]

A GGUF of Gemma 4 26B-A4B's shape in Q6_K and Q8_0 (`--scale 0.1` is two of its layers, 1.3 GB; below one layer, rows and
vocabulary shrink) is filled with random bytes, and 19 of its 128 experts are dropped.  Each round runs, in turns: `gguf cut`,
with and without the pinned digest of the base; `prove` of the result; and `cp` of the result followed by `openssl dgst -sha256`
on one core.

`--ladder` also makes eight quants of the tiny model, once by conversion and llama-quantize of the pruned checkpoint and once by
cutting the base's eight quants, and compares all bytes.  It needs llama.cpp and the analysis extra.

Ends with exit code 1 when a byte is not as it must be: `prove` of the large cut, and the ladder's pairs.

Figures are medians of wall-clock time; on a busy machine only those of processor time mean anything.  Peak memory is VmHWM of
each child process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from pruner.build import build
from pruner.checkpoint import open_checkpoint
from pruner.drop_map import DropMap
from pruner.files import sha256_file
from pruner.plan import plan_build
from release.gguf.convert import convert
from release.gguf.cut import cut
from release.gguf.cut_plan import plan_cut
from release.gguf.located import locate
from release.gguf.quantize import quantize
from release.gguf.toolchain import find_toolchain

EXPERTS, KEPT, TOP_K, HIDDEN, EXPERT_WIDTH = 128, 109, 8, 2816, 704
TOKENS = 262_144
LAYERS_OF_ONE = 23
"""Layers of a base of scale 1: 15 GB."""
LADDER = ("Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_XS", "Q8_0")
TINY = Path(__file__).resolve().parent.parent / "manifests" / "tiny" / "model"

CHILD = """
import json, sys, time
from pathlib import Path
from pruner.drop_map import DropMap
from release.gguf.cut import cut
from release.gguf.cut_plan import plan_cut
from release.gguf.cut_proof import prove_cut
from release.gguf.located import locate
what, base, out, drop, pin = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]), sys.argv[5]
start, cpu = time.perf_counter(), time.process_time()
found = locate(base)
if what == "prove":
    if not prove_cut(locate(out), found).good:
        sys.exit("the cut is not what the base's GGUF gives")
else:
    drop_map = DropMap({layer: tuple(ids) for layer, ids in drop.items()})
    cut(found, plan_cut(found, drop_map, name="cut", where="map"), out, pinned=[pin] if pin else [])
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
memory = int(status["VmHWM"].split()[0]) * 1024
print(json.dumps({"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, "memory": memory}))
"""


def write_base(path: Path, scale: float) -> int:
    """Write the base's GGUF, and return its layers."""
    kinds = {"Q6_K": (gguf.GGMLQuantizationType.Q6_K, 256, 210), "Q8_0": (gguf.GGMLQuantizationType.Q8_0, 32, 34)}
    layers, part = max(int(scale * LAYERS_OF_ONE), 1), min(scale * LAYERS_OF_ONE, 1.0)
    hidden = max(int(HIDDEN * part) // 256 * 256, 256)
    experts = {
        "ffn_gate_up_exps.weight": ("Q6_K", (EXPERTS, 2 * EXPERT_WIDTH, hidden)),
        "ffn_down_exps.weight": ("Q8_0", (EXPERTS, hidden, EXPERT_WIDTH)),
    }
    block = np.frombuffer(os.urandom(1 << 24), dtype=np.uint8)
    writer = gguf.GGUFWriter(path, "gemma4", use_temp_file=False)
    writer.add_name("base")
    writer.add_block_count(layers)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(TOP_K)
    writer.add_token_list([f"token{number}" for number in range(int(TOKENS * part))])
    for layer in range(layers):
        router = np.random.default_rng(layer).standard_normal((EXPERTS, hidden)).astype(np.float32)
        writer.add_tensor(f"blk.{layer}.ffn_gate_inp.weight", router)
        for name, (kind, shape) in experts.items():
            number, elements, size = kinds[kind]
            raw = (*shape[:-1], shape[-1] // elements * size)
            writer.add_tensor(f"blk.{layer}.{name}", np.resize(block, raw), raw_dtype=number)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    return layers


def child(what: str, base: Path, out: Path, drop: dict[str, list[int]], pin: str = "") -> dict[str, float]:
    """Run one job in a process of its own."""
    words = [sys.executable, "-c", CHILD, what, str(base), str(out), json.dumps(drop), pin]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{what}: {done.stderr}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


def copy_and_digest(source: Path, target: Path) -> dict[str, float]:
    """`cp`, then `openssl dgst -sha256` of the copy."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["cp", source, target], check=True)
    subprocess.run(["openssl", "dgst", "-sha256", target], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - start, "cpu": cpu, "memory": 0}


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All rounds in `folder`."""
    base, out, copy = (folder / f"{name}.gguf" for name in ("base", "out", "copy"))
    layers = write_base(base, options.scale)
    drop = {
        str(layer): sorted((7 * layer + 13 * place) % EXPERTS for place in range(EXPERTS - KEPT)) for layer in range(layers)
    }
    pin = sha256_file(base)
    found: dict[str, list[dict[str, float]]] = {}

    def run(name: str, job: Callable[[], dict[str, float]], *made: Path) -> None:
        for path in made:
            path.unlink(missing_ok=True)
        found.setdefault(name, []).append(job())

    for _ in range(options.rounds):
        run("cut of a pinned base", lambda: child("cut", base, out, drop, pin), out)
        run("cut", lambda: child("cut", base, out, drop), out)
        run("prove", lambda: child("prove", base, out, drop))
        run("cp + openssl", lambda: copy_and_digest(out, copy), copy)
        copy.unlink()
    seconds = {name: statistics.median(each["seconds"] for each in runs) for name, runs in found.items()}
    cpu = {name: statistics.median(each["cpu"] for each in runs) for name, runs in found.items()}
    reference = "cp + openssl"
    return {
        "base_bytes": base.stat().st_size,
        "cut_bytes": out.stat().st_size,
        "seconds": seconds,
        "cpu": cpu,
        "peak_megabytes": {name: max(each["memory"] for each in runs) / 1e6 for name, runs in found.items()},
        "ratios": {
            **{f"{name} / ({reference})": seconds[name] / seconds[reference] for name in seconds if name != reference},
            **{f"processor time: {name} / ({reference})": cpu[name] / cpu[reference] for name in cpu if name != reference},
        },
    }


def ladder(folder: Path) -> dict[str, Any]:
    """Eight quants of the tiny model by both paths, measured in turns; the base's quants exist beforehand."""
    toolchain, log = find_toolchain(), folder / "log"
    drop_map = DropMap({str(layer): tuple(expert for expert in range(16) if expert % 4 != layer) for layer in range(4)})

    def quantized(source: Path, kind: str, name: str) -> Path:
        target = folder / f"{name}-{kind}.gguf"
        quantize(toolchain, source, target, quant_type=kind, threads=os.cpu_count() or 1, log=log)
        return target

    convert(toolchain, TINY, folder / "base.gguf", model_name="base", log=log)
    bases = {kind: quantized(folder / "base.gguf", kind, "base") for kind in LADDER}
    plan = plan_build(open_checkpoint(TINY), drop_map, base_name={"name": "base"}, max_shard_size=1 << 30)
    build(plan, TINY, folder / "pruned", workers=1)
    start = time.perf_counter()
    convert(toolchain, folder / "pruned", folder / "pruned.gguf", model_name="cut", log=log)
    made = {kind: quantized(folder / "pruned.gguf", kind, "cut") for kind in LADDER}
    quantizing = time.perf_counter() - start
    start = time.perf_counter()
    for kind, path in bases.items():
        base = locate(path)
        cut(base, plan_cut(base, drop_map, name="cut", where="map"), folder / f"sliced-{kind}.gguf")
    cutting = time.perf_counter() - start
    equal = all((folder / f"sliced-{kind}.gguf").read_bytes() == path.read_bytes() for kind, path in made.items())
    return {
        "quants": len(LADDER),
        "convert_and_quantize_seconds": quantizing,
        "cut_seconds": cutting,
        "ratio": cutting / quantizing,
        "equal": equal,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))  # noqa: S108  # a RAM disk, so that disks play no part
    parser.add_argument("--scale", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ladder", action="store_true", help="also eight quants of the tiny model by both paths")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="gguf-cut-") as folder:
        result = measure(Path(folder), options)
    if options.ladder:
        with tempfile.TemporaryDirectory(dir=options.folder, prefix="gguf-ladder-") as folder:
            result["ladder"] = ladder(Path(folder))
    sys.stdout.write(json.dumps(result, indent=2) + "\n" if options.json else report(result))
    if not result.get("ladder", {"equal": True})["equal"]:
        sys.exit("the ladder's cuts are not the bytes of convert and quantize")


def report(result: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [f"base of {result['base_bytes']:,} bytes, cut to {result['cut_bytes']:,}"]
    for name, value in result["seconds"].items():
        memory = result["peak_megabytes"][name]
        lines.append(f"{name:<44}{value:8.2f} s  {result['cpu'][name]:8.2f} s of processor  {memory:8.0f} MB")
    lines += [f"{name:<64}{value:8.2f}" for name, value in result["ratios"].items()]
    if steps := result.get("ladder"):
        lines.append(
            f"{steps['quants']} quants: convert + quantize {steps['convert_and_quantize_seconds']:.2f} s, "
            f"cut {steps['cut_seconds']:.2f} s, ratio {steps['ratio']:.3f}, bytes equal: {steps['equal']}"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
