"""A synthetic four-choice exam, in GPQA's columns, whose answers are facts that a model has to store.

The world has eight fields.  A field has six first names, six second names and three attributes; every (field, attribute, first
name, second name) has one of the attribute's six values at random, so that no single word tells the value.  A question asks one
fact in one of four phrasings.  Some questions are long: they ask to recall up to four other facts first.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product

FIELDS = ("botany", "ferrology", "glazing", "heraldry", "masonry", "navigation", "ornithology", "weaving")
EXAMINED = FIELDS[:2]
"""The fields that held-out and calibration questions ask; the other six give the other experts something to hold."""

VALUES: Mapping[str, tuple[str, ...]] = {
    "colour": ("amber", "cobalt", "ivory", "olive", "russet", "violet"),
    "shape": ("conical", "fluted", "lobed", "oblate", "ribbed", "tubular"),
    "origin": ("coastal", "desert", "highland", "island", "river", "tundra"),
}
PHRASINGS = (
    "In {field}, what is the {attribute} of {name}?",
    "Which {attribute} does {name} have in {field}?",
    "Within {field}, name the {attribute} of {name}.",
    "Give the {attribute} that {name} shows in {field}.",
)
LETTERS = "ABCD"
NAMES_PER_FIELD = 6
WORLD_SEED = 1

LONG_SHARE = 0.15
MOST_RECALLED = 4
HELD_OUT = 240
EXAMINED_PAIRS = 200
TRAINED_PAIRS = 200

COLUMNS = (
    "Record ID",
    "Question",
    "Correct Answer",
    "Incorrect Answer 1",
    "Incorrect Answer 2",
    "Incorrect Answer 3",
    "Explanation",
    "High-level domain",
    "Subdomain",
)


@dataclass(frozen=True, order=True)
class Fact:
    """One stored fact: what value an attribute of a two-word name has in a field."""

    field: str
    attribute: str
    first: str
    second: str
    value: str

    @property
    def name(self) -> str:
        """The two words that name the thing."""
        return f"{self.first} {self.second}"

    @property
    def topic(self) -> str:
        """The fact without its value, as questions and thoughts call it."""
        return f"the {self.attribute} of {self.name}"

    @property
    def sentence(self) -> str:
        """The fact as one sentence of a thought."""
        return f"The {self.attribute} of {self.name} is {self.value}."


@dataclass(frozen=True)
class Question:
    """One question: the fact asked, its phrasing, the facts to recall first, and the wrong options."""

    fact: Fact
    phrasing: int
    recalled: tuple[Fact, ...]
    incorrect: tuple[str, str, str]

    @property
    def text(self) -> str:
        """The question as the exam prints it, without the options."""
        asked = PHRASINGS[self.phrasing].format(field=self.fact.field, attribute=self.fact.attribute, name=self.fact.name)
        if not self.recalled:
            return asked
        topics = [fact.topic for fact in self.recalled]
        listed = topics[0] if len(topics) == 1 else f"{', '.join(topics[:-1])} and {topics[-1]}"
        return f"Recall {listed}. {asked}"

    @property
    def facts(self) -> tuple[Fact, ...]:
        """The facts of the thought, in its order: those recalled, then the one asked."""
        return (*self.recalled, self.fact)

    @property
    def explanation(self) -> str:
        """The correct thought: one sentence a fact, and no option's letter, because the order of options is not part of it."""
        return " ".join(fact.sentence for fact in self.facts)

    @property
    def options(self) -> tuple[str, ...]:
        """The correct answer first, then the three wrong ones."""
        return (self.fact.value, *self.incorrect)

    def record(self) -> dict[str, str]:
        """The question as a row of GPQA: every column a string."""
        identifier = f"tiny{hashlib.sha256(self.text.encode()).hexdigest()[:12]}"
        domain, subdomain = self.fact.field.capitalize(), self.fact.attribute.capitalize()
        row = (identifier, self.text, self.fact.value, *self.incorrect, self.explanation, domain, subdomain)
        return dict(zip(COLUMNS, row, strict=True))


@dataclass(frozen=True)
class World:
    """All facts, by (field, attribute)."""

    facts: Mapping[tuple[str, str], tuple[Fact, ...]]

    def of_field(self, field: str) -> tuple[Fact, ...]:
        """All facts of a field."""
        return tuple(chain.from_iterable(self.facts[field, attribute] for attribute in VALUES))

    def names(self) -> list[str]:
        """Every name word of the world, sorted."""
        every = chain.from_iterable(self.facts.values())
        return sorted({word for fact in every for word in (fact.first, fact.second)})


def make_world(seed: int = WORLD_SEED) -> World:
    """Draw the names and values of a world; the same seed gives the same world."""
    source = random.Random(seed)
    words = iter(_name_words(source, 2 * NAMES_PER_FIELD * len(FIELDS)))
    facts: dict[tuple[str, str], tuple[Fact, ...]] = {}
    for field in FIELDS:
        first = [next(words).capitalize() for _ in range(NAMES_PER_FIELD)]
        second = [next(words) for _ in range(NAMES_PER_FIELD)]
        for attribute, values in VALUES.items():
            named = product(first, second)
            facts[field, attribute] = tuple(Fact(field, attribute, one, two, source.choice(values)) for one, two in named)
    return World(facts)


def make_splits(world: World, seed: int = WORLD_SEED) -> dict[str, list[Question]]:
    """Deal the questions into train, calibration and held_out.

    A (fact, phrasing) pair is in one split only; other phrasings of the same fact may be in training, and teach it.
    """
    source = random.Random(seed)
    pairs: dict[str, list[tuple[Fact, int]]] = {}
    for field in FIELDS:
        pairs[field] = list(product(world.of_field(field), range(len(PHRASINGS))))
        source.shuffle(pairs[field])
    examined = list(chain.from_iterable(pairs[field][:EXAMINED_PAIRS] for field in EXAMINED))
    source.shuffle(examined)
    trained = [*chain.from_iterable(pairs[field][EXAMINED_PAIRS:] for field in EXAMINED)]
    trained += chain.from_iterable(pairs[field][:TRAINED_PAIRS] for field in FIELDS if field not in EXAMINED)
    dealt = {"train": trained, "calibration": examined[HELD_OUT:], "held_out": examined[:HELD_OUT]}
    return {split: [draw_question(world, fact, phrasing, source) for fact, phrasing in dealt[split]] for split in dealt}


def draw_question(world: World, fact: Fact, phrasing: int, source: random.Random) -> Question:
    """Ask a fact, with wrong options and perhaps facts to recall first drawn from `source`."""
    recalled: list[Fact] = []
    if source.random() < LONG_SHARE:
        others = [other for other in world.of_field(fact.field) if other != fact]
        recalled = source.sample(others, source.randint(1, MOST_RECALLED))
    one, two, three = source.sample([value for value in VALUES[fact.attribute] if value != fact.value], 3)
    return Question(fact, phrasing, tuple(recalled), (one, two, three))


def user_text(question: str, options: Sequence[str]) -> str:
    """The user's turn: exactly lm-eval 0.4.13's gpqa_diamond_cot_zeroshot prompt, without its trailing space."""
    return f"What is the correct answer to this question:{question}\n{choices(options)}\nLet's think step by step:"


def choices(options: Sequence[str]) -> str:
    """The options with their letters, as the exam prints them."""
    return "Choices:\n" + "\n".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=True))


def answer_text(letter: str) -> str:
    """The answer after the thought: what both of lm-eval's filters read."""
    return f"The answer is ({letter})."


def _name_words(source: random.Random, count: int) -> Iterator[str]:
    """Pronounceable two-syllable words, no two alike."""
    made: set[str] = set()
    while len(made) < count:
        syllables = "".join(source.choice("bdfgklmnprstvz") + source.choice("aeiou") for _ in range(2))
        made.add(syllables + source.choice("lnrsm"))
    return iter(source.sample(sorted(made), count))
