from __future__ import annotations

import json
from pathlib import Path

import pytest

from pruner.errors import CheckFailedError, InputError
from pruner.files import digest_of
from pruner.tensor_digests import tensor_data_digest
from release.lock import (
    Lock,
    LockedBase,
    LockedFile,
    LockedInputs,
    contradiction,
    differences,
    explain_weights,
    read_lock,
    write_lock,
)


def file(digest: str, **tools: str) -> LockedFile:
    return LockedFile(sha256=digest, size=1, made_with=tools or None)


def lock(
    *,
    base: str = "b",
    drop: list[int] | None = None,
    shard: str = "s",
    tensor: str = "t",
    size: int = 1,
    beside: str = "",
    name: str = "x",
    base_size: int = 1,
) -> Lock:
    tensors = {"layer.weight": {"dtype": "F16", "shape": [1], "sha256": tensor}}
    inputs = LockedInputs(
        base=LockedBase(name="org/base", files={"model.safetensors": LockedFile(sha256=base, size=base_size)}),
        drop_map={"0": drop or [1, 2]},
    )
    return Lock(
        name=name,
        inputs=inputs,
        tensor_data=tensor_data_digest([tensors]),
        outputs={
            **({"expert_statistics.safetensors": file(beside)} if beside else {}),
            "weights/a.safetensors": LockedFile(sha256=shard, size=size, tensors=tensors),
        },
    )


def test_a_lock_is_canonical_and_survives_a_round_trip(tmp_path: Path) -> None:
    write_lock(tmp_path / "x.lock.json", lock())
    again = read_lock(tmp_path / "x.lock.json")
    assert again == lock()
    assert (tmp_path / "x.lock.json").read_bytes() == lock().to_bytes()
    assert read_lock(tmp_path / "none.json") is None


@pytest.mark.parametrize("word", ["1.2.3", "x86_64 Some", "range requests", "org/base", "F16"])
def test_a_change_in_any_word_is_found(tmp_path: Path, word: str) -> None:
    """Also where nothing is compared: tools, what made a file, how a file was read."""
    whole = lock(beside="s")
    files = {**whole.inputs.base.files, "config.json": LockedFile(sha256="c", size=2, listed=True)}
    base = whole.inputs.base.model_copy(update={"files": files})
    tools = {"moe-release": "1.2.3", "read by": "range requests"}
    inputs = whole.inputs.model_copy(update={"tools": tools, "base": base})
    outputs = {**whole.outputs, "expert_statistics.safetensors": file("s", processor="x86_64 Some")}
    path = tmp_path / "x.lock.json"
    write_lock(path, whole.model_copy(update={"inputs": inputs, "outputs": outputs}))
    assert read_lock(path) is not None
    path.write_text(path.read_text().replace(f'"{word}"', f'"{word}!"'))
    with pytest.raises(InputError, match=r"x\.lock\.json: was damaged or edited by hand: the digest inside"):
        read_lock(path)


def test_a_lock_of_old_without_a_digest_is_read_and_other_spacing_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "x.lock.json"
    content = json.loads(lock().to_bytes())
    path.write_text(json.dumps(content))
    assert read_lock(path) == lock()
    path.write_text(json.dumps({**content, "digest": None}))
    with pytest.raises(InputError, match="was damaged or edited by hand"):
        read_lock(path)
    del content["digest"]
    path.write_text(json.dumps(content))
    assert read_lock(path) == lock()


@pytest.mark.parametrize("size", ["-1", "true", "1.0", '"1"', "1" + "0" * 30, "1125899906842625", "null", "1e3"])
def test_a_size_that_no_file_has_is_refused(tmp_path: Path, size: str) -> None:
    path = tmp_path / "x.lock.json"
    write_lock(path, lock(size=1125899906842624))
    path.write_text(path.read_text().replace('"size": 1125899906842624', f'"size": {size}'))
    with pytest.raises(
        InputError, match=r"x\.lock\.json: not a usable lock: outputs\.weights/a\.safetensors\.size: Input should"
    ):
        read_lock(path)


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"schema": "moe-release/lock/v2"}'])
def test_what_is_no_lock_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=r"x.json") as caught:
        read_lock(tmp_path / "x.json")
    assert "\n" not in str(caught.value)


def test_differences_are_explained_by_other_tools_only() -> None:
    locked = {"a": file("1"), "b": file("1", compiler="gcc 12"), "c": file("1", compiler="gcc 12"), "gone": file("1")}
    found = {"a": file("2"), "b": file("2", compiler="gcc 14"), "c": file("2", compiler="gcc 12"), "new": file("1")}
    result = {each.path: (each.kind, each.explained) for each in differences(locked, found)}
    assert result == {
        "a": ("changed", None),
        "b": ("changed", "locked with compiler gcc 12, here gcc 14"),
        "c": ("changed", None),
        "gone": ("missing", None),
        "new": ("new", None),
    }
    assert differences(locked, locked) == ()


def test_what_a_lock_does_not_say_of_the_converter_explains_nothing() -> None:
    locked = {"gguf/a.gguf": LockedFile(sha256="0" * 64, size=1, made_with={"processor": "p"})}
    found = {"gguf/a.gguf": LockedFile(sha256="1" * 64, size=1, made_with={"processor": "p", "converter": "d"})}
    assert [each.explained for each in differences(locked, found)] == [None]
    assert differences(found, locked)[0].explained is not None


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (lock(base="other"), "the base differs: model.safetensors"),
        (lock(drop=[1, 3]), r"layer 0 now drops experts \[3\] and keeps experts \[2\]$"),
        (lock(drop=[1]), r"layer 0 now keeps experts \[2\]; it drops 1 in that layer, the lock 2"),
        (lock(shard="other", size=2), "same weights, other packaging"),
        (lock(shard="other", tensor="other"), "other bytes in 1 tensor: layer.weight"),
        (lock(shard="other").model_copy(update={"tensor_data": None}), "without digests of their tensors"),
    ],
)
def test_a_mismatch_is_explained(found: Lock, words: str) -> None:
    import re

    assert re.search(words, explain_weights(lock(), found))


def test_shards_that_are_equal_are_not_called_packaging() -> None:
    config = {"weights/config.json": file("1")}
    locked, found = (lock().model_copy(update={"outputs": {**lock().outputs, **extra}}) for extra in (config, {}))
    assert explain_weights(locked, found) == "all shards are equal; other files differ"


@pytest.mark.parametrize(
    ("locked", "words"),
    [
        (lock(shard="flipped"), "a.safetensors with the right size and tensors and yet with another digest"),
        (lock(size=3), "a.safetensors with the right digest and yet with another size"),
        (lock(tensor="flipped"), "a.safetensors with the right digest and yet with other tensors"),
        (lock(drop=[3]), "the right weights and yet another drop map"),
        (lock(name="y"), "it is the lock of 'y'"),
        (lock(base_size=2), "base file model.safetensors with the right digest and yet with another size"),
        (lock(beside="s").model_copy(update={"tensor_data": "flipped"}), "digest of all tensors is not that of the tensors"),
    ],
)
def test_a_damaged_lock_is_not_taken_for_a_difference_of_the_build(locked: Lock, words: str) -> None:
    assert words in str(contradiction(locked, lock()))


def test_honest_locks_contradict_nothing() -> None:
    honest = (lock(), lock(shard="other", size=2), lock(shard="other", tensor="other", drop=[3]))
    assert [contradiction(locked, lock()) for locked in honest] == [None, None, None]


def test_the_files_of_a_quant_are_its_one_file_or_its_shards() -> None:
    names = [
        *(f"x-Q6_K-{number:05d}-of-00003.gguf" for number in (1, 2, 3)),
        "x-Q6_K-pure.gguf",
        "x-CD-Q6_K.gguf",
        "x-Q6_K.txt",
    ]
    outputs = {f"gguf/{name}": file(name) for name in reversed(names)}
    found = Lock(name="x", inputs=LockedInputs(base=LockedBase(name="b", files={})), outputs=outputs)
    assert found.quant_files("Q6_K") == names[:3]
    assert found.quant_digest("Q6_K") == digest_of(names[:3])
    assert found.quant_files("Q6_K-pure") == ["x-Q6_K-pure.gguf"]
    assert found.quant_digest("CD-Q6_K") == "x-CD-Q6_K.gguf"
    with pytest.raises(CheckFailedError, match="the lock lists no file of Q4_K_M"):
        found.quant_files("Q4_K_M")


def with_output(path: str, entry: LockedFile) -> Lock:
    return lock().model_copy(update={"outputs": {**lock().outputs, path: entry}})


def timed() -> Lock:
    """A lock with the seconds of a run."""
    return with_output("eval/Q6_K/timing.json", LockedFile(sha256="s", size=1, varies=True))


def test_seconds_may_differ_and_may_not_be_missing() -> None:
    seconds = {path: entry for path, entry in timed().outputs.items() if entry.varies}
    others = {path: entry.model_copy(update={"sha256": "t", "size": 2}) for path, entry in seconds.items()}
    (path,) = seconds
    assert differences(seconds, others) == ()
    assert [str(each) for each in differences(seconds, {})] == [f"{path} (missing)"]
    assert [str(each) for each in differences({}, seconds)] == [f"{path} (new)"]
    unmarked = {path: entry.model_copy(update={"varies": None}) for path, entry in others.items()}
    assert [str(each) for each in differences(seconds, unmarked)] == [f"{path} (changed)"]


def test_a_lock_with_seconds_survives_a_round_trip_and_older_locks_stay_as_they_were(tmp_path: Path) -> None:
    write_lock(tmp_path / "x.lock.json", timed())
    assert read_lock(tmp_path / "x.lock.json") == timed()
    assert b'"varies": true' in timed().to_bytes()
    assert b"varies" not in lock().to_bytes()


VARIES = LockedFile(sha256="x", size=1, varies=True)


def with_inputs(**inputs: object) -> Lock:
    return lock().model_copy(update={"inputs": lock().inputs.model_copy(update=inputs)})


@pytest.mark.parametrize(
    ("exempt", "path"),
    [
        *[
            (with_output(path, VARIES), path)
            for path in (
                "weights/a.safetensors",
                "weights/eval/Q6_K/timing.json",
                "gguf/x-Q6_K.gguf",
                "card/README.md",
                "eval/Q6_K/evidence.json",
                "eval/timing.json",
                "eval/a/b/timing.json",
                "eval/Q6_K/timing.json/x",
                "eval/Q6_K/timing_json",
            )
        ],
        (with_inputs(files={"eval/Q6_K/timing.json": VARIES}), "eval/Q6_K/timing.json"),
        (with_inputs(base=LockedBase(name="b", files={"model.safetensors": VARIES})), "model.safetensors"),
    ],
)
def test_a_lock_that_exempts_anything_but_seconds_is_refused(tmp_path: Path, exempt: Lock, path: str) -> None:
    write_lock(tmp_path / "x.lock.json", exempt)
    with pytest.raises(InputError, match=r"x\.lock\.json: not a usable lock: varies stands at .*only seconds vary") as refused:
        read_lock(tmp_path / "x.lock.json")
    assert path in str(refused.value)


@pytest.mark.parametrize("mark", ["false", "0", '"yes"', "[]"])
def test_a_mark_is_there_or_not(tmp_path: Path, mark: str) -> None:
    text = timed().to_bytes().replace(b'"varies": true', f'"varies": {mark}'.encode())
    (tmp_path / "x.lock.json").write_bytes(text)
    with pytest.raises(InputError, match="varies"):
        read_lock(tmp_path / "x.lock.json")
