"""Commands that the tools do not have: of moe-release by its own parser, of llama.cpp by the names of its programs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from itertools import islice

from release.card.lint.document import Document
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.card.lint.rules.commands import logical_lines, simple_commands

KIND = "command"
PREFIX = "llama-"
NAMES = """
    batched batched-bench bench cli completion convert-llama2c-to-ggml cvector-generator diffusion-cli embedding
    eval-callback export-lora finetune fit-params gemma3-cli gguf gguf-hash gguf-split gritlm idle imatrix infill llava-cli
    lookahead lookup lookup-create lookup-merge lookup-stats ls-sycl-device minicpmv-cli mtmd-cli parallel passkey perplexity
    quantize quantize-stats qwen2vl-cli results retrieval rpc-server run save-load-state server simple simple-chat speculative
    speculative-simple swap tokenize tts"""
LLAMA_TOOLS = tuple(NAMES.split())
"""Programs of llama.cpp, also of older releases, and llama-swap, without their prefix."""
ALIKE = 0.8
"""As difflib counts: a letter or two; a name that is like none may be a tool of somebody else."""
INLINE = re.compile(r"(?:\$ )?(?:moe-release|llama-[a-z0-9-]+)(?:\s|\Z)")
REDIRECTION = re.compile(r"\d?[<>&]")
LONGEST_NAME = 40
MOST_COMMANDS = 500
"""Of a card; what follows is not looked at."""


def find(document: Document, knowledge: Knowledge) -> Iterator[Finding]:
    """Commands of blocks, and those between backquotes."""
    for number, words in islice(_commands(document), MOST_COMMANDS):
        name = words[0].rpartition("/")[2].removesuffix(".exe")
        if name == "moe-release":
            reason = knowledge.command_error(_arguments(words)) if knowledge.command_error else None
            if reason is not None:
                yield Finding(number, KIND, reason)
        elif name.startswith(PREFIX) and len(name) < LONGEST_NAME:
            yield from _llama(number, name)


def _commands(document: Document) -> Iterator[tuple[int, list[str]]]:
    for block in document.commands:
        for number, text in logical_lines(block):
            yield from ((number, words) for words in simple_commands(text))
    for line in document.lines:
        for name in line.names:
            if INLINE.match(name):
                yield from ((line.number, words) for words in simple_commands(name))


def _arguments(words: list[str]) -> list[str]:
    """What stands behind the program, up to a redirection."""
    end = next((place for place, word in enumerate(words) if REDIRECTION.match(word) and place), len(words))
    return words[1:end]


def _llama(number: int, name: str) -> Iterator[Finding]:
    tool = name.removeprefix(PREFIX)
    if tool not in LLAMA_TOOLS and (near := get_close_matches(tool, LLAMA_TOOLS, 1, ALIKE)):
        yield Finding(number, KIND, f"llama.cpp has no {name}; {PREFIX}{near[0]} is meant")
