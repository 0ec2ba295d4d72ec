"""lm-eval's own task, prompts, filters and metrics, with our data set, our option order and our replies."""

from __future__ import annotations

import functools
import json
import logging
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.errors import CheckFailedError, InputError, UnavailableError
from release.evaluation.data import OrderedRows, Row
from release.evaluation.protocol import Protocol

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM

MODEL_NAME = "moe-release-llama-server"
GROUP = "locked"


@dataclass(frozen=True)
class Request:
    """One question as lm-eval puts it: its text, the messages as JSON, and the request's other fields."""

    question: str
    messages: str
    fields: dict[str, Any]


Ask = Callable[[Sequence[Request]], list[str]]
"""Requests to the replies' contents in the same order, empty where there is none."""


@dataclass(frozen=True)
class Scored:
    """What lm-eval made of one question: `filtered` is its filter's output, `correct` its metric."""

    question: str
    messages: str
    target: str
    filtered: str
    correct: bool


class Examination:
    """A task of lm-eval, bound to the rows of a protocol's data set.

    Raises:
        UnavailableError: lm-eval is not installed.
        CheckFailedError: lm-eval, the task, its filter or its metric is not the protocol's.
    """

    def __init__(self, protocol: Protocol, rows: Sequence[Row], log: Path) -> None:
        self._protocol = protocol
        self._log = log
        require_version(protocol)
        with _chatter_to(log):
            self._task = _load_task(protocol, rows)

    def run(self, ask: Ask, limit: int | None = None) -> list[Scored]:
        """Put the questions, in the data set's order, and score the replies.

        Args:
            ask: called once with all questions; what it raises ends the run.
            limit: only the first questions.
        """
        with _chatter_to(self._log):
            from lm_eval.api.registry import get_model
            from lm_eval.evaluator import evaluate

            _model_class()
            result = evaluate(
                lm=get_model(MODEL_NAME)(ask, self._protocol.data.question_column),
                task_dict={"tasks": {self._protocol.task.name: self._task}, "groups": {}, "group_map": {}},
                limit=limit,
                bootstrap_iters=0,
                apply_chat_template=True,
            )
        samples = result["samples"][self._protocol.task.name]
        return [self._scored(sample) for sample in samples if sample["filter"] == self._protocol.task.filter]

    def targets(self) -> dict[str, str]:
        """The right letter of each question, by its text, as lm-eval has it."""
        column = self._protocol.data.question_column
        return {doc[column]: str(self._task.doc_to_target(doc)).strip("()") for doc in self._task.eval_docs}

    def _scored(self, sample: dict[str, Any]) -> Scored:
        return Scored(
            question=sample["doc"][self._protocol.data.question_column],
            messages=str(sample["arguments"][0][0]),
            target=str(sample["target"]),
            filtered=str(sample["filtered_resps"][0]),
            correct=sample[self._protocol.task.metric] == 1.0,
        )


def require_version(protocol: Protocol) -> None:
    """Raise unless the installed lm-eval is the protocol's."""
    try:
        installed = metadata.version("lm_eval")
    except metadata.PackageNotFoundError:
        raise UnavailableError("lm-eval is not installed; run `pip install 'moe-release[eval]'`") from None
    if installed != protocol.lm_eval:
        raise CheckFailedError(
            f"lm-eval {installed} is installed, protocol {protocol.name} wants {protocol.lm_eval}; "
            f"run `pip install lm-eval=={protocol.lm_eval}`"
        )


def _load_task(protocol: Protocol, rows: Sequence[Row]) -> Any:
    """The stock task; only its data set, the order of its shuffle, and the request's fields are ours."""
    import lm_eval.tasks

    name = protocol.task.name
    files = sorted(Path(lm_eval.tasks.__file__).parent.rglob(f"{name}.yaml"))
    if not files:
        raise CheckFailedError(f"lm-eval {protocol.lm_eval} has no task {name!r}")
    ours = {
        "task": name,
        "custom_dataset": lambda **_: defaultdict(lambda: OrderedRows(rows, protocol.data.question_column)),
        "generation_kwargs": {**protocol.request_fields(), "until": list(protocol.stop)},
    }
    manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=str(files[0].parent))  # all of them: 10 s
    task = manager.load({"group": GROUP, "task": [ours]})["tasks"][name]
    _check_task(protocol, task)
    return task


def _check_task(protocol: Protocol, task: Any) -> None:
    wanted = protocol.task
    filters = [each["name"] for each in task.config.filter_list or []]
    metrics = [each["metric"] for each in task.config.metric_list or []]
    if wanted.version != task.VERSION:
        raise CheckFailedError(f"lm-eval's task {wanted.name} has version {task.VERSION}, the protocol wants {wanted.version}")
    if wanted.filter not in filters or wanted.metric not in metrics:
        raise CheckFailedError(
            f"lm-eval's task {wanted.name} has filters {', '.join(filters)} and metrics {', '.join(metrics)}; "
            f"the protocol's score is {wanted.metric} of {wanted.filter}"
        )


@functools.cache
def _model_class() -> type[LM]:
    """Our model class, registered with lm-eval."""
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model

    @register_model(MODEL_NAME)
    class AskingModel(LM):  # type: ignore[misc]  # lm-eval is untyped
        """Hands each request of a task to `ask`, with the protocol's own fields, and returns the replies."""

        def __init__(self, ask: Ask, question_column: str) -> None:
            super().__init__()
            self._ask = ask
            self._question_column = question_column

        @property
        def tokenizer_name(self) -> str:
            """The server renders and tokenizes; lm-eval only needs a name."""
            return MODEL_NAME

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:  # noqa: FBT001, FBT002  # lm-eval's signature
            """The messages as JSON text: the server applies the template."""
            del add_generation_prompt
            return json.dumps(chat_history, ensure_ascii=False)

        def generate_until(self, requests: list[Instance]) -> list[str]:
            """Hand over all questions; the replies come back in their order."""
            return self._ask([self._request(instance) for instance in requests])

        def _request(self, instance: Instance) -> Request:
            messages, fields = instance.args
            fields = {name: value for name, value in fields.items() if name != "until"}  # lm-eval's word for our `stop`
            return Request(instance.doc[self._question_column], messages, fields)

        def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
            """A chat server has no log-likelihoods of given texts."""
            raise _no_likelihoods(len(requests))

        def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
            """A chat server has no log-likelihoods of given texts."""
            raise _no_likelihoods(len(requests))

    return AskingModel


def _no_likelihoods(requests: int) -> InputError:
    return InputError(f"a task that needs log-likelihoods cannot be asked through a chat server ({requests} requests)")


@contextmanager
def _chatter_to(log: Path) -> Iterator[None]:
    """Send lm-eval's log records and warnings to a file, and keep its progress bars off the terminal."""
    handler = logging.FileHandler(log, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("lm_eval")
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = lambda message, category, *_: logger.warning("%s: %s", category.__name__, message)
            with _without_bars():
                yield
    finally:
        logger.propagate = before
        logger.removeHandler(handler)
        handler.close()


@contextmanager
def _without_bars() -> Iterator[None]:
    import lm_eval.api.task as module

    bar = module.tqdm
    module.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        module.tqdm = bar
