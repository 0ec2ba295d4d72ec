"""Prompts: messages inside a base's chat template, which is a program of whoever published the base.

transformers renders templates in a sandbox that keeps them from files and from Python, and lets them use any memory and time.
So all prompts are rendered in one child process before the base is loaded, and no template runs anywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pruner.bounded import Limits, bounded
from pruner.errors import InputError

LONGER = 1 << 20
"""Characters that a template may put around a message: far more than any, and few enough to be tokenized."""
SECONDS, PER_SECOND = 20, 50
"""Seconds of a processor for all prompts, and how many prompts give one more."""


def chat_prompts(template: str, special_tokens: Mapping[str, Any], messages: Sequence[str]) -> list[str]:
    """The prompt of each user's message, with thinking enabled, up to where the model's turn begins.

    Args:
        template: a chat template.
        special_tokens: the tokenizer's, by the names that templates know.
        messages: texts of a user.

    Raises:
        InputError: the template cannot be rendered within bounded memory and time, or makes a message far longer.
    """
    limits = Limits(seconds=SECONDS + len(messages) // PER_SECOND)
    what = "the base's chat template"
    return [str(each) for each in bounded(what, _rendered, template, dict(special_tokens), list(messages), limits=limits)]


def _rendered(template: str, special_tokens: Mapping[str, Any], messages: Sequence[str]) -> list[str]:
    from transformers.utils.chat_template_utils import render_jinja_template  # what apply_chat_template of any tokenizer calls

    chats = [[{"role": "user", "content": message}] for message in messages]
    options = {**special_tokens, "enable_thinking": True}
    prompts = []
    for chat, message in zip(chats, messages, strict=True):
        rendered, _ = render_jinja_template([chat], chat_template=template, add_generation_prompt=True, **options)
        if len(rendered[0]) > len(message) + LONGER:
            sizes = f"{len(rendered[0]):,} characters of a message of {len(message):,}"
            raise InputError(f"the base's chat template: makes {sizes}; it is refused")
        prompts.append(rendered[0])
    return prompts
