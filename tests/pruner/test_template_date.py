"""Chat templates that ask for the day: the engine of transformers renders them alike on any day, and all others as before."""

from __future__ import annotations

from typing import Any

import pytest

from pruner.calibration import Question, prompts_of, render
from pruner.template_date import DIRECTIVES, MOMENT, template_date, timeless
from tests.pruner.analysis.conftest import TEMPLATE, save_tokenizer

transformers = pytest.importorskip("transformers", reason="needs the analysis extra")
pytestmark = pytest.mark.torch

FORMATS = [f"%{letter}" for letter in DIRECTIVES]
FORMATS += ["%Y-%m-%d", "%d %b %Y", "%B %-d, %Y at %H:%M", "%F %T", "%D %R", "on %A", "100"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def rendered(tokenizer: Any, template: str) -> str:
    messages = [{"role": "user", "content": "Why?"}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, chat_template=template))


@pytest.mark.parametrize("form", FORMATS)
def test_every_form_is_that_of_python(form: str, tokenizer: Any) -> None:
    assert rendered(tokenizer, timeless(f"{{{{ strftime_now({form!r}) }}}}")) == MOMENT.strftime(form)


@pytest.mark.parametrize(
    "template",
    [  # as in gpt-oss, as in Llama, and one where white space counts
        "{%- macro system() %}Today: {{ strftime_now('%Y-%m-%d') }}\n{% endmacro %}{{ system() }}{{ messages[0].content }}",
        "{%- if strftime_now is defined %}{% set day = strftime_now('%d %b %Y') %}{% endif %}{{ day }}",
        "\n  {% if true %}\n  {{ strftime_now(format='%Y') }}\n  {% endif %}\n",
    ],
)
def test_only_the_day_differs_from_what_the_engine_renders_now(template: str, tokenizer: Any) -> None:
    literal = template
    for form in ("'%Y-%m-%d'", "'%d %b %Y'", "'%Y'"):
        for call in (f"strftime_now({form})", f"strftime_now(format={form})"):
            literal = literal.replace(call, repr(MOMENT.strftime(form.strip("'"))))
    assert rendered(tokenizer, timeless(template)) == rendered(tokenizer, literal)
    assert template_date(template) == "2025-01-01"


def test_the_analysis_renders_the_fixed_day(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", "{{ strftime_now('%Y-%m-%d %H:%M') }}\n{{ messages[0].content }}")
    question = Question("Why?", ("a", "b"), 1, "Since.", "0" * 64)
    assert tokenizer.decode(render(tokenizer, question, *prompts_of(tokenizer, [question])).token_ids).startswith(
        "2025-01-01 00:00\nWhat is the correct answer"
    )


def test_other_templates_are_left_alone() -> None:
    assert timeless(TEMPLATE) == TEMPLATE
    assert template_date(TEMPLATE) is None
