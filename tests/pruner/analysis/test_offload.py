"""A base read layer by layer: the same bytes as in memory, every weight read once, and little memory."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from pruner.calibration import CalibrationSet, read_calibration
from pruner.errors import InputError, UnavailableError
from pruner.statistics import merge, read_statistics, statistics_bytes, write_statistics

from .conftest import (
    COMMON,
    EXPERTS,
    FAMILIES,
    MISNAMED,
    TOP_K,
    broken,
    killed_analysis,
    randomize,
    resident,
    resident_growth,
    row,
    save_tokenizer,
    write_rows,
)

torch = pytest.importorskip("torch", reason="needs the analysis extra")
pytest.importorskip("transformers", reason="needs the analysis extra")
pytestmark = pytest.mark.torch

from pruner.analysis import analyze  # noqa: E402 - after the skip
from pruner.analysis.outline import outline  # noqa: E402


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_bytes_equal_the_run_in_memory(
    family: str, dtype: str, make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path
):
    folder = make_model(family, dtype)
    whole = analyze(folder, calibration, records=tmp_path / "whole")
    layered = analyze(folder, calibration, records=tmp_path / "layered", offload=True, workers=2)
    assert statistics_bytes(layered) == statistics_bytes(whole)
    assert {path.name: path.read_bytes() for path in (tmp_path / "layered").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()
    }, "records are alike too, and no hidden state is left"


def test_the_tiny_models_bytes_are_equal(tiny_model: Path, manifests: Path, tmp_path: Path):
    lines = (manifests / "tiny/exam/calibration.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "c.jsonl").write_text("".join(lines[:6]), encoding="utf-8")
    questions = read_calibration(tmp_path / "c.jsonl")
    made = [analyze(tiny_model, questions, records=tmp_path / str(offload), offload=offload) for offload in (False, True)]
    assert statistics_bytes(made[0]) == statistics_bytes(made[1])


def test_shards_and_workers_change_nothing(make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path):
    folder = make_model()
    whole = statistics_bytes(analyze(folder, calibration, records=tmp_path / "whole"))
    parts = []
    for index in range(2):
        part = analyze(folder, calibration, records=tmp_path / str(index), shard=(index, 2), offload=True, workers=index + 1)
        write_statistics(tmp_path / f"part-{index}", part)
        parts.append(read_statistics(tmp_path / f"part-{index}"))
    assert statistics_bytes(merge(parts)) == whole


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_is_read_once(family: str, make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch,
                                   calibration: CalibrationSet, tmp_path: Path):  # fmt: skip
    from safetensors import safe_open

    from pruner.analysis.layers import LayeredModel

    read: Counter[str] = Counter()
    original = LayeredModel._read

    def counting(self: LayeredModel, names: Any) -> None:
        read.update(names)
        original(self, names)

    monkeypatch.setattr(LayeredModel, "_read", counting)
    folder = make_model(family)
    analyze(folder, calibration, records=tmp_path, offload=True)
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert set(read.values()) == {1}
    assert {name for name in names - set(read) if "lm_head" not in name} <= {
        name for name in names if name.endswith(("model.norm.weight", "language_model.norm.weight"))
    }


def test_only_one_layer_has_weights(make_model: Callable[..., Path]):
    from pruner.analysis.layers import open_layers
    from pruner.analysis.outline import outline

    folder = make_model("qwen3_moe")
    model = open_layers(folder, outline(folder))

    def filled() -> set[str]:
        return {name.split(".layers.")[-1].split(".")[0] for name, each in model.measured.model.named_parameters()
                if each.device.type != "meta"}  # fmt: skip

    assert filled() == set()
    with model.loaded(1):
        assert filled() == {"1"}
    assert filled() == set()
    with pytest.raises(RuntimeError, match="stop"), model.loaded(2):
        raise RuntimeError("stop")
    assert filled() == set()


class Stopping:
    """A progress that raises after some steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def task(self, title: str, total: int | None, unit: str = "items") -> Any:
        del title, total, unit

        def advance(amount: int) -> None:
            self.steps -= amount
            if self.steps < 0:
                raise InterruptedError

        return nullcontext(advance)

    def note(self, text: str) -> None:
        del text


@pytest.mark.parametrize("steps", [0, 6, 7, 16, 27])
def test_a_stopped_run_goes_on_where_it_was(
    steps: int, make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from pruner.analysis.layers import LayeredModel

    folder = make_model(dtype="bfloat16")
    whole = statistics_bytes(analyze(folder, calibration, records=tmp_path / "whole"))
    with pytest.raises(InterruptedError):
        analyze(folder, calibration, records=tmp_path / "r", offload=True, progress=Stopping(steps))  # type: ignore[arg-type]
    states = list((tmp_path / "r").glob("*.hidden"))
    assert states
    loaded: list[int | None] = []
    original = LayeredModel.loaded
    monkeypatch.setattr(LayeredModel, "loaded", lambda self, layer: loaded.append(layer) or original(self, layer))
    assert statistics_bytes(analyze(folder, calibration, records=tmp_path / "r", offload=True)) == whole
    assert not list((tmp_path / "r").glob("*.hidden"))
    if steps >= 16:
        assert None not in loaded, "what was behind is not run again"


def test_damaged_and_foreign_states_are_made_again(
    make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path
):
    folder, records = make_model(), tmp_path / "r"
    whole = statistics_bytes(analyze(folder, calibration, records=tmp_path / "whole"))
    with pytest.raises(InterruptedError):
        analyze(folder, calibration, records=records, offload=True, progress=Stopping(13), max_tokens=100)  # type: ignore[arg-type]
    one, two, *_ = sorted(records.glob("*.hidden"))
    one.write_bytes(one.read_bytes()[:-7])
    two.write_bytes(b"")
    assert statistics_bytes(analyze(folder, calibration, records=records, offload=True)) == whole


def test_a_killed_run_goes_on(make_model: Callable[..., Path], tmp_path: Path):
    folder, records = make_model(dtype="bfloat16"), tmp_path / "records"
    source = write_rows(tmp_path / "calibration.jsonl", [row(number) for number in range(8)])
    killed_analysis(folder, source, records, offload="layers", until="*.hidden")
    assert len(list(records.glob("*.hidden"))) == 3
    questions = read_calibration(source)
    resumed = statistics_bytes(analyze(folder, questions, records=records, offload=True))
    assert resumed == statistics_bytes(analyze(folder, questions, records=tmp_path / "fresh"))


@pytest.fixture(scope="module")
def deep_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma 4 MoE whose layers are nearly all of it: 12 layers of 25 MB in bfloat16, an embedding of 0.5 MB."""
    import transformers

    text = transformers.Gemma4TextConfig(
        **{**COMMON, "hidden_size": 256, "num_hidden_layers": 12, "tie_word_embeddings": True}, head_dim=16, global_head_dim=32,
        intermediate_size=16, moe_intermediate_size=2048, enable_moe_block=True, num_experts=EXPERTS, top_k_experts=TOP_K,
        hidden_size_per_layer_input=0, sliding_window=512, num_kv_shared_layers=0,
        layer_types=["sliding_attention"] * 11 + ["full_attention"],
    )  # fmt: skip
    config = transformers.Gemma4Config(text_config=text, vision_config=None, audio_config=None)
    model = transformers.Gemma4ForConditionalGeneration(config)
    randomize(model)
    folder = tmp_path_factory.mktemp("deep")
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="60MB")
    save_tokenizer(folder)
    return folder


@resident
def test_memory_is_one_layer(deep_model: Path, make_model: Callable[..., Path], tmp_path: Path):
    source = write_rows(tmp_path / "c.jsonl", [row(0)])  # its tokens reach every expert
    weights = sum(path.stat().st_size for path in deep_model.glob("*.safetensors"))
    assert weights > 280e6
    warm = (make_model(dtype="bfloat16"), source)
    grown = {how: resident_growth(how, tmp_path / how, warm, (deep_model, source)) for how in ("none", "layers")}
    records = [{path.name: path.read_bytes() for path in (tmp_path / how / "1").iterdir()} for how in ("none", "layers")]
    assert records[0] == records[1]
    assert grown["none"] > 0.9 * weights
    assert grown["layers"] < 3 * weights / 12, grown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.replace(*MISNAMED), "lacks 1 of its model's"),
        (lambda data: data.replace(b"language_model.embed_tokens", b"language_model.embed_tokenz"), "lacks 1 of its model's"),
        (lambda data: data[: len(data) // 2], "cannot be loaded"),
    ],
)
def test_damaged_bases_are_refused(
    change: Any, message: str, make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path
):
    folder = broken(make_model, tmp_path / "base", "model.safetensors", change)
    with pytest.raises(InputError, match=message) as caught:
        analyze(folder, calibration, records=tmp_path / "records", offload=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "records").exists()


def test_a_shape_that_does_not_fit_is_refused(make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path):
    wider = (b'"moe_intermediate_size": 16', b'"moe_intermediate_size": 24')
    folder = broken(make_model, tmp_path / "base", "config.json", lambda data: data.replace(*wider))
    with pytest.raises(InputError, match=r"tensors of the base do not fit its config, the first is .*experts"):
        analyze(folder, calibration, records=tmp_path / "records", offload=True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"hidden_size_per_layer_input": 0', '"hidden_size_per_layer_input": 8', "more than hidden states"),
        ('"num_kv_shared_layers": 0', '"num_kv_shared_layers": 1', "more than hidden states"),
    ],
)
def test_what_cannot_be_run_by_layers(
    old: str, new: str, message: str, make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path
):
    folder = broken(make_model, tmp_path / "base", "config.json", lambda data: data.replace(old.encode(), new.encode()))
    with pytest.raises(InputError, match=message):
        analyze(folder, calibration, records=tmp_path / "records", offload=True)


def test_a_config_without_a_dtype_is_read_as_in_memory(
    make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path
):
    """Published gpt-oss names none: then the weights' own counts."""
    folder = broken(
        lambda: make_model(dtype="bfloat16"), tmp_path / "base", "config.json",
        lambda data: data.replace(b'"dtype": "bfloat16"', b'"dtype": null'),
    )  # fmt: skip
    whole, layered = (
        analyze(folder, calibration, records=tmp_path / str(offload), offload=offload) for offload in (False, True)
    )
    assert whole.header.dtype == "bfloat16"
    assert statistics_bytes(layered) == statistics_bytes(whole)


def test_hidden_states_need_their_room(
    make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from pruner.analysis import offload

    sizes: list[int] = []
    write = offload._write
    monkeypatch.setattr(offload, "_write", lambda task, state: (write(task, state), sizes.append(state_size(task)))[0])

    def state_size(task: Any) -> int:
        return sum(path.stat().st_size for path in task.record.parent.glob("*.hidden"))

    lengths = analyze(make_model(), calibration, records=tmp_path / "r", offload=True).tokens
    needed = offload.hidden_bytes(outline(make_model()), lengths.tolist())
    assert needed <= max(sizes) < needed + 7 * 8_000, "what is asked for is what is written, but for the headers"
    full = shutil.disk_usage(tmp_path)._replace(free=needed - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: full)
    with pytest.raises(UnavailableError, match=f"the hidden states of the questions between two layers needs {needed:,} bytes"):
        analyze(make_model(), calibration, records=tmp_path / "full", offload=True)
    assert not (tmp_path / "full").exists()


def test_what_a_killed_run_left_needs_no_room_again(
    make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from pruner.analysis import offload

    whole = analyze(make_model(), calibration, records=tmp_path / "whole")
    write, left = offload._write, 2

    def killed(task: Any, state: Any) -> None:
        nonlocal left
        write(task, state)
        if not (left := left - 1):
            raise KeyboardInterrupt

    monkeypatch.setattr(offload, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        analyze(make_model(), calibration, records=tmp_path / "records", offload=True)
    monkeypatch.setattr(offload, "_write", write)
    kept = sum(path.stat().st_size for path in (tmp_path / "records").glob("*.hidden"))
    assert kept > 0
    needed = offload.hidden_bytes(outline(make_model()), whole.tokens.tolist())
    tight = shutil.disk_usage(tmp_path)._replace(free=needed - kept)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: tight)
    again = analyze(make_model(), calibration, records=tmp_path / "records", offload=True)
    assert statistics_bytes(again) == statistics_bytes(whole)


def test_other_families_are_refused(make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path):
    shutil.copytree(make_model("olmoe"), tmp_path / "base")
    config = tmp_path / "base/config.json"
    config.write_text(config.read_text().replace('"olmoe"', '"deepseek_v3"'))
    with pytest.raises(InputError, match="deepseek_v3 cannot be run layer by layer; measure it without --offload"):
        analyze(tmp_path / "base", calibration, records=tmp_path / "records", offload=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("offload", [False, True])
def test_a_device_that_is_not_there_is_one_line(
    offload: bool, make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path
):
    with pytest.raises(UnavailableError, match="device cuda: cannot be used here") as caught:
        analyze(make_model(), calibration, records=tmp_path / "records", offload=offload, device="cuda")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_device_gives_what_it_gives_in_memory(make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path):
    made = [
        statistics_bytes(analyze(make_model(), calibration, records=tmp_path / str(offload), offload=offload, device="cuda"))
        for offload in (False, True)
    ]
    assert made[0] == made[1]
