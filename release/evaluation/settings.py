"""A protocol as llama-server's command line, and what a running server must say of itself in /props."""

from __future__ import annotations

import math
from typing import Any

from pruner.files import sha256_bytes
from release.evaluation.client import LARGEST_NUMBER, shown
from release.evaluation.protocol import Protocol

SHORTEST_COMMIT = 7
"""Digits; fewer name no commit."""

SAMPLING_FLAGS = {
    "seed": "--seed",
    "temperature": "--temp",
    "dynatemp_range": "--dynatemp-range",
    "dynatemp_exponent": "--dynatemp-exp",
    "top_k": "--top-k",
    "top_p": "--top-p",
    "min_p": "--min-p",
    "top_n_sigma": "--top-nsigma",
    "typical_p": "--typical",
    "xtc_probability": "--xtc-probability",
    "xtc_threshold": "--xtc-threshold",
    "repeat_last_n": "--repeat-last-n",
    "repeat_penalty": "--repeat-penalty",
    "presence_penalty": "--presence-penalty",
    "frequency_penalty": "--frequency-penalty",
    "dry_multiplier": "--dry-multiplier",
    "dry_base": "--dry-base",
    "dry_allowed_length": "--dry-allowed-length",
    "dry_penalty_last_n": "--dry-penalty-last-n",
    "mirostat": "--mirostat",
    "mirostat_tau": "--mirostat-ent",
    "mirostat_eta": "--mirostat-lr",
}
"""llama-server's flag for each field of a protocol's sampling that /props reports under the same name."""


OFF: dict[str, Any] = {
    "adaptive_target": -1.0,
    "ignore_eos": False,
    "min_keep": 0,
    "n_keep": 0,
    "lora": [],
    "speculative.types": "none",
    "backend_sampling": False,
}
"""What can move a score, has no word in a protocol and so must be off; an older server that does not know it has it off."""


def server_flags(protocol: Protocol) -> list[str]:
    """The protocol as words of llama-server's command line."""
    server, sampling = protocol.server, protocol.sampling
    pairs = {
        "--ctx-size": server.context,
        "--parallel": server.slots,
        "--threads": server.threads,
        "--threads-batch": server.threads,
        "--gpu-layers": server.gpu_layers,
        "--batch-size": server.batch,
        "--ubatch-size": server.micro_batch,
        "--flash-attn": server.flash_attention,
        "--cache-type-k": server.cache_type_k,
        "--cache-type-v": server.cache_type_v,
        "--cache-ram": server.cache_ram_mib,
        "--fit": "off",  # the context is the protocol's, whatever the machine has
        "--reasoning-format": server.reasoning_format,
        "--reasoning-budget": server.reasoning_budget,
        "--samplers": ";".join(sampling.samplers),
    } | {flag: getattr(sampling, field) for field, flag in SAMPLING_FLAGS.items()}
    words = [word for flag, value in pairs.items() for word in (flag, str(value))]
    for breaker in sampling.dry_sequence_breakers or ("none",):
        words += ["--dry-sequence-breaker", breaker]
    return [*words, "--no-cache-prompt", "--no-context-shift", "--no-ui", "--offline", "--jinja"]


def differing_settings(protocol: Protocol, props: dict[str, Any]) -> list[str]:
    """Compare what the running server resolved with the protocol; one phrase with both values for each difference."""
    settings = _mapping(props.get("default_generation_settings"))
    params = _mapping(settings.get("params"))
    expected: dict[str, Any] = {field: getattr(protocol.sampling, field) for field in SAMPLING_FLAGS}
    expected["samplers"] = list(protocol.sampling.samplers)
    found = {field: params.get(field) for field in expected}
    expected |= OFF
    found |= {field: params.get(field, value) for field, value in OFF.items()}
    expected |= {"context per slot": protocol.server.context, "slots": protocol.server.slots}
    found |= {"context per slot": settings.get("n_ctx"), "slots": props.get("total_slots")}
    if protocol.chat.template_sha256 is not None:
        expected["chat template's sha256"] = protocol.chat.template_sha256
        found["chat template's sha256"] = template_digest(props)
    differences = [
        f"{name}: the server has {shown(found[name])}, the protocol {value!r}"
        for name, value in expected.items()
        if not _same(found[name], value)
    ]
    commit, build = protocol.server.llama_cpp_commit, build_commit(props)
    if commit is not None and not (len(build) >= SHORTEST_COMMIT and commit.startswith(build)):
        differences.append(
            f"llama.cpp: the server is build {shown(props.get('build_info'))}, the protocol wants commit {commit!r}"
        )
    return differences


def build_commit(props: dict[str, Any]) -> str:
    """The llama.cpp commit that a server was built from, as far as it tells: "b4711-0c1e57098" gives "0c1e57098"."""
    build = props.get("build_info")
    return build.rpartition("-")[2] if isinstance(build, str) else ""


def template_digest(props: dict[str, Any]) -> str:
    """SHA-256 of the chat template that the server uses, hex."""
    template = props.get("chat_template")
    return sha256_bytes(template.encode(errors="replace") if isinstance(template, str) else b"")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _same(found: Any, expected: Any) -> bool:
    """Equal values; numbers only to single precision, because the server keeps them so."""
    if isinstance(expected, float) and isinstance(found, (int, float)):
        return abs(found) < LARGEST_NUMBER and math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-9)
    return bool(found == expected)
