"""The calibration set: prompts equal lm-eval's, replies stand in the thinking channel, and no text leaks."""

from __future__ import annotations

import csv
import hashlib
import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pruner import calibration
from pruner.calibration import (
    CalibrationSet,
    FieldMap,
    Question,
    RenderedQuestion,
    check_reply_format,
    clean_choice,
    default_reply_format,
    prompt_text,
    prompts_of,
    question_digest,
    read_calibration,
    read_classes,
    read_digests,
    reply_text,
    without_special_tokens,
)
from pruner.errors import InputError
from pruner.option_order import option_order

from .conftest import TEMPLATE, row, save_tokenizer, write_rows


def test_option_order_follows_its_written_rule():
    number = int(hashlib.sha256(b"What is 2+2?").hexdigest(), 16)
    wanted = [0, 1, 2, 3]
    for place in (3, 2, 1):
        other = number % (place + 1)
        number //= place + 1
        wanted[place], wanted[other] = wanted[other], wanted[place]
    assert option_order("What is 2+2?") == tuple(wanted)


def test_option_order_is_pinned():
    assert [option_order(text) for text in ("", "a", "é")] == [(2, 3, 0, 1), (0, 2, 1, 3), (2, 1, 3, 0)]


def test_option_order_is_fair():
    counts = dict.fromkeys(permutations(range(4)), 0)
    for number in range(2400):
        counts[option_order(str(number))] += 1
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 49.7  # chi-squared, 23 degrees, p = 0.001


@pytest.mark.parametrize("count", [0, -1, 27])
def test_option_order_refuses_other_counts(count: int):
    with pytest.raises(ValueError, match="1 to 26 choices"):
        option_order("text", count)
    assert option_order("text", 1) == (0,)


def test_reading(calibration_file: Path):
    found = read_calibration(calibration_file)
    assert len(found) == 7
    assert found.digest == hashlib.sha256(calibration_file.read_bytes()).hexdigest()
    for number, question in enumerate(found):
        source = row(number)
        listed = [source[f"Incorrect Answer {place}"] for place in (1, 2, 3)] + [source["Correct Answer"]]
        assert question.choices == tuple(listed[index] for index in option_order(source["Question"]))
        assert question.choices[question.answer] == source["Correct Answer"]
        assert question.letter == "ABCD"[question.answer]
        assert question.digest == question_digest(source["Question"])
    assert len({question.letter for question in found}) > 1


def test_prompt_is_lm_evals(tmp_path: Path):
    """The doc goes through lm-eval's own `preprocess` and its own template; only the shuffle is ours."""
    pytest.importorskip("lm_eval", reason="needs the eval extra")
    import lm_eval
    import yaml
    from jinja2 import BaseLoader, Environment, StrictUndefined
    from lm_eval.tasks.gpqa.cot_zeroshot.utils import preprocess

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda _loader, node: node.value)
    task = Path(lm_eval.__file__).parent / "tasks/gpqa/cot_zeroshot/_gpqa_cot_zeroshot_yaml"
    form = yaml.load(task.read_text(), Loader)["doc_to_text"]  # noqa: S506 - a SafeLoader with one more tag
    environment = Environment(loader=BaseLoader(), undefined=StrictUndefined)  # noqa: S701 - as lm-eval renders
    template = environment.from_string(form)
    source = {
        **row(3),
        "Question": " Why {x}?\nBecause  [title] ",
        "Incorrect Answer 1": " a  b [title] c\n",
        "Incorrect Answer 2": "[x] and [y]",
    }
    question = read_calibration(write_rows(tmp_path / "c.jsonl", [source])).questions[0]
    listed = [preprocess(source[name]) for name in FieldMap().choices]
    shown = [listed[index] for index in option_order(source["Question"])]
    doc = {"Question": source["Question"], **{f"choice{place}": choice for place, choice in enumerate(shown, start=1)}}
    assert prompt_text(question) == template.render(**doc)
    assert question.answer == shown.index(preprocess(source["Correct Answer"]))


def test_choices_are_cleaned_as_lm_eval_does():
    assert clean_choice("  a [title] b   c \n") == "a. b  c"


def test_equal_choices_take_the_first_letter_as_lm_eval_does(tmp_path: Path):
    source = row(1) | {"Incorrect Answer 1": "8", "Incorrect Answer 2": "8", "Incorrect Answer 3": "8", "Correct Answer": "8"}
    assert read_calibration(write_rows(tmp_path / "c.jsonl", [source])).questions[0].letter == "A"


def test_another_data_set_through_the_field_map(tmp_path: Path):
    rows = [{"q": "Two?", "a": "2", "wrong": "3", "why": " Count. ", "number": 5}]
    fields = FieldMap(question="q", choices=("a", "wrong"), reasoning="why", answer="a")
    question = read_calibration(write_rows(tmp_path / "c.jsonl", rows), fields).questions[0]
    assert sorted(question.choices) == ["2", "3"]
    assert question.choices[question.answer] == "2"
    assert question.reasoning == "Count."
    with pytest.raises(ValidationError, match="none of the choices"):
        FieldMap(choices=("a", "b"), answer="c")
    with pytest.raises(ValidationError, match="2 to 26"):
        FieldMap(choices=("a",), answer="a")


def test_digests_are_of_normalised_questions():
    same = ["What is  α?", " what\tis α?\n", "WHAT IS Α?", "What is \N{MATHEMATICAL BOLD SMALL ALPHA}?"]
    assert len({question_digest(text) for text in same}) == 1
    assert question_digest("What is β?") != question_digest(same[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"c\.jsonl: the calibration set holds no question"),
        (b"\n \n", "holds no question"),
        (b"{", r"c\.jsonl:1: not a JSON object"),
        (b"[1]\n", r"c\.jsonl:1: not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
        (b"\xff\xfe", "not UTF-8"),
        (json.dumps(row(1)).encode() + b"\n\n" + json.dumps(row(1)).encode(), r"c\.jsonl:3: the question of line 1"),
        (json.dumps(row(1) | {"Explanation": None}).encode(), r"c\.jsonl:1: column 'Explanation' is missing"),
        (json.dumps(row(1) | {"Correct Answer": 8}).encode(), r"column 'Correct Answer' is missing or no text"),
        (json.dumps(row(1) | {"Correct Answer": "\ud800"}).encode(), r"column 'Correct Answer' is missing or no text"),
        (json.dumps(row(1) | {"Question": "  "}).encode(), r"column 'Question'"),
    ],
)
def test_unusable_sets_are_refused_in_one_line(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "c.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_calibration(tmp_path / "c.jsonl")
    assert "\n" not in str(caught.value)
    assert "plus" not in str(caught.value), "a message quotes a question"


def write_csv(path: Path, rows: list[dict[str, Any]], start: str = "") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(start)
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_csv_as_gpqa_has_it_gives_the_same_questions(tmp_path: Path):
    """Cells over several lines, commas and quotes in them, a byte order mark, numbers that stay text."""
    rows = [row(number) for number in range(4)]
    rows[1] |= {"Question": 'Why "so",\r\nand\n\nnot, otherwise?', "Explanation": "Because,\nwell."}
    lines = read_calibration(write_rows(tmp_path / "c.jsonl", rows))
    for name, start in (("c.csv", ""), ("bom.csv", "\N{ZERO WIDTH NO-BREAK SPACE}")):
        assert read_calibration(write_csv(tmp_path / name, rows, start)).questions == lines.questions


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2,3\n", r"c\.csv:2: more cells than there are columns"),
        ('a,b\n"1,2\n', r"c\.csv:2: not CSV"),
        ('a,b\n"1"x,2\n', r"c\.csv:2: not CSV"),
        ("Question\nWhy?\n", r"c\.csv:2: column 'Incorrect Answer 1' is missing"),
        ("Question\n", "holds no question"),
        ("", "holds no question"),
    ],
)
def test_unusable_csv_is_refused_in_one_line(tmp_path: Path, content: str, message: str):
    (tmp_path / "c.csv").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_calibration(tmp_path / "c.csv")
    assert "\n" not in str(caught.value)


def test_classes_are_named_by_the_questions_digest(tmp_path: Path):
    rows = [row(number) | {"field": f" {'ab'[number % 2]}"} for number in range(3)]
    path = write_rows(tmp_path / "c.jsonl", rows)
    assert read_classes(path, FieldMap(), "field") == {
        question_digest(each["Question"]): each["field"].strip() for each in rows
    }
    assert read_digests(path, FieldMap()) == tuple(question_digest(each["Question"]) for each in rows)
    with pytest.raises(InputError, match=r"c\.jsonl:1: column 'subject' is missing"):
        read_classes(path, FieldMap(), "subject")


@pytest.mark.parametrize("empty", ["", " \n", None])
def test_questions_without_reasoning_are_a_choice(tmp_path: Path, empty: Any):
    rows = [row(0), row(1) | {"Explanation": empty}, row(2)]
    path = write_rows(tmp_path / "c.jsonl", rows)
    with pytest.raises(InputError, match=r"c\.jsonl:2: column 'Explanation' is missing or no text"):
        read_calibration(path)
    skipped = read_calibration(path, without_reasoning="skip")
    assert ([each.text for each in skipped], skipped.left_out) == ([rows[0]["Question"], rows[2]["Question"]], 1)
    alone = read_calibration(path, without_reasoning="answer_only")
    assert ([bool(each.reasoning) for each in alone], alone.left_out) == ([True, False, True], 0)
    one = alone.questions[1]
    assert reply_text(one, "<think>{reasoning}</think> ({letter})") == f"<think></think> ({one.letter})"
    assert skipped.digest == alone.digest


def test_unusable_questions_are_a_choice(tmp_path: Path):
    rows = [row(0), row(1) | {"Incorrect Answer 2": ""}, row(2), row(0) | {"Explanation": "again"}, row(3) | {"Question": None}]
    path = write_rows(tmp_path / "c.jsonl", rows)
    with pytest.raises(InputError, match=r"c\.jsonl:2: column 'Incorrect Answer 2' is missing or no text"):
        read_calibration(path)
    found = read_calibration(path, unusable="skip")
    assert [each.text for each in found] == [rows[0]["Question"], rows[2]["Question"]]
    assert (found.unusable, found.left_out) == (3, 0)
    blank = write_rows(tmp_path / "blank.jsonl", [row(0), row(1) | {"Correct Answer": " "}, row(2) | {"Question": "\t"}])
    assert read_calibration(blank, unusable="skip").unusable == 2
    assert len(read_digests(path, FieldMap())) == 3, "the question without a choice has a digest, the row without text has none"
    write_rows(path, [row(0), row(0)])
    with pytest.raises(InputError, match=r"line 1 stands here again; remove one, or set prune\.analysis\.unusable"):
        read_calibration(path)
    write_rows(path, [{key: value for key, value in row(0).items() if key != "Incorrect Answer 2"}])
    with pytest.raises(InputError, match=r"c\.jsonl:1: column 'Incorrect Answer 2' is missing"):
        read_calibration(path, unusable="skip")


LISTED = FieldMap(question="q", choices="options", reasoning="why", answer="a", answer_as="letter")


@pytest.mark.parametrize(
    ("answer_as", "answer"), [("letter", "C"), ("letter", " (c). "), ("index", 2), ("index", "2"), ("index", " 02 ")]
)
def test_choices_in_a_list_and_answers_by_letter_or_number(tmp_path: Path, answer_as: str, answer: Any):
    fields = LISTED.model_copy(update={"answer_as": answer_as})
    options = ["one", "two", "three [title]", "four"]
    for choices in (options, json.dumps(options)):
        path = write_rows(tmp_path / "c.jsonl", [{"q": "Which?", "options": choices, "why": "C it is.", "a": answer}])
        found = read_calibration(path, fields).questions[0]
        assert found.choices == ("one", "two", "three. ", "four"), "in their own order: the reasoning may name letters"
        assert found.letter == "C"
    apart = FieldMap(question="q", choices=("x", "y", "z"), reasoning="why", answer="a", answer_as=answer_as)  # type: ignore[arg-type]
    write_rows(path, [{"q": "Which?", "x": "one", "y": "two", "z": "three", "why": "So.", "a": answer}])
    assert read_calibration(path, apart).questions[0].choices == ("one", "two", "three")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": "E"}, "column 'a' is no letter from A to D"),
        ({"a": "CD"}, "column 'a' is no letter from A to D"),
        ({"a": ""}, "column 'a' is missing or no text"),
        ({"options": "one, two"}, "column 'options' is missing or no list of texts"),
        ({"options": ["one", " "]}, "column 'options' is missing or no list of texts"),
        ({"options": ["one"]}, "column 'options' lists 1 choices; 2 to 26 are needed"),
    ],
)
def test_wrong_lists_and_letters_are_one_line(tmp_path: Path, change: dict[str, Any], message: str):
    rows = [{"q": "Which?", "options": ["one", "two", "three", "four"], "why": "So.", "a": "C"} | change]
    with pytest.raises(InputError, match=r"c\.jsonl:1: " + message):
        read_calibration(write_rows(tmp_path / "c.jsonl", rows), LISTED)


@pytest.mark.parametrize("answer", [4, -1, True, 1.0, "x", None, "9" * 6000])
def test_wrong_numbers_are_one_line(tmp_path: Path, answer: Any):
    rows = [{"q": "Which?", "options": ["one", "two", "three", "four"], "why": "So.", "a": answer}]
    with pytest.raises(InputError, match=r"c\.jsonl:1: column 'a' is no number from 0 to 3"):
        read_calibration(write_rows(tmp_path / "c.jsonl", rows), LISTED.model_copy(update={"answer_as": "index"}))


def test_a_list_of_choices_needs_a_kind_of_answer():
    with pytest.raises(ValidationError, match="say whether the answer is a letter or an index"):
        FieldMap(choices="options", answer="a")


def test_a_column_that_is_not_there_is_no_empty_reasoning(tmp_path: Path):
    for choice in ("skip", "answer_only"):
        path = write_rows(tmp_path / "c.jsonl", [{key: value for key, value in row(0).items() if key != "Explanation"}])
        with pytest.raises(InputError, match=r"c\.jsonl:1: column 'Explanation' is missing"):
            read_calibration(path, without_reasoning=choice)  # type: ignore[arg-type]
        path = write_rows(tmp_path / "c.jsonl", [row(0) | {"Explanation": 7}])
        with pytest.raises(InputError, match=r"c\.jsonl:1: column 'Explanation' is missing or no text"):
            read_calibration(path, without_reasoning=choice)  # type: ignore[arg-type]
    path = write_rows(tmp_path / "c.jsonl", [row(0) | {"Explanation": ""}])
    with pytest.raises(InputError, match="holds no question with reasoning"):
        read_calibration(path, without_reasoning="skip")


def test_digests_need_the_question_alone(tmp_path: Path):
    assert len(read_digests(write_rows(tmp_path / "c.jsonl", [{"q": "Two?"}, {"q": "Three?"}]), FieldMap(question="q"))) == 2
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds no question"):
        read_digests(tmp_path / "none.jsonl", FieldMap())


def test_a_missing_set_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_calibration(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("template", "start"),
    [
        ("{{ '<|channel>' }}", "<|channel>thought\n{reasoning}<channel|>The answer"),
        ("{{ '<|start|>assistant<|channel|>' }}", "<|channel|>analysis<|message|>{reasoning}<|end|>"),
        ("{{ '<think>' }}", "<think>\n{reasoning}\n</think>\n\nThe answer"),
        ("{{ messages }}", "{reasoning}\nThe answer"),
    ],
)
def test_the_reply_format_fits_the_template(template: str, start: str):
    form = default_reply_format(template)
    assert form.startswith(start)
    check_reply_format(form)


@pytest.mark.parametrize(
    "form", ["", "{reasoning}", "{letter}", "{reasoning}{letter}{answer}", "{reasoning.__class__}{letter}"]
)
def test_other_fields_in_a_reply_format_are_refused(form: str):
    with pytest.raises(InputError, match="the fields must be"):
        check_reply_format(form)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    transformers = pytest.importorskip("transformers", reason="needs the analysis extra")
    save_tokenizer(tmp_path / "tokenizer")
    return transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer")


def question(**changes: Any) -> Question:
    values = {"text": "Why?", "choices": ("a", "b", "c", "d"), "answer": 2, "reasoning": "Since {letter}.", "digest": "0" * 64}
    return Question(**{**values, **changes})


def render(tokenizer: Any, asked: Question, **options: Any) -> RenderedQuestion:
    return calibration.render(tokenizer, asked, *prompts_of(tokenizer, [asked]), **options)


@pytest.mark.torch
def test_prompts_are_what_the_tokenizer_makes_of_its_template(tokenizer: Any):
    asked = [question(text=f"{number}: <b>{{{{ x }}}}</b> & 'é'?") for number in range(3)]
    wanted = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt_text(each)}], tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        for each in asked
    ]
    assert prompts_of(tokenizer, asked) == wanted


@pytest.mark.torch
@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 'a' * 10**10 }}", r"takes more than 1,073,741,824 bytes of memory"),
        ("{% set x = namespace(a='a' * 1000000) %}{% for i in range(99) %}{% set x.a = x.a ~ x.a %}{% endfor %}", "of memory"),
        (
            "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
            "takes more than 1 seconds of a proc",
        ),
        ("{{ 10**(10**9) }}", "takes more than 1 seconds of a processor"),
        ("{{ 'a' * 2000000 }}", r"makes 2,000,000 characters of a message of"),
        ("{{ raise_exception('no\n such role') }}", "the base's chat template: TemplateError: no such role$"),
        ("{% for %}", "the base's chat template: TemplateSyntaxError: "),
    ],
)
def test_a_chat_template_is_rendered_in_bounds(tokenizer: Any, template: str, message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pruner.chat_prompts.SECONDS", 1)
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=message) as caught:
        prompts_of(tokenizer, [question()])
    assert str(caught.value).startswith("the base's chat template: ")


@pytest.mark.torch
def test_rendering(tokenizer: Any):
    rendered = render(tokenizer, question())
    text = tokenizer.decode(rendered.token_ids)
    prompt, reply = (tokenizer.decode(part) for part in
                     (rendered.token_ids[: rendered.answer_start], rendered.token_ids[rendered.answer_start :]))  # fmt: skip
    assert prompt + reply == text
    assert prompt == (
        "<bos><|turn>system\n<|think|><turn|>\n<|turn>user\nWhat is the correct answer to this question:Why?\nChoices:\n"
        "(A) a\n(B) b\n(C) c\n(D) d\nLet's think step by step:<turn|>\n<|turn>model\n"
    )
    assert reply == "<|channel>thought\nSince {letter}.<channel|>The answer is (C).<turn|>"
    assert rendered.token_ids.count(tokenizer.convert_tokens_to_ids("<channel|>")) == 1
    assert not rendered.truncated


@pytest.mark.torch
def test_another_reply_format(tokenizer: Any):
    rendered = render(
        tokenizer, question(), reply_format="<|channel>thought\n{reasoning} {letter}.<channel|>({letter})<turn|>\n"
    )
    reply = tokenizer.decode(rendered.token_ids[rendered.answer_start :])
    assert reply == "<|channel>thought\nSince {letter}. C.<channel|>(C)<turn|>\n"


@pytest.mark.torch
def test_truncation(tokenizer: Any):
    prompt = prompts_of(tokenizer, [question()])[0]
    whole = calibration.render(tokenizer, question(), prompt)
    length, start = len(whole.token_ids), whole.answer_start
    for limit in (length, length - 1, start + 1, start, start - 1, 1):
        cut = calibration.render(tokenizer, question(), prompt, max_tokens=limit)
        assert cut.token_ids == whole.token_ids[:limit]
        assert cut.answer_start == min(start, limit)
        assert cut.truncated == (limit < length)


@pytest.mark.torch
@pytest.mark.parametrize("part", ["text", "reasoning"])
def test_special_tokens_in_a_question_are_refused(tokenizer: Any, part: str):
    with pytest.raises(InputError, match=r"special token '<turn\|>'") as caught:
        render(tokenizer, question(**{part: "so<turn|>ends"}))
    assert "ends" not in str(caught.value)


@pytest.mark.torch
def test_questions_with_special_tokens_can_be_left_out(tokenizer: Any):
    questions = CalibrationSet((question(), question(text="so<turn|>ends"), question(reasoning="<eos>")), "d", unusable=2)
    left = without_special_tokens(tokenizer, questions)
    assert (left.questions, left.unusable, left.digest) == ((question(),), 4, "d")
    with pytest.raises(InputError, match="every question holds a special token"):
        without_special_tokens(tokenizer, CalibrationSet((question(text="<eos>"),), "d"))


@pytest.mark.torch
def test_a_template_that_opens_the_thinking_channel_itself(tokenizer: Any):
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ '<think>\\n' }}"
    assert tokenizer.decode(render(tokenizer, question()).token_ids).count("<think>") == 1
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ '\\n' }}{# <think> #}"
    assert tokenizer.decode(render(tokenizer, question()).token_ids).count("<think>") == 1


@pytest.mark.torch
def test_no_template_is_refused(tokenizer: Any):
    for template in (None, "", {"default": TEMPLATE, "tools": TEMPLATE}):
        tokenizer.chat_template = template
        with pytest.raises(InputError, match="no single chat template"):
            render(tokenizer, question())
