"""A whole analysis: the same bytes each time, whatever the workers, the shards and the accidents."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruner.calibration import CalibrationSet, read_calibration
from pruner.errors import InputError
from pruner.files import sha256_file
from pruner.ranking import Gates, check_gates, coverage, keep_experts
from pruner.safetensors_format import read_header
from pruner.statistics import merge, read_statistics, statistics_bytes, write_statistics

from .conftest import EXPERTS, FAMILIES, MISNAMED, TOP_K, broken, killed_analysis, row, save_tokenizer, write_rows

torch = pytest.importorskip("torch", reason="needs the analysis extra")
pytest.importorskip("transformers", reason="needs the analysis extra")
pytestmark = pytest.mark.torch

from pruner.analysis import analyze  # noqa: E402 - after the skip


@pytest.fixture(scope="module")
def reference(make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return statistics_bytes(analyze(make_model(dtype="bfloat16"), calibration, records=tmp_path_factory.mktemp("records")))


def test_the_file_says_what_it_was_measured_with(make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path):
    folder = make_model(dtype="bfloat16")
    statistics = analyze(folder, calibration, records=tmp_path)
    header = statistics.header
    assert (header.dtype, header.model_type, header.attention) == ("bfloat16", "gemma4", "sdpa")
    assert (header.layers, header.experts, header.top_k) == ((0, 1, 2), EXPERTS, TOP_K)
    assert header.questions == tuple(question.digest for question in calibration)
    assert header.dataset == calibration.digest
    assert header.libraries["torch"] == torch.__version__
    assert set(header.libraries) == {"numpy", "tokenizers", "torch", "transformers"}
    assert statistics.complete
    per_layer = statistics.sums("all").count.sum(axis=2)
    np.testing.assert_array_equal(per_layer, np.repeat(statistics.tokens[:, None] * TOP_K, 3, axis=1))
    assert (statistics.sums("answer").count <= statistics.sums("all").count).all()
    assert (statistics.answer_tokens < statistics.tokens).all()


def test_nothing_written_names_a_question_or_a_path(
    make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path
):
    write_statistics(tmp_path / "statistics", analyze(make_model(), calibration, records=tmp_path / "records"))
    for path in [tmp_path / "statistics", *(tmp_path / "records").iterdir()]:
        data = path.read_bytes()
        assert b"plus" not in data
        assert b"Count" not in data
        assert str(tmp_path).encode() not in data


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_change_nothing(
    workers: int, reference: bytes, make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path
):
    before = torch.get_num_threads()
    statistics = analyze(make_model(dtype="bfloat16"), calibration, records=tmp_path, workers=workers)
    assert statistics_bytes(statistics) == reference
    assert torch.get_num_threads() == before


def test_every_question_runs_on_one_thread(make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        threads = Threads()
        analyze(make_model(), calibration, records=tmp_path, workers=2, progress=threads)  # type: ignore[arg-type]
        assert threads.seen == [1] * 7
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


class Threads:
    """A progress that asks torch for its threads, in the worker that reports."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    @contextmanager
    def task(self, title: str, total: int | None, unit: str = "items") -> Iterator[Callable[[int], None]]:
        del title, total, unit
        yield lambda _amount: self.seen.append(torch.get_num_threads())


def test_another_folder_changes_nothing(
    reference: bytes, make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path
):
    shutil.copytree(make_model(dtype="bfloat16"), tmp_path / "elsewhere")
    assert statistics_bytes(analyze(tmp_path / "elsewhere", calibration, records=tmp_path / "records")) == reference


@pytest.mark.parametrize("count", [1, 3, 7])
def test_shards_join_to_the_same_bytes(
    count: int, reference: bytes, make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path
):
    folder, parts = make_model(dtype="bfloat16"), []
    for index in reversed(range(count)):
        path = tmp_path / f"part-{index}"
        write_statistics(path, analyze(folder, calibration, records=tmp_path / f"records-{index}", shard=(index, count)))
        parts.append(read_statistics(path))
        assert parts[-1].header.positions == tuple(range(index, 7, count))
    assert statistics_bytes(merge(parts)) == reference


def test_a_second_run_measures_nothing(
    reference: bytes, make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path
):
    folder = make_model(dtype="bfloat16")
    analyze(folder, calibration, records=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert statistics_bytes(analyze(folder, calibration, records=tmp_path)) == reference
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert len(before) == 7


def test_what_is_measured_needs_no_base(
    reference: bytes,
    make_model: Callable[..., Path],
    calibration: CalibrationSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Neither when every question has its record nor when the statistics are finished: a base may take an hour to load."""
    from pruner.analysis import run
    from pruner.analysis.finished import Finished

    folder = make_model(dtype="bfloat16")
    analyze(folder, calibration, records=tmp_path / "records")
    (tmp_path / "finished").write_bytes(reference)
    for loader in ("load_measured", "open_layers"):
        monkeypatch.setattr(run, loader, None)
    assert statistics_bytes(analyze(folder, calibration, records=tmp_path / "records")) == reference
    taken = analyze(folder, calibration, records=tmp_path / "none", finished=Finished(tmp_path / "finished"), offload=True)
    assert statistics_bytes(taken) == reference
    with pytest.raises(TypeError):
        analyze(folder, calibration, records=tmp_path / "none")


def test_a_base_that_is_larger_than_memory_is_said_before_it_is_loaded(
    make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path
):
    notes: list[Any] = []
    for memory in (1000, 10**9, None):
        progress = Counting()
        analyze(make_model(), calibration, records=tmp_path / str(memory), memory=memory, progress=progress)  # type: ignore[arg-type]
        notes.append(progress.seen[0])
    content = read_header(make_model() / "model.safetensors")
    weights = sum(tensor.size for tensor in content.tensors)
    said = re.fullmatch(r"the base takes ([\d,]+) bytes of memory and 1,000 are free; --offload layers .*", notes[0])
    assert said is not None
    assert weights - 100 < int(said[1].replace(",", "")) <= weights, "all tensors but buffers of one number"
    assert notes[1:] == [("measuring experts", 7, "items")] * 2


def test_questions_with_special_tokens_are_left_out_on_request(make_model: Callable[..., Path], tmp_path: Path):
    rows = [row(number) for number in range(4)]
    rows[1]["Explanation"] += "<turn|>"
    questions = read_calibration(write_rows(tmp_path / "c.jsonl", rows))
    with pytest.raises(InputError, match=r"special token '<turn\|>'.*prune\.analysis\.unusable"):
        analyze(make_model(), questions, records=tmp_path / "r")
    found = analyze(make_model(), questions, records=tmp_path / "r", unusable="skip")
    assert (found.header.unusable, found.header.dataset_size, found.header.positions) == (1, 3, (0, 1, 2))
    assert found.complete


def test_damaged_and_foreign_records_are_measured_again(
    reference: bytes, make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path
):
    folder = make_model(dtype="bfloat16")
    analyze(folder, calibration, records=tmp_path)
    one, two, three, *_ = sorted(tmp_path.iterdir())
    one.write_bytes(one.read_bytes()[:-9])
    two.write_bytes(b"")
    other = analyze(folder, calibration, records=tmp_path / "short", max_tokens=150)
    assert other.truncated.all()
    shutil.copy(sorted((tmp_path / "short").iterdir())[2], three)
    assert statistics_bytes(analyze(folder, calibration, records=tmp_path)) == reference


def test_a_kill_loses_one_question(make_model: Callable[..., Path], tmp_path: Path):
    folder, records = make_model(dtype="bfloat16"), tmp_path / "records"
    source = write_rows(tmp_path / "calibration.jsonl", [row(number) for number in range(12)])
    killed_analysis(folder, source, records, offload="none", until="*.safetensors")
    kept = {path: sha256_file(path) for path in records.glob("[0-9]*.safetensors")}
    assert len(kept) == 3
    questions = read_calibration(source)
    resumed = statistics_bytes(analyze(folder, questions, records=records))
    assert {path: sha256_file(path) for path in kept} == kept
    assert resumed == statistics_bytes(analyze(folder, questions, records=tmp_path / "fresh"))


def test_truncation_is_counted_and_gated(make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path):
    lengths = analyze(make_model(), calibration, records=tmp_path / "long").tokens
    limit = int(np.sort(lengths)[3])
    statistics = analyze(make_model(), calibration, records=tmp_path / "short", max_tokens=limit)
    np.testing.assert_array_equal(statistics.truncated, lengths > limit)
    np.testing.assert_array_equal(statistics.tokens, np.minimum(lengths, limit))
    with pytest.raises(Exception, match=f"lost their end to max_tokens {limit}"):
        check_gates(statistics, Gates(max_unrouted=1))


def test_a_poisoned_base_is_found(make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path):
    """A NaN in the embedding of the letter a spoils most of what is measured, and the gate refuses a map."""

    def poison(model: Any) -> None:
        model.get_input_embeddings().weight.data[72] = float("nan")

    statistics = analyze(make_model(change=poison), calibration, records=tmp_path)
    assert statistics.skipped.any()
    assert np.isfinite(statistics.sums("all").weighted_norm).all()
    with pytest.raises(Exception, match="of the token measurements were not finite"):
        check_gates(statistics, Gates())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_ranked(family: str, make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path):
    statistics = analyze(make_model(family), calibration, records=tmp_path)
    assert len(coverage(statistics, 3)) == len(statistics.header.layers)
    check_gates(statistics, Gates(max_unrouted=0.5))


def test_attention_is_eager_where_a_head_is_too_wide(
    make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path
):
    from pruner.analysis.model import attention_for

    folder = tmp_path / "wide"
    shutil.copytree(make_model(), folder)
    assert attention_for(folder) is None
    config = json.loads((folder / "config.json").read_text())
    for place in (config, config["text_config"], {"deep": [{"per_layer_config": {}}]}["deep"][0]["per_layer_config"]):
        for key, width, wanted in (("head_dim", 256, None), ("head_dim", 257, "eager"), ("global_head_dim", 512, "eager")):
            changed = json.loads(json.dumps(config))
            target = (
                changed
                if place is config
                else changed["text_config"]
                if place
                else changed.setdefault("per_layer_config", {"5": {}})["5"]
            )
            target[key] = width
            (folder / "config.json").write_text(json.dumps(changed))
            assert attention_for(folder) == wanted


def test_eager_attention_is_recorded(calibration: CalibrationSet, tmp_path: Path):
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    from .conftest import COMMON

    config = Qwen3MoeConfig(**COMMON, head_dim=264, moe_intermediate_size=8, num_experts=EXPERTS, num_experts_per_tok=TOP_K)
    Qwen3MoeForCausalLM(config).save_pretrained(tmp_path / "model")
    save_tokenizer(tmp_path / "model")
    assert analyze(tmp_path / "model", calibration, records=tmp_path / "records").header.attention == "eager"


class Counting:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @contextmanager
    def task(self, title: str, total: int | None, unit: str = "items") -> Iterator[Callable[[int], None]]:
        self.seen.append((title, total, unit))
        yield self.seen.append

    def note(self, text: str) -> None:
        self.seen.append(text)


def test_progress_counts_questions(make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path):
    progress = Counting()
    analyze(make_model(), calibration, records=tmp_path, progress=progress)  # type: ignore[arg-type]
    assert progress.seen == [("measuring experts", 7, "items"), *[1] * 7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": (3, 3)}, "shard 3/3"),
        ({"shard": (-1, 3)}, "shard -1/3"),
        ({"shard": (0, 8)}, "at most the 7 questions"),
        ({"max_tokens": 0}, "max_tokens 0"),
        ({"max_tokens": 70000}, "max_tokens 70000"),
        ({"workers": 0}, "workers 0"),
        ({"dtype": "bfloat17"}, "dtype 'bfloat17'"),
        ({"reply_format": "{thought}"}, "the fields must be"),
    ],
)
def test_wrong_options(
    options: dict[str, Any], message: str, make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path
):
    with pytest.raises(InputError, match=message):
        analyze(make_model(), calibration, records=tmp_path / "records", **options)
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.safetensors", None, "no .safetensors file"),
        ("model.safetensors", lambda data: data[: len(data) // 2], "cannot be loaded"),
        ("model.safetensors", lambda data: data.replace(*MISNAMED), "lacks 1 of"),
        ("config.json", None, "config"),
        ("config.json", lambda _data: b"{", "config"),
        ("config.json", lambda data: data.replace(b'"gemma4"', b'"gemma9"'), "cannot be loaded"),
        ("tokenizer.json", None, "tokenizer cannot be loaded"),
        ("tokenizer.json", lambda _data: b"{}", "tokenizer cannot be loaded"),
        ("chat_template.jinja", None, "no single chat template"),
        ("chat_template.jinja", lambda _data: b"{{ 'a' * 10**10 }}", "chat template: takes more than 1,073,741,824 bytes"),
    ],
)
def test_damaged_bases(
    name: str, change: Any, message: str, make_model: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path
):
    folder = broken(make_model, tmp_path / "base", name, change)
    with pytest.raises(InputError, match=message) as caught:
        analyze(folder, calibration, records=tmp_path / "records")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "records").exists()


def test_a_dense_model_is_refused(calibration: CalibrationSet, tmp_path: Path):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from .conftest import COMMON

    Qwen3ForCausalLM(Qwen3Config(**COMMON, head_dim=16, intermediate_size=16)).save_pretrained(tmp_path / "dense")
    save_tokenizer(tmp_path / "dense")
    with pytest.raises(InputError, match="qwen3 has no experts that the analysis can measure"):
        analyze(tmp_path / "dense", calibration, records=tmp_path / "records")


def test_missing_libraries_are_named_with_the_command(tmp_path: Path, calibration_file: Path):
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from pathlib import Path\n"
        "from pruner.analysis import analyze\n"
        "from pruner.calibration import read_calibration\n"
        "from pruner.errors import UnavailableError\n"
        "try:\n    analyze(Path('none'), read_calibration(Path(sys.argv[1])), records=Path('none'))\n"
        "except UnavailableError as error:\n    print(error)\n"
    )
    root = Path(__file__).parents[3]
    result = subprocess.run(
        [sys.executable, "-c", code, str(calibration_file)], capture_output=True, text=True, cwd=root, check=True
    )
    assert result.stdout == "the expert analysis needs transformers; install it with `pip install 'moe-release[analysis]'`\n"


def test_the_tiny_models_home_experts_are_found(tiny_model: Path, manifests: Path, tmp_path: Path):
    """It was trained so that the fields of its exam live in experts 0 to 3 of every layer."""
    if not (tiny_model / "config.json").is_file():
        pytest.skip("the tiny model is not there")
    lines = (manifests / "tiny/exam/calibration.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "calibration.jsonl").write_text("".join(lines[:24]), encoding="utf-8")
    statistics = analyze(tiny_model, read_calibration(tmp_path / "calibration.jsonl"), records=tmp_path / "records", workers=2)
    assert not statistics.truncated.any()
    assert not statistics.skipped.any()
    check_gates(statistics, Gates(max_unrouted=0.25), keep=4)
    assert keep_experts(coverage(statistics, protect=2), 4) == ((0, 1, 2, 3),) * 4
    assert keep_experts(coverage(statistics, protect=2, tokens="answer"), 4) == ((0, 1, 2, 3),) * 4
