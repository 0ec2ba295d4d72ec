"""The facts of a release: everything that its cards may say, computed from lock, headers and evidence."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from pruner.calibration import overlapping_questions
from pruner.checkpoint import Checkpoint
from pruner.drop_map import DropMap
from pruner.plan import Plan
from release.card.claims import Claim, SourcedText, Unit
from release.evaluation.evidence import Evidence
from release.evaluation.protocol import Protocol
from release.evaluation.settings import server_flags
from release.evaluation.stats import chance_tail
from release.gguf.golden import SelfTest
from release.gguf.imatrix import ImatrixSummary
from release.gguf.quality import Estimate, Quality
from release.lock import Lock
from release.reports.maps import difference

Facts = dict[str, Any]


def weight_facts(base: Checkpoint, plan: Plan, method: SourcedText) -> Facts:
    """Experts, parameters and bytes of base and variant, with one difference each."""
    headers, planned = "headers of the base", "headers of the variant"

    def pair(unit: Unit, before: int, after: int) -> Facts:
        return {
            "base": Claim(before, unit, headers),
            "variant": Claim(after, unit, planned),
            "removed": Claim(before - after, unit, f"{headers} and {planned}"),
            "removed_share": Claim((before - after) / before, "share", f"{headers} and {planned}"),
            "change": Claim((after - before) / before, "change", f"{headers} and {planned}"),
        }

    experts = base.architecture.experts
    return {
        "experts": {
            "base": Claim(experts, "count", "config.json of the base"),
            "variant": Claim(plan.experts, "count", "config.json"),
            "dropped": Claim(experts - plan.experts, "count", "expert_drop_metadata.json"),
            "change": Claim((plan.experts - experts) / experts, "change", "config.json, of the base and of the variant"),
            "top_k": Claim(base.architecture.top_k, "count", "config.json"),
            "layers": Claim(len(base.layers), "count", "headers of the base"),
        },
        "parameters": pair("parameters", base.parameters, plan.total_parameters),
        "tensor_bytes": pair("bytes", base.tensor_bytes, plan.total_bytes),
        "shards": Claim(len(plan.shards), "count", "model.safetensors.index.json"),
        "method": method,
        "architecture": architecture_rows(base, plan),
    }


def architecture_rows(base: Checkpoint, plan: Plan) -> list[tuple[str, Claim]]:
    """Rows of the architecture table from config.json; a key that the model does not have is left out."""
    nested = base.architecture.nested and "text_config" in base.config
    config: Mapping[str, Any] = base.config["text_config"] if nested else base.config
    place = f"config.json: {'text_config.' if nested else ''}"
    keys = {
        "Layers": "num_hidden_layers",
        "Hidden size": "hidden_size",
        **_intermediate_sizes(base, config),
        "Attention heads": "num_attention_heads",
        "Key and value heads": "num_key_value_heads",
        "Head dimension": "head_dim",
        "Head dimension of global layers": "global_head_dim",
        "Vocabulary": "vocab_size",
    }
    rows = [("Experts per layer", Claim(plan.experts, "count", "config.json"))]
    rows.append(("Experts per token", Claim(base.architecture.top_k, "count", "config.json")))
    rows += [
        (title, Claim(config[key], "count", f"{place}{key}")) for title, key in keys.items() if isinstance(config.get(key), int)
    ]
    types = config.get("layer_types")
    if isinstance(types, list) and "full_attention" in types:
        rows.append(("Layers with global attention", Claim(types.count("full_attention"), "count", f"{place}layer_types")))
    return rows


def _intermediate_sizes(base: Checkpoint, config: Mapping[str, Any]) -> dict[str, str]:
    """Keys of the sizes of experts and of dense layers, which a config may give and the model not have."""
    expert = next((name for name in base.tensors if (found := base.architecture.classify(name)) and not found.router), "")
    dense = re.compile(rf"{re.escape(expert.partition('layers.')[0])}layers\.\d+\.mlp\.(?:gate|up|gate_up|down)_proj\.")
    keys = {"Dense intermediate size": "intermediate_size"} if any(map(dense.match, base.tensors)) else {}
    own = "moe_intermediate_size" if keys or "moe_intermediate_size" in config else "intermediate_size"
    return {"Expert intermediate size": own, **keys}


def file_facts(lock: Lock, prefix: str) -> list[Facts]:
    """Name, size and digest of every locked output below a folder."""
    return [
        {
            "name": Claim(path.removeprefix(prefix), "text", "lock.json"),
            "size": Claim(file.size, "bytes", f"lock.json: outputs.{path}.size"),
            "sha256": Claim(file.sha256, "digest", f"lock.json: outputs.{path}.sha256"),
        }
        for path, file in lock.outputs.items()
        if path.startswith(prefix)
    ]


def projector_facts(lock: Lock) -> list[Facts]:
    """The base's projectors that are published beside the quants, and where each comes from."""
    return [
        {
            "name": Claim(path.rpartition("/")[2], "text", "lock.json"),
            "size": Claim(file.size, "bytes", f"lock.json: outputs.{path}.size"),
            "sha256": Claim(file.sha256, "digest", f"lock.json: outputs.{path}.sha256"),
            "copied_from": Claim(file.copied_from, "text", f"lock.json: outputs.{path}.copied_from"),
        }
        for path, file in lock.outputs.items()
        if file.copied_from is not None
    ]


def quant_facts(summaries: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> list[Facts]:
    """One entry per quant in the manifest's order, read back from its file, or its shards, of which `file` is the first."""
    return [_quant_facts(name, summaries[name]) for name in names]


def _quant_facts(name: str, summary: Mapping[str, Any]) -> Facts:
    files = summary["files"]
    file = files[0]["name"]
    return {
        "name": Claim(name, "text", "manifest.yaml"),
        "file": Claim(file, "text", "lock.json"),
        "shards": Claim(len(files), "count", "lock.json"),
        "files": [
            {
                "name": Claim(each["name"], "text", "lock.json"),
                "size": Claim(each["size"], "bytes", f"{each['name']}: size"),
                "sha256": Claim(each["sha256"], "digest", "lock.json"),
            }
            for each in files
        ],
        "size": Claim(summary["file_size"], "bytes", f"{file}: size"),
        "bits_per_weight": Claim(summary["bits_per_weight"], "number", f"{file}: tensor headers"),
        "composition": Claim(summary["composition"], "text", f"{file}: tensor types"),
        **_origin(summary.get("cut_from"), f"lock.json: outputs.gguf/{file}.cut_from"),
    }


def quality_facts(quality: Quality, names: Sequence[str]) -> Facts:
    """How far each quant, in the manifest's order, is from the unquantized GGUF, with standard errors, and on what text."""
    rows = []
    for name, quant in ((name, quality.quants[name]) for name in names):
        place = f"quality.json: quants.{name}.divergence"
        found = {"kl_divergence": quant.divergence.kl_divergence, "perplexity": quant.divergence.perplexity}
        rows.append(
            {
                "name": Claim(name, "text", "quality.json"),
                "size": Claim(quant.size, "bytes", f"quality.json: quants.{name}.size"),
                "same_top": Claim(quant.divergence.same_top.value, "share", f"{place}.same_top.value"),
                **{key: _estimate(each, f"{place}.{key}") for key, each in found.items()},
            }
        )
    text = quality.text
    return {
        "rows": rows,
        "type": Claim(quality.source.type, "text", "quality.json: source.type"),
        "perplexity": _estimate(quality.source.perplexity, "quality.json: source.perplexity"),
        "text": Claim(text.name, "text", "quality.json: text.name"),
        "text_sha256": Claim(text.sha256, "digest", "quality.json: text.sha256"),
        "chunks": Claim(text.chunks, "count", "quality.json: text.chunks"),
        "context": Claim(text.context, "count", "quality.json: text.context"),
        "tokens": Claim(text.tokens, "count", "quality.json: text.tokens"),
    }


def _estimate(estimate: Estimate, source: str) -> Facts:
    return {
        "value": Claim(estimate.value, "measure", f"{source}.value"),
        "error": Claim(estimate.error, "measure", f"{source}.error"),
    }


def imatrix_facts(summary: ImatrixSummary) -> Facts:
    """What the importance matrix was made of, and the experts that its text never reached."""
    source = "the published imatrix"
    return {
        "chunks": Claim(summary.chunks, "count", f"{source}: imatrix.chunk_count"),
        "context": Claim(summary.context, "count", f"{source}: imatrix.chunk_size"),
        "unreached": Claim(summary.unreached_experts, "count", f"{source}: counts"),
    }


def self_test_facts(tested: SelfTest, summaries: Mapping[str, Mapping[str, Any]]) -> Facts:
    """Whether the quants may be called bit-identical: only when the toolchain met the golden digests of every type in them."""
    source = "lock.json: inputs.tools.golden self-test"
    types = {kind for summary in summaries.values() for kind in summary["types"]}
    return {
        "bit_exact": tested.covers(types),
        "result": Claim("bit-exact" if tested.bit_exact else "not bit-exact", "text", source),
    }


def _origin(cut_from: Mapping[str, Any] | None, source: str) -> Facts:
    """Where a quant that was cut comes from; nothing of one that llama-quantize made."""
    if cut_from is None:
        return {"cut_from": None}
    return {
        "cut_from": Claim(cut_from["label"], "text", source),
        "cut_from_files": [
            {"name": Claim(label, "text", source), "sha256": Claim(sha256, "digest", f"lock.json: inputs.files.{label}.sha256")}
            for label, sha256 in cut_from["files"].items()
        ],
        "cut_notes": [Claim(note, "text", "metadata of the base's GGUF") for note in cut_from["notes"]],
    }


def run_facts(evidence: Evidence, options: int) -> Facts:
    """What a card says of one run of a test with `options` choices: scores, outcomes, patch."""
    source = f"evidence/{evidence.quant}.json"

    def count(name: str) -> Claim:
        return Claim(getattr(evidence, name), "count", f"{source}: {name}")

    repeated = evidence.repeats > 1  # then answers to one question depend on each other, and a binomial tail says nothing
    guessed = evidence.patched and not repeated
    chance = chance_tail(evidence.patched_right, evidence.patched, 1 / options) if guessed else None
    return {
        "repeats": count("repeats") if repeated else None,
        "asked": Claim(evidence.asked, "count", f"{source}: total / repeats") if repeated else None,
        "error": Claim(evidence.patched_error or 0.0, "share", f"{source}: patched_error") if repeated else None,
        "quant": Claim(evidence.quant, "text", source),
        "total": count("total"),
        "raw_correct": count("raw_correct"),
        "patched": count("patched"),
        "patched_right": count("patched_right"),
        "patched_correct": count("patched_correct"),
        "raw": Claim(evidence.raw_share, "share", f"{source}: raw_correct / total"),
        "score": Claim(evidence.patched_share, "share", f"{source}: patched_correct / total"),
        "low": Claim(evidence.patched_interval.low, "share", f"{source}: patched_interval"),
        "high": Claim(evidence.patched_interval.high, "share", f"{source}: patched_interval"),
        "luck": Claim(evidence.patched_luck, "number", f"{source}: patched_luck"),
        "chance": None if chance is None else Claim(chance, "probability", f"{source}: patched_right / patched"),
        "unverified": [Claim(name, "text", f"{source}: unverified") for name in evidence.unverified],
        "outcomes": [
            (name, Claim(number, "count", f"{source}: outcomes.{name}")) for name, number in evidence.outcomes.items()
        ],
        "wrong": Claim(evidence.total - evidence.patched_correct, "count", f"{source}: total - patched_correct"),
    }


def contamination_facts(calibration: Sequence[str], evidence: Evidence) -> Facts:
    """How many questions of the exam are among those that the drop map was made from, by digest of the normalised question."""
    exam = list(dict.fromkeys(each.question_digest for each in evidence.questions))
    digests = f"evidence/{evidence.quant}.json: questions[].question_digest"
    made_from = "digests of the calibration set's questions"
    return {
        "overlap": Claim(len(overlapping_questions(calibration, exam)), "count", f"{digests} and {made_from}"),
        "exam": Claim(len(exam), "count", digests),
        "calibration": Claim(len(set(calibration)), "count", made_from),
    }


def known_contamination(evidence: Evidence) -> Facts | None:
    """The same from the evidence alone, which has it where the release chose the experts itself."""
    found, source = evidence.calibration, f"evidence/{evidence.quant}.json: calibration"
    if found is None:
        return None
    return {
        "overlap": Claim(len(found.overlap), "count", f"{source}.overlap"),
        "exam": Claim(evidence.asked, "count", f"{source}: total / repeats"),
        "calibration": Claim(found.questions, "count", f"{source}.questions"),
    }


def protocol_facts(protocol: Protocol, digest: str, evidence: Sequence[Evidence]) -> Facts:
    """The locked protocol, its settings and the command that starts the same server."""
    source = "protocol.yaml"
    run = f"evidence/{evidence[0].quant}.json: toolchain_commit" if evidence else ""

    def text(value: object, place: str) -> Claim:
        return Claim(str(value), "text", f"{source}: {place}")

    return {
        "name": text(protocol.name, "name"),
        "digest": Claim(digest, "digest", source),
        "task": text(protocol.task.name, "task.name"),
        "task_version": text(protocol.task.version, "task.version"),
        "filter": text(protocol.task.filter, "task.filter"),
        "metric": text(protocol.task.metric, "task.metric"),
        "lm_eval": text(protocol.lm_eval, "lm_eval"),
        "patch": text(protocol.patch.method, "patch.method") if protocol.patch else text("none", "patch"),
        "patch_outcomes": [text(name, "patch.outcomes") for name in protocol.patch.outcomes] if protocol.patch else [],
        "settings": [
            (_label(place), text(value, place.rpartition(".")[0] if value == NOT_PINNED else place))
            for place, value in _settings(protocol).items()
        ],
        "server": SourcedText(command_line(server_flags(protocol)), f"{source}: server and {source}: sampling"),
        "toolchain": Claim(evidence[0].toolchain_commit, "digest", run) if evidence else None,
    }


def command_line(words: Sequence[str]) -> str:
    """Words of a command as a shell takes them, one option a line."""
    lines: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not lines:
            lines.append([])
        lines[-1].append(shlex.quote(word) if word.isprintable() else f"${word!r}")  # $'\n' for a shell
    return " \\\n  ".join(" ".join(line) for line in lines)


def statistics_facts(drop_map: DropMap) -> Facts | None:
    """What a map says of the statistics that it was made from; a foreign map may say anything: only the known form counts."""
    said = drop_map.provenance.get("statistics")
    if not isinstance(said, dict) or type(said.get("questions")) is not int or not isinstance(said.get("sha256"), str):
        return None
    source = "drop_map.json: statistics"
    return {
        "questions": Claim(said["questions"], "count", f"{source}.questions"),
        "digest": Claim(said["sha256"], "digest", f"{source}.sha256"),
    }


def earlier_facts(drop_map: DropMap, experts: int, earlier: Mapping[str, DropMap]) -> list[Facts]:
    """How many of this map's drop decisions each earlier variant's map made too; maps of other layers are refused.

    Raises:
        InputError: an earlier map has no layer in common with this one.
    """
    found = []
    for label, other in earlier.items():
        total = difference(drop_map, other, experts)["total"]
        source = f"drop_map.json and the drop map of {label}"
        found.append(
            {
                "label": SourcedText(label, "manifest.yaml: card.earlier_maps"),
                "dropped": Claim(total["first"], "count", source),
                "both": Claim(total["both"], "count", source),
                "kept_there": Claim(total["only_first"], "count", source),
                "share": Claim(total["both"] / total["first"], "share", source),
            }
        )
    return found


def prior_facts(equal: Mapping[str, tuple[int, int]]) -> list[Facts]:
    """Rows of the rebuild table: an earlier build, how many of its files this build equals byte for byte, and of how many."""
    return [
        {
            "label": SourcedText(label, "manifest.yaml: prior"),
            "equal": Claim(same, "count", f"SHA-256 of this build and of {label}"),
            "files": Claim(files, "count", label),
        }
        for label, (same, files) in equal.items()
    ]


def rebuild_facts(good: int, bad: int) -> Facts:
    """How many independent parties rebuilt the release, by statements whose signatures hold."""
    source = "attestations/, under the keys of reproduce/rebuilders.json"
    return {"good": Claim(good, "count", source), "bad": Claim(bad, "count", source)}


NOT_PINNED = "not pinned"
"""What a protocol says of a template, a tokenizer or a llama.cpp that it leaves open, with or without a line for it."""


def _settings(protocol: Protocol) -> dict[str, Any]:
    """What a card shows of a protocol, by its place there."""
    server = ("context", "slots", "threads", "reasoning_format", "reasoning_budget", "prompt_cache")
    sampling = ("temperature", "top_p", "top_k", "min_p", "dry_multiplier", "repeat_penalty", "seed")
    pins = {
        "chat.template_sha256": protocol.chat.template_sha256,
        "chat.tokenizer_sha256": protocol.chat.tokenizer_sha256,
        "server.llama_cpp_commit": protocol.server.llama_cpp_commit,
    }
    return {
        **{f"server.{name}": getattr(protocol.server, name) for name in server},
        "max_tokens": protocol.max_tokens,
        **{f"sampling.{name}": getattr(protocol.sampling, name) for name in sampling},
        **{place: pin[:12] if pin else NOT_PINNED for place, pin in pins.items()},
    }


def _label(place: str) -> str:
    return place.rpartition(".")[2].replace("_", " ")
