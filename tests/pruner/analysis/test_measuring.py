"""The numbers are right, and looking at the experts changes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruner.calibration import CalibrationSet, RenderedQuestion, prompts_of, render
from pruner.errors import CheckFailedError
from pruner.packed_sums import pack, unpack
from pruner.ranking import Gates, check_gates, coverage, reap
from pruner.statistics import QuestionSums, Sums

from .conftest import EXPERTS, FAMILIES, TOP_K, naive_sums, watch
from .make import header_for, load_plain, statistics_of

torch = pytest.importorskip("torch", reason="needs the analysis extra")
pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rendered_by(folder: Path, calibration: CalibrationSet, place: int = 1, **options: Any) -> RenderedQuestion:
    from pruner.analysis.model import load_tokenizer

    tokenizer, question = load_tokenizer(folder), calibration.questions[place]
    return render(tokenizer, question, *prompts_of(tokenizer, [question]), **options)


def assert_close(sums: Sums, wanted: dict[str, Any], rtol: float = 1e-6) -> None:
    for name, values in wanted.items():
        np.testing.assert_allclose(getattr(sums, name), values, rtol=rtol, atol=0, err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_equal_a_naive_recompute(family: str, make_model: Callable[..., Path], calibration: CalibrationSet):
    from pruner.analysis.model import load_measured
    from pruner.analysis.run import forward, measure_question

    folder = make_model(family)
    question = rendered_by(folder, calibration)
    measured = load_measured(folder)
    record = measure_question(measured, question)
    plain = load_plain(folder)
    seen = watch(plain)
    forward(plain, question)
    assert measured.layers == ((0, 2) if family == "qwen3_moe" else (0, 1, 2))
    assert (measured.experts, measured.top_k) == (EXPERTS, TOP_K)
    assert_close(record.all, naive_sums(seen, EXPERTS))
    assert_close(record.answer, naive_sums(seen, EXPERTS, lambda row: row >= question.answer_start))
    # The file adds 2^-20 at most to any of them.
    assert_close(unpack(pack(record.all, 4096)), vars(record.all), rtol=2**-20)
    assert record.all.count.sum(axis=1).tolist() == [record.tokens * TOP_K] * len(measured.layers)
    assert 0 < record.answer_tokens < record.tokens
    assert record.answer.count.sum(axis=1).tolist() == [record.answer_tokens * TOP_K] * len(measured.layers)
    assert (record.all.count > 0).sum() > len(measured.layers) * TOP_K, "routing is trivial: the test shows nothing"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_eager_experts(
    family: str, dtype: str, make_model: Callable[..., Path], calibration: CalibrationSet
):
    from pruner.analysis.model import load_measured

    folder = make_model(family, dtype)
    token_ids = torch.tensor([rendered_by(folder, calibration).token_ids])
    with torch.inference_mode():
        ours = load_measured(folder).model(input_ids=token_ids, use_cache=False).logits
        eager = load_plain(folder)(input_ids=token_ids, use_cache=False).logits
    assert torch.equal(ours, eager)
    assert ours.isfinite().all()


def test_per_expert_scale_is_part_of_the_weight(make_model: Callable[..., Path], calibration: CalibrationSet):
    from pruner.analysis.model import load_measured
    from pruner.analysis.run import measure_question

    def triple(model: Any) -> None:
        model.model.language_model.layers[2].router.per_expert_scale.data[:] *= 3.0

    plain, tripled = make_model(), make_model(change=triple)
    records = [measure_question(load_measured(folder), rendered_by(folder, calibration)) for folder in (plain, tripled)]
    np.testing.assert_allclose(records[1].all.weighted_norm[2], 3 * records[0].all.weighted_norm[2], rtol=1e-6)
    np.testing.assert_array_equal(records[1].all.norm[2], records[0].all.norm[2])


def test_bfloat16_overflow(make_model: Callable[..., Path], calibration: CalibrationSet):
    """Real bfloat16 activations whose norm overflows when it is reduced in bfloat16; ours equals float64's."""
    from pruner.analysis.experts import _expert_output
    from pruner.analysis.model import load_measured
    from pruner.analysis.run import forward, measure_question

    def enlarge(model: Any) -> None:
        model.model.language_model.layers[1].experts.down_proj.data[3] *= 3e19

    folder = make_model(dtype="bfloat16", change=enlarge)
    question = rendered_by(folder, calibration)
    record = measure_question(load_measured(folder), question)
    plain = load_plain(folder)
    seen = watch(plain)
    forward(plain, question)
    module, states, index, weights = seen[1]
    rows = (index == 3).any(dim=1)
    output = _expert_output(module, 3, states[rows]).detach()
    assert output.dtype == torch.bfloat16
    assert output.isfinite().all()
    assert output.norm(dim=-1).isinf().any(), "nothing overflows: the test shows nothing"
    weight = weights.double().where(index == 3, 0).sum(dim=1)[rows]
    wanted = (weight[:, None] * output.double()).norm(dim=-1).sum().item()
    assert np.isfinite(wanted)
    np.testing.assert_allclose(record.all.weighted_norm[1, 3], wanted, rtol=1e-6)
    assert record.skipped.tolist() == [0, 0, 0]


def test_a_norm_in_bfloat16_loses_three_digits_and_ours_does_not():
    from pruner.analysis.experts import row_norms

    output = torch.randn(64, 2816, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = output.double().norm(dim=-1)
    assert ((output.norm(dim=-1).double() - exact).abs() / exact).max() > 1e-3
    assert ((row_norms(output) - exact).abs() / exact).max() < 5e-7


@pytest.mark.parametrize("scale", [0.0, 1e-25, 1e-3, 1.0, 1e4, 1e19, 1e30])
def test_row_norms_over_the_whole_range(scale: float):
    from pruner.analysis.experts import row_norms

    output = (torch.randn(5, 70, generator=torch.Generator().manual_seed(0)) * scale).bfloat16()
    np.testing.assert_allclose(row_norms(output), output.double().norm(dim=-1), rtol=5e-7)


def test_row_finite_sees_every_kind():
    from pruner.analysis.experts import row_finite

    values = torch.zeros(4, 3)
    values[1, 0], values[2, 2], values[3, 1] = torch.nan, torch.inf, -torch.inf
    assert row_finite(values).tolist() == [True, False, False, False]


def spoil(
    layer: int, token: int, argument: int, value: float, only_if: Callable[[], bool] = lambda: True
) -> Callable[[Any], None]:
    """Put `value` into one token's hidden states (0) or routing weights (2) before the experts of a layer."""

    def hook(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        changed = [each.clone() for each in args]
        if only_if():
            changed[argument][token] = value
        return tuple(changed)

    def attach(model: Any) -> None:
        from pruner.analysis.model import experts_modules

        dict(experts_modules(model))[layer].register_forward_pre_hook(hook)

    return attach


@pytest.mark.parametrize(("argument", "value"), [(0, float("nan")), (0, float("inf")), (2, float("nan")), (2, float("-inf"))])
def test_a_spoilt_token_is_as_if_absent(
    argument: int, value: float, make_model: Callable[..., Path], calibration: CalibrationSet
):
    from pruner.analysis.model import load_measured
    from pruner.analysis.run import forward, measure_question

    folder, token, layer = make_model(), 40, 2  # the last layer, so that attention carries nothing on
    question = rendered_by(folder, calibration)
    plain = load_plain(folder)
    seen = watch(plain)
    forward(plain, question)
    measured = load_measured(folder)
    spoil(layer, token, argument, value)(measured.model)
    record = measure_question(measured, question)
    assert record.skipped.tolist() == [0, 0, 1]
    last = {layer: seen[layer]}
    wanted = naive_sums(last, EXPERTS, lambda row: row != token)
    for name, values in wanted.items():
        np.testing.assert_allclose(getattr(record.all, name)[2:], values, rtol=1e-6, atol=0, err_msg=name)
    before = naive_sums({key: seen[key] for key in (0, 1)}, EXPERTS)
    np.testing.assert_allclose(record.all.weighted_norm[:2], before["weighted_norm"], rtol=1e-6)
    absent = statistics_of(wanted["weighted_norm"][None], wanted["count"][None])
    found = dataclasses.replace(
        absent,
        header=header_for(3, experts=EXPERTS, questions=1),
        question=lambda _row: QuestionSums(record.all, record.answer),
    )
    assert coverage(found, 3)[2] == coverage(absent, 3)[0]
    assert reap(found)[2] == reap(absent)[0]


def test_a_spoilt_token_of_a_whole_analysis_is_found_counted_and_absent_from_the_map(
    make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One token of one question in the last layer, from the analysis through the gates to the map."""
    from pruner.analysis import analyze, run
    from pruner.analysis.model import load_measured

    folder, layer, token, place = make_model(), 2, 40, 1
    spoilt = calibration.questions[place].digest
    running: list[str] = []
    forward = run.forward

    def watched(model: Any, question: RenderedQuestion) -> Any:
        running[:] = [question.digest]
        return forward(model, question)

    def loaded(folder: Path, **options: Any) -> Any:
        measured = load_measured(folder, **options)
        spoil(layer, token, 0, float("nan"), only_if=lambda: running == [spoilt])(measured.model)
        return measured

    clean = analyze(folder, calibration, records=tmp_path / "clean")
    monkeypatch.setattr(run, "forward", watched)
    monkeypatch.setattr(run, "load_measured", loaded)
    found = analyze(folder, calibration, records=tmp_path / "spoilt")
    assert np.argwhere(found.skipped).tolist() == [[place, layer]]
    assert found.skipped[place, layer] == 1
    share = 1 / (int(found.tokens.sum()) * 3)
    with pytest.raises(CheckFailedError, match=f"{share:.3%} of the token measurements were not finite"):
        check_gates(found, Gates(max_unrouted=1, max_non_finite=share / 2))
    check_gates(found, Gates(max_unrouted=1, max_non_finite=share), keep=4)

    plain = load_plain(folder)
    seen = watch(plain)
    forward(plain, rendered_by(folder, calibration, place))
    without = naive_sums(seen, EXPERTS, lambda number: number != token)
    for row in range(len(calibration)):
        ours, theirs = found.question(row).all, clean.question(row).all
        for name in without:
            wanted = np.array(getattr(theirs, name))
            if row == place:
                wanted[layer] = without[name][layer]
            np.testing.assert_allclose(getattr(ours, name), wanted, rtol=1e-6, err_msg=f"{row} {name}")
    absent = dataclasses.replace(
        clean, question=lambda row: with_layer(clean.question(row), layer, without) if row == place else clean.question(row)
    )
    assert (coverage(found, 3), reap(found)) == (coverage(absent, 3), reap(absent))


def with_layer(question: QuestionSums, layer: int, sums: dict[str, Any]) -> QuestionSums:
    """The sums of a question with those of one layer put in."""
    changed = {name: np.array(getattr(question.all, name)) for name in sums}
    for name, values in changed.items():
        values[layer] = sums[name][layer]
    return QuestionSums(Sums(**changed), question.answer)


def test_what_a_spoilt_token_poisons_is_left_out_too(make_model: Callable[..., Path], calibration: CalibrationSet):
    """Attention multiplies NaN by a weight of zero: one token spoils its whole question in every later layer."""
    from pruner.analysis.model import load_measured
    from pruner.analysis.run import measure_question

    folder = make_model()
    question = rendered_by(folder, calibration)
    clean = measure_question(load_measured(folder), question)
    measured = load_measured(folder)
    spoil(1, 5, 0, float("nan"))(measured.model)
    record = measure_question(measured, question)
    assert record.skipped.tolist() == [0, 1, len(question.token_ids)]
    assert record.all.count.sum(axis=1).tolist() == [TOP_K * (len(question.token_ids) - skipped) for skipped in record.skipped]
    np.testing.assert_array_equal(record.all.weighted_norm[0], clean.all.weighted_norm[0])
    np.testing.assert_array_equal(record.answer.weighted_norm[:2], clean.answer.weighted_norm[:2])
    assert not record.all.weighted_norm[2].any()
    assert all(np.isfinite(values).all() for values in vars(record.all).values())


def test_an_infinite_state_is_skipped_even_when_the_outputs_are_finite(make_model: Callable[..., Path]):
    """The gate of gpt-oss clamps: infinity goes in and finite numbers come out."""
    from pruner.analysis.experts import measured_experts
    from pruner.analysis.model import load_measured

    measured = load_measured(make_model("gpt_oss"))
    module = next(module for module in measured.model.modules() if hasattr(module, "has_post_expert_norm"))
    states, index = torch.ones(3, 32), torch.tensor([[0, 1]] * 3)
    states[1] = torch.inf
    with torch.inference_mode():
        module.gate_up_proj.abs_()
        result = measured_experts(module, states, index, torch.full((3, 2), 0.5))
    assert result.isfinite().all(), "the outputs are not finite: the test shows nothing"
    assert measured.recorders[0].take().finite.tolist() == [True, False, True]


def test_an_unmeasured_layer_is_noticed(make_model: Callable[..., Path], calibration: CalibrationSet):
    from pruner.analysis.model import load_measured
    from pruner.analysis.run import measure_question

    folder = make_model()
    measured = load_measured(folder)
    measured.model.set_experts_implementation("eager")
    with pytest.raises(CheckFailedError, match="without being measured"):
        measure_question(measured, rendered_by(folder, calibration))
