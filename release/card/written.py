"""What people wrote for a card, checked before anything is built: syntax, and names of facts that will be there."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from itertools import chain

from jinja2 import TemplateError, TemplateSyntaxError, meta, nodes

from pruner.bounded import bounded
from pruner.errors import InputError
from release.card.prose import require_no_numbers
from release.card.render import OWN_LIMITS, environment, own_templates, template_folder
from release.manifest import LoadedManifest, PinnedFile

_SIZES = ("base", "variant", "removed", "removed_share", "change")
FACTS: Mapping[str, tuple[str, ...]] = {
    "name": (),
    "base": ("name", "repo", "revision"),
    "license": (),
    "license_inherited": (),
    "license_link": (),
    "experts": ("base", "variant", "dropped", "change", "top_k", "layers"),
    "parameters": _SIZES,
    "tensor_bytes": _SIZES,
    "shards": (),
    "method": (),
    "architecture": (),
    "layout": ("max_shard_size", "metadata"),
    "files": (),
    "drop_map_digest": (),
    "statistics": (),
    "earlier": (),
    "prior": (),
    "rebuilds": (),
    "tools": (),
    "quants": (),
    "imatrix": (),
    "mmproj": (),
    "calibration": (),
    "quality": (),
    "self_test": (),
    "protocol": (),
    "runs": (),
    "rows": (),
    "contamination": (),
    "confidence": (),
    "publish": (),
    "question": (),
    "pictures": (),
    "draft": (),
}
"""Every fact that a card has, with its parts where these are always there.  Others are None or empty without their section."""
PAGE_SUFFIX, REPORT_PAGE, COMMANDS_PAGE = ".html.j2", "report.html.j2", "reproduce.md.j2"
PAGE = ("name", "base", "publish", "layout")
"""Facts of the page of commands."""
REPORT: Mapping[str, tuple[str, ...]] = {
    "report": ("name", "summary", "warnings", "tables", "pictures"),
    "policy": (),
    "style": (),
    "script": (),
}
"""What the report's template gets."""
ENTRIES = ("weights_card.md.j2", "gguf_card.md.j2", COMMANDS_PAGE)
"""Templates that are rendered by themselves: nobody includes them."""
ONLY_TEMPLATES = frozenset({"prose", "overlaps", "self", "super", "loop", "caller", "varargs", "kwargs"})


def check_texts(loaded: LoadedManifest) -> None:
    """Check the prose and the own templates that a manifest names.

    Raises:
        InputError: with file and line: a number without a source, a mistake of syntax, or a name that no fact has.
    """
    card = loaded.content.card
    if card.prose:
        try:
            prose = loaded.file(PinnedFile(path=card.prose)).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{card.prose}: is not UTF-8 text") from None
        require_no_numbers(prose, card.prose)
        require_known_names(prose, card.prose)
    if own := own_templates(loaded.root, card.templates):
        # What compiles a template works out its constants, however large.
        bounded("card.templates", check_templates, own, str(card.templates), limits=OWN_LIMITS)


def check_templates(own: Mapping[str, str], folder: str) -> None:
    """Check own templates by name, of a folder.

    Raises:
        InputError: with file and line: a mistake of syntax, or a name that no fact has.
    """
    shipped = {path.name: path.read_text(encoding="utf-8") for path in template_folder().glob("*.j2")}
    names = {*shipped, *own}
    _require_used(own, shipped, folder)
    cards, shipped_cards = ({name: text for name, text in each.items() if name.endswith(".md.j2")} for each in (own, shipped))
    given = _given(cards, folder) | ONLY_TEMPLATES
    included = given | _given(shipped_cards, "templates") if cards else given  # such as `row`, which a shipped loop gives
    for name, text in cards.items():
        facts = {each: FACTS[each] for each in PAGE} if name == COMMANDS_PAGE else FACTS
        require_known_names(text, f"{folder}/{name}", given if name in ENTRIES else included, names, facts)
    pages = {name: text for name, text in own.items() if name.endswith(PAGE_SUFFIX)}
    given = _given({REPORT_PAGE: shipped[REPORT_PAGE], **pages}, folder) | ONLY_TEMPLATES
    for name, text in pages.items():
        require_known_names(text, f"{folder}/{name}", given, names, REPORT)


def _require_used(own: Mapping[str, str], shipped: Mapping[str, str], folder: str) -> None:
    """Refuse templates and blocks that nothing would ever print: their names are most likely misspelt."""
    trees = {name: _parsed(text, f"{folder}/{name}") for name, text in own.items()}
    wanted = {each for tree in trees.values() for each in _constant_targets(tree)}
    for name, tree in trees.items():
        if name not in shipped and name not in wanted:
            near = _near(name, shipped)
            raise InputError(f"{folder}/{name}: replaces no shipped template, and none of yours includes it{near}")
        parents = {str(each.template.value) for each in tree.find_all(nodes.Extends) if isinstance(each.template, nodes.Const)}
        if parents and parents <= shipped.keys() - (own.keys() - {name}):
            known = {each.name for parent in parents for each in _parsed(shipped[parent], parent).find_all(nodes.Block)}
            for block in (each for each in tree.body if isinstance(each, nodes.Block) and each.name not in known):
                raise InputError(
                    f"{folder}/{name}:{block.lineno}: what it extends has no block {block.name!r}{_near(block.name, known)}"
                )


def _constant_targets(tree: nodes.Template) -> Iterator[str]:
    """Every constant in what statements extend, include or import: a list may stand there, or a choice."""
    for node in tree.find_all((nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)):
        yield from (str(each.value) for each in node.find_all(nodes.Const))


def require_known_names(
    text: str,
    name: str,
    defined: Collection[str] = (),
    templates: Collection[str] = (),
    facts: Mapping[str, tuple[str, ...]] = FACTS,
) -> None:
    """Check a text's syntax and that every name that it prints is one of a fact.

    Args:
        text: prose or a template.
        name: of the file, for errors.
        defined: further names that templates give to each other: of loops, assignments and macros.
        templates: what may be extended and included.
        facts: what it gets: the card's, unless it is another page.

    Raises:
        InputError: with file and line, and the nearest known name.
    """
    tree, filters = _parsed(text, name), environment(html=name.endswith(PAGE_SUFFIX)).filters
    if wrong := next((each for each in tree.find_all(nodes.Filter) if each.name not in filters), None):
        raise InputError(f"{name}:{wrong.lineno}: no filter is called {wrong.name!r}{_near(wrong.name, filters)}")
    unknown = _undeclared(tree, name) - set(facts) - set(defined) - _asked(tree)
    for node in tree.find_all((nodes.Name, nodes.Getattr, nodes.Extends, nodes.Include)):
        if isinstance(node, nodes.Name) and node.ctx == "load" and node.name in unknown:
            raise InputError(f"{name}:{node.lineno}: no fact is called {node.name!r}{_near(node.name, facts)}")
        if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name) and node.node.name not in defined:
            parts = facts.get(node.node.name, ())
            if parts and node.attr not in parts:
                raise InputError(f"{name}:{node.lineno}: {node.node.name} has no {node.attr!r}{_near(node.attr, parts)}")
        if isinstance(node, (nodes.Extends, nodes.Include)) and isinstance(node.template, nodes.Const):
            wanted = str(node.template.value)
            if wanted not in templates and not getattr(node, "ignore_missing", False):
                raise InputError(f"{name}:{node.lineno}: there is no template {wanted!r}{_near(wanted, templates)}")


def _parsed(text: str, name: str) -> nodes.Template:
    try:
        return environment().parse(text)
    except TemplateSyntaxError as error:
        raise InputError(f"{name}:{error.lineno}: {error.message}") from None
    except (TemplateError, RecursionError) as error:
        raise InputError(f"{name}: {error}") from None


def _undeclared(tree: nodes.Template, name: str) -> set[str]:
    """Names that a template takes from outside; finding them compiles it, which refuses more than parsing does."""
    try:
        return meta.find_undeclared_variables(tree)
    except TemplateSyntaxError as error:
        raise InputError(f"{name}:{error.lineno}: {error.message}") from None
    except RecursionError:
        raise InputError(f"{name}: its expressions are nested too deeply; write simpler ones") from None


def _given(templates: Mapping[str, str], folder: str) -> set[str]:
    return set(chain.from_iterable(_defined(_parsed(text, f"{folder}/{name}")) for name, text in templates.items()))


def _defined(tree: nodes.Template) -> Iterator[str]:
    """Names that a template gives: blocks and included templates see those of the template around them."""
    for node in tree.find_all((nodes.Name, nodes.Macro, nodes.Import, nodes.FromImport)):
        if isinstance(node, nodes.Name):
            yield from [node.name] if node.ctx != "load" else []
        elif isinstance(node, nodes.FromImport):
            yield from (each if isinstance(each, str) else each[1] for each in node.names)
        elif isinstance(node, (nodes.Macro, nodes.Import)):
            yield node.name if isinstance(node, nodes.Macro) else node.target


def _asked(tree: nodes.Template) -> set[str]:
    """Names that a template asks for with `is defined` or `default`: it knows that they may be none."""
    asking = [node for node in tree.find_all(nodes.Test) if node.name in ("defined", "undefined")]
    defaulted = [node for node in tree.find_all(nodes.Filter) if node.name in ("default", "d")]
    return {each.node.name for each in [*asking, *defaulted] if isinstance(each.node, nodes.Name)}


def _near(word: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(word, sorted(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"
