"""Habits of the house that no linter knows: a test asserts something, modules and functions stay small, imports run one way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

MOST_LINES, MOST_FUNCTION_LINES = 400, 60
REASON = "# long because "
CHECKS = ("assert_", "require_", "expect_")
PYTEST = ("raises", "warns", "fail", "skip")
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
LEVELS = {"__main__": 6, "cli": 6, "commands": 5, "actions": 4, "verification": 4, "pipeline": 3, "stages": 2}
"""Of the modules and packages of `release`: whoever is not named is a part, below the stages; `pruner` is below all."""
ASKS_ABOVE = {("release.commands.known", "release.cli")}
"""What holds a command line against the program's own has to have the program; it is imported when it is asked for."""
MODULES = sorted(path for package in ("release", "pruner") for path in (ROOT / package).rglob("*.py"))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a module."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def name_of(call: ast.Call) -> str:
    """The last part of what is called."""
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""


def checks_something(test: ast.AST) -> bool:
    """Whether a test asserts, expects an error, or calls a helper that does."""
    return any(
        isinstance(node, ast.Assert)
        or (isinstance(node, ast.Call) and (name_of(node).startswith(CHECKS) or name_of(node) in PYTEST))
        for node in ast.walk(test)
    )


def idle_tests(text: str) -> list[str]:
    return [
        function.name
        for function in functions(ast.parse(text))
        if function.name.startswith("test_") and not checks_something(function)
    ]


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> range:
    """The lines of a function but for its docstring, which may explain as much as it likes; also its arguments count."""
    body = function.body[1:] if ast.get_docstring(function) is not None and len(function.body) > 1 else function.body
    documented = body[0].lineno - function.body[0].lineno
    return range(function.lineno + documented, (function.end_lineno or 0) + 1)


def long_functions(text: str) -> list[str]:
    lines = text.splitlines()
    return [
        function.name
        for function in functions(ast.parse(text))
        if len(code_lines(function)) > MOST_FUNCTION_LINES
        and not any(REASON in line for line in lines[function.lineno - 1 : function.end_lineno])
    ]


def level(module: str) -> int:
    """How high a module stands: it may import what stands as high or lower."""
    package, _, rest = module.partition(".")
    return 0 if package == "pruner" else LEVELS.get(rest.partition(".")[0], 1)


def imports(text: str) -> set[str]:
    """Our own modules that a module imports anywhere, also within functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names if node.module == "release")}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {each for each in found if each.partition(".")[0] in {"release", "pruner"}}


def upward_imports(module: str, text: str) -> list[str]:
    """Imports of what stands higher."""
    return sorted(each for each in imports(text) if level(each) > level(module) and (module, each) not in ASKS_ABOVE)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.relative_to(ROOT / "tests").as_posix())
def test_every_test_checks_something(path: Path) -> None:
    assert idle_tests(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MOST_LINES or REASON in text
    assert long_functions(text) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_one_way(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    assert upward_imports(module, path.read_text(encoding="utf-8")) == []


def test_the_habits_are_checked() -> None:
    assert idle_tests("def test_x():\n    print(1)\ndef test_y():\n    assert 1\ndef test_z():\n    require_x(1)") == ["test_x"]
    long = "def f():\n" + "    pass\n" * MOST_FUNCTION_LINES
    assert long_functions(long) == ["f"]
    assert long_functions(long.replace("pass\n", f"pass  {REASON}it is a table\n", 1)) == []
    assert upward_imports("release.card.inputs", "def f():\n    from release.stages.card import STAGE\n") == [
        "release.stages.card"
    ]
    assert upward_imports("release.stages.card", "from release import pipeline, patterns\n") == ["release.pipeline"]
    assert upward_imports("pruner.build", "import release.lock\n") == ["release.lock"]
    assert upward_imports("release.actions.doctor", "from release.stages.card import STAGE\nimport pruner.build\n") == []
