"""Files that no build put into a checkpoint: which of them a user's loader would take for part of the model."""

from __future__ import annotations

from pathlib import PurePosixPath

from pruner.sources import TEMPLATES

CODE = (".py", ".pyc", ".ipynb", ".sh", ".js", ".so", ".dll", ".dylib", ".exe", ".jar", ".whl")
WEIGHTS = (
    *(".safetensors", ".gguf", ".ggml", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".h5", ".keras"),
    *(".msgpack", ".npy", ".npz", ".onnx", ".pb", ".tflite"),
)
READ_AT_THE_TOP = (".json", ".jinja", ".model", ".tiktoken")
VOCABULARIES = ("merges.txt", "vocab.txt", "vocab")
LOCK = "lock.json"
"""How the names of locks end, which no loader reads."""


def taken_for(path: str) -> str | None:
    """What a loader would take a file of a checkpoint for, by its name alone; None for one that no loader reads."""
    inside = PurePosixPath(path.lower())
    if inside.suffix in CODE:
        return "code"
    if inside.suffix in WEIGHTS:
        return "weights"
    at_the_top = len(inside.parts) == 1
    if at_the_top and (inside.name == LOCK or inside.name.endswith(f".{LOCK}")):
        return None
    if at_the_top and (inside.suffix in READ_AT_THE_TOP or inside.name in VOCABULARIES):
        return "configuration"
    return "chat templates" if inside.parts[0] in (TEMPLATES, "chat_templates") else None
