"""Files in a repository that no release put there: which of them a user's loader would take for part of the model."""

from __future__ import annotations

from pathlib import PurePosixPath

from release.hub.card_check import RESULTS

CODE = (".py", ".pyc", ".ipynb", ".sh", ".js", ".so", ".dll", ".dylib", ".exe", ".jar", ".whl")
WEIGHTS = (
    *(".safetensors", ".gguf", ".ggml", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".h5", ".keras"),
    *(".msgpack", ".npy", ".npz", ".onnx", ".pb", ".tflite"),
)
READ_AT_THE_TOP = (".json", ".jinja", ".model", ".tiktoken")
VOCABULARIES = ("merges.txt", "vocab.txt", "vocab")
TEMPLATES = ("additional_chat_templates", "chat_templates")


def what_it_is(path: str) -> str | None:
    """What a file of a model repository would do to its users, by its name alone; None for one that no loader reads."""
    inside = PurePosixPath(path.lower())
    if path.startswith(RESULTS):
        return "results"
    if inside.suffix in CODE:
        return "code"
    if inside.suffix in WEIGHTS:
        return "weights"
    at_the_top = len(inside.parts) == 1
    if at_the_top and (inside.suffix in READ_AT_THE_TOP or inside.name in VOCABULARIES):
        return "configuration"
    return "chat templates" if inside.parts[0] in TEMPLATES else None
