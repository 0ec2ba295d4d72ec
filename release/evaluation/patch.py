"""Patch methods: a second way to an answer for questions whose first reply holds none.

Each method has a name with a version; the protocol registers one in advance, with all its parameters.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pruner.bounded import Limits, bounded, first_group
from release.evaluation.client import Answer, Message, clean_text, completion_message, post
from release.evaluation.ledger import Reply
from release.evaluation.pool import Server
from release.evaluation.protocol import Patch, Protocol

Continuation = Callable[[Patch, str, Reply], str]
"""(patch, rendered prompt, the bad reply) to the text that the model continues."""


def prefill_v1(patch: Patch, prompt: str, reply: Reply) -> str:
    """The prompt and the beginning of an answer; whatever the model thought is discarded."""
    del reply
    return prompt + patch.prefill


def continue_v1(patch: Patch, prompt: str, reply: Reply) -> str:
    """The prompt, the model's own thought as far as it came, closed, and the beginning of an answer."""
    thought = reply.reasoning_content
    return prompt + (patch.open_thought + thought + patch.close_thought if thought else "") + patch.prefill


SAID = ("content", "model", "stop_type", "tokens_evaluated", "tokens_predicted", "timings", "completion_probabilities")
"""Fields of a /completion reply that the ledger keeps; llama-server would repeat the whole prompt among the others."""

METHODS: dict[str, Continuation] = {"prefill-v1": prefill_v1, "continue-v1": continue_v1}


def ask_patch(server: Server, protocol: Protocol, patch: Patch, messages: str, reply: Reply, attempt: int) -> Reply:
    """Ask once for the letter, past the server's chat parser: rendered template, prefilled answer, /completion.

    Args:
        server: running.
        protocol: its sampling fields are sent, with the seed of the reply that needs a patch.
        patch: the protocol's patch.
        messages: the question's messages as JSON.
        reply: the reply that needs a patch.
        attempt: number of this attempt, for the ledger.

    Returns:
        A ledger line of kind "patch"; failed when the server gave no usable reply.
    """
    answer = _ask(server, protocol, patch, messages, reply)
    message = Message(error=answer.error) if answer.error else completion_message(answer.body, server.alias)
    return Reply(
        kind="patch",
        question=reply.question,
        repeat=reply.repeat,
        prompt=reply.prompt,
        attempt=attempt,
        seed=reply.seed,
        status=answer.status,
        text=answer.text,
        seconds=answer.seconds,
        server=server.number,
        elsewhere=server.elsewhere,
        continues=reply.digest(),
        **message.fields(),
    )


def _ask(server: Server, protocol: Protocol, patch: Patch, messages: str, reply: Reply) -> Answer:
    seconds = protocol.limits.request_seconds
    rendered = {"messages": json.loads(messages), "chat_template_kwargs": dict(protocol.chat.template_kwargs)}
    template = post(server.client, f"{server.url}/apply-template", rendered, seconds=seconds)
    if template.error is not None:
        return template
    rendered_prompt = template.body.get("prompt")
    prompt = clean_text(rendered_prompt) if isinstance(rendered_prompt, str) else None
    if prompt is None:
        return Answer(template.status, "malformed: /apply-template returned no prompt", template.text, template.seconds)
    # /completion adds the beginning-of-sequence token itself; a literal one would stand twice.
    prompt = prompt.removeprefix(str(server.props.get("bos_token") or ""))
    fields: dict[str, Any] = {
        **protocol.sampling.model_dump(mode="json"),
        "seed": reply.seed,
        "prompt": METHODS[patch.method](patch, prompt, reply),
        "n_predict": patch.max_tokens,
        "cache_prompt": protocol.server.prompt_cache,
        "stream": False,
        "response_fields": list(SAID),
    }
    if patch.grammar is not None:
        fields["grammar"] = patch.grammar
    if patch.letter_probabilities:
        fields["n_probs"] = patch.letter_probabilities
    return post(server.client, f"{server.url}/completion", fields, seconds=seconds)


PATTERN_LIMITS = Limits(memory=256 << 20, seconds=5, answer=64 << 20)


def patched_letter(patch: Patch, reply: Reply, letters: str) -> str | None:
    """The letter in a patch's reply, or None.

    The pattern is the protocol's and the text the model's: another's both, and some patterns look at some texts for ever.

    Raises:
        InputError: the pattern finds no end.
    """
    if reply.failed or not reply.content:
        return None
    what = f"patch.answer_pattern {patch.answer_pattern!r} on a reply of {len(reply.content):,} characters"
    letter = str(bounded(what, first_group, patch.answer_pattern, reply.content, limits=PATTERN_LIMITS)).upper()
    return letter if letter and letter in letters else None
