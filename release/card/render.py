"""Jinja for cards and reports: sandboxed, and an unknown claim is an error.

A person's own templates stand in a folder beside the manifest.  One with the name of a shipped template is used instead of it,
and may extend it: `{% extends "weights_card.md.j2" %}` with the blocks that are to be other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jinja2 import ChoiceLoader, DictLoader, FileSystemLoader, StrictUndefined, TemplateError, TemplateSyntaxError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pruner.bounded import Limits, bounded
from pruner.errors import InputError
from pruner.files import path_inside
from release.card.claims import CONFIDENCE, Claim
from release.card.prose import require_no_numbers

SHIPPED = Path(__file__).resolve().parent.parent / "templates"
SOURCE_TREE = Path(__file__).resolve().parent.parent.parent / "templates"
OWN = "own/"
MOST_TEMPLATES, LARGEST_TEMPLATE = 50, 200_000
LARGEST_TEXT = 32 << 20
"""Characters of what is rendered: a report holds pictures."""
OWN_LIMITS = Limits()
"""What a person's own templates may take."""
NO_TEMPLATES: Mapping[str, str] = MappingProxyType({})


def template_folder() -> Path:
    """The templates inside the installed package, or those of a source tree."""
    return SHIPPED if SHIPPED.is_dir() else SOURCE_TREE


class _Environment(ImmutableSandboxedEnvironment):
    """Finds a person's own template before the shipped one of that name, but for itself: so it can extend what it replaces."""

    own: Mapping[str, str] = NO_TEMPLATES

    def join_path(self, template: str, parent: str) -> str:
        return OWN + template if template in self.own and parent != OWN + template else template


def environment(own: Mapping[str, str] = NO_TEMPLATES, *, html: bool = False) -> ImmutableSandboxedEnvironment:
    """A sandbox over the shipped templates and a person's own.

    Whatever is printed is escaped: as HTML, or so that markdown does not obey it.
    """
    result = _Environment(
        loader=ChoiceLoader(
            [DictLoader({OWN + name: text for name, text in own.items()}), FileSystemLoader(template_folder())]
        ),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=html,
        finalize=None if html else printed,
    )
    result.own = own
    result.globals.clear()  # a card prints claims; functions print addresses
    result.globals["confidence"] = CONFIDENCE
    result.filters |= {"cell": cell, "alt": alt} | ({} if html else {"code": code, "fenced": fenced, "trim": trim})
    return result


class Markdown(str):
    """Markdown as it is meant: printed as it stands, while every other text is escaped."""

    __slots__ = ()


SPECIAL = re.compile(r"[\\`*\[\]<>|~$]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)")
"""What markdown or HTML would obey; an underscore inside a word is a letter."""
WHITE = re.compile(r"\s+")


def escape(value: object) -> Markdown:
    """A text on one line in which nothing is markup: names, labels and licenses are foreign."""
    return Markdown(SPECIAL.sub(r"\\\g<0>", WHITE.sub(" ", str(value))))


def printed(value: object) -> object:
    """What `{{ }}` prints into markdown: numbers as they are shown, texts escaped."""
    if isinstance(value, Claim):
        return escape(value) if value.unit in ("text", "digest") else str(value)
    return escape(value) if isinstance(value, str) and not isinstance(value, Markdown) else value


def code(value: object) -> Markdown:
    """A text for between backquotes or in a fenced block, which cannot end either."""
    return Markdown(" ".join(str(value).split()).replace("`", "'"))


def fenced(value: object) -> Markdown:
    """Lines of a fenced block as they are; a fence among them is none."""
    return Markdown(str(value).replace("```", "'''"))


def trim(value: str) -> str:
    """White space off both ends; markdown stays markdown."""
    return Markdown(value.strip()) if isinstance(value, Markdown) else value.strip()


def cell(value: object) -> str:
    """A value that cannot break out of its table cell."""
    text = printed(value)
    return text if isinstance(text, Markdown) else escape(text)


def alt(value: object) -> Markdown:
    """A text that cannot break out of the brackets of a picture or a link."""
    text = " ".join(str(value).split())
    return Markdown("".join(f"\\{each}" if each in "\\[]<`" else each for each in text))


def own_templates(root: Path, folder: str | None) -> dict[str, str]:
    """A person's own templates by name.

    They are read at once and nothing else of the folder is: what a template includes is one of these or a shipped one.

    Args:
        root: the manifest's folder.
        folder: where they stand in it, or None.

    Raises:
        InputError: the folder is missing or left, holds too many files or too large ones, or a file is no template or prints a
            number that is no claim.
    """
    if folder is None:
        return {}
    place = path_inside(root, folder)
    if not place.is_dir():
        raise InputError(f"card.templates: {folder} is no folder beside the manifest")
    files = sorted(place.glob("*.j2"))
    if not files:
        raise InputError(f"card.templates: {folder} holds no *.j2; name one as the shipped template that it replaces")
    if len(files) > MOST_TEMPLATES:
        raise InputError(f"card.templates: {folder} holds {len(files):,} templates; at most {MOST_TEMPLATES}")
    texts = {file.name: _template_text(path_inside(root, f"{folder}/{file.name}"), f"{folder}/{file.name}") for file in files}
    for name, text in texts.items():
        _require_claims(text, f"{folder}/{name}")
    return texts


def _template_text(path: Path, name: str) -> str:
    if path.stat().st_size > LARGEST_TEMPLATE:
        raise InputError(f"{name}: a template of more than {LARGEST_TEMPLATE:,} bytes; split it")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{name}: is not UTF-8 text") from None


def _require_claims(text: str, name: str) -> None:
    """The rule of prose holds for templates: what they print is a claim, or holds no number."""
    try:
        statements = environment().parse(text).find_all((nodes.Output, nodes.Assign))
        constants = [constant for statement in statements for constant in _constants(statement)]
    except TemplateSyntaxError as error:
        raise InputError(f"{name}:{error.lineno}: {error}") from None
    except RecursionError:
        raise InputError(f"{name}: its expressions are nested too deeply; write simpler ones") from None
    require_no_numbers(text, name, template=True)
    for constant in constants:
        if any(character.isdigit() for character in str(constant.value)):
            raise InputError(f"{name}:{constant.lineno}: {constant.value!r} has no source; print a claim instead")


def _constants(node: nodes.Node) -> Iterator[nodes.Const]:
    """The constants that a statement may print: not those that only choose an element, as in `quants[0]`."""
    if isinstance(node, nodes.Const) and not isinstance(node.value, bool):
        yield node
    children = [node.node] if isinstance(node, nodes.Getitem) else node.iter_child_nodes()
    for child in children:
        yield from _constants(child)


def render(template: str, facts: Mapping[str, Any], own: Mapping[str, str] = NO_TEMPLATES, *, html: bool = False) -> str:
    """Render a shipped template, or the person's own that bears its name.

    A person may be a stranger whose release is repeated here: with own templates the work is done in a child, in bounds.

    Raises:
        InputError: the template asks for a claim that does not exist, does something that the sandbox forbids, or takes far
            more memory or time than any card needs.
    """
    if own:
        return str(bounded(f"template {template}", _rendered, template, dict(facts), dict(own), html, limits=OWN_LIMITS))
    return _rendered(template, facts, own, html)


def _rendered(template: str, facts: Mapping[str, Any], own: Mapping[str, str], html: bool) -> str:  # noqa: FBT001  # sent as it is
    name = OWN + template if template in own else template
    try:
        return _text(environment(own, html=html).get_template(name).generate(facts))
    except TemplateSyntaxError as error:
        raise InputError(f"template {error.name or name}:{error.lineno}: {error}") from None
    except (TemplateError, ArithmeticError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"template {name}: {error}") from None


def _text(parts: Iterable[str]) -> str:
    """What was rendered.

    Raises ValueError when it has no end in sight, or half of a surrogate pair, which no file can hold.
    """
    found, size = [], 0
    for part in parts:
        found.append(part)
        size += len(part)
        if size > LARGEST_TEXT:
            raise ValueError(f"makes more than {LARGEST_TEXT:,} characters")
    rendered = "".join(found)
    rendered.encode()
    return rendered


def render_prose(text: str, facts: Mapping[str, Any], name: str) -> Markdown:
    """Render a person's markdown with claims.

    Raises:
        InputError: it uses a claim that does not exist, or does something that the sandbox forbids.
    """
    try:
        return Markdown(_text(environment().from_string(text).generate(facts)))
    except (TemplateError, ArithmeticError, TypeError, ValueError, AttributeError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        raise InputError(f"{name}{f':{line}' if line else ''}: {error}") from None
