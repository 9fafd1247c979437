"""Sentences made by a small grammar: text that is there without a download, and whose rules a model can learn.

English with its translation into German - articles and adjectives agree in gender, number and case, the verb comes
second after an adverb and last after "dass" - and with the part of speech of every word; and judgements of films in
which "not" and "but" turn the meaning, so that counting words is not enough.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

T = TypeVar("T")

TAGS = ("adjective", "adverb", "article", "conjunction", "noun", "punctuation", "verb")


class Noun(NamedTuple):
    """Singular and plural in both languages, and the German gender (m, f, n)."""

    one: str
    many: str
    german_one: str
    german_many: str
    gender: str


class Verb(NamedTuple):
    """Third persons, singular and plural, in both languages."""

    one: str
    many: str
    german_one: str
    german_many: str


# fmt: off
BEINGS = (
    Noun("dog", "dogs", "Hund", "Hunde", "m"), Noun("cat", "cats", "Katze", "Katzen", "f"),
    Noun("child", "children", "Kind", "Kinder", "n"), Noun("horse", "horses", "Pferd", "Pferde", "n"),
    Noun("bird", "birds", "Vogel", "Vögel", "m"), Noun("woman", "women", "Frau", "Frauen", "f"),
    Noun("man", "men", "Mann", "Männer", "m"), Noun("teacher", "teachers", "Lehrerin", "Lehrerinnen", "f"),
)
THINGS = (
    Noun("boat", "boats", "Boot", "Boote", "n"), Noun("ball", "balls", "Ball", "Bälle", "m"),
    Noun("flower", "flowers", "Blume", "Blumen", "f"), Noun("house", "houses", "Haus", "Häuser", "n"),
    Noun("tree", "trees", "Baum", "Bäume", "m"), Noun("letter", "letters", "Brief", "Briefe", "m"),
    Noun("dream", "dreams", "Traum", "Träume", "m"), Noun("light", "lights", "Licht", "Lichter", "n"),
    Noun("picture", "pictures", "Bild", "Bilder", "n"), Noun("lamp", "lamps", "Lampe", "Lampen", "f"),
)
ADJECTIVES = (
    ("small", "klein"), ("old", "alt"), ("red", "rot"), ("white", "weiß"), ("light", "hell"), ("quiet", "still"),
    ("young", "jung"), ("strange", "fremd"),
)
TRANSITIVE = (
    Verb("sees", "see", "sieht", "sehen"), Verb("finds", "find", "findet", "finden"),
    Verb("carries", "carry", "trägt", "tragen"), Verb("loves", "love", "liebt", "lieben"),
    Verb("paints", "paint", "malt", "malen"), Verb("lights", "light", "beleuchtet", "beleuchten"),
)
INTRANSITIVE = (
    Verb("sleeps", "sleep", "schläft", "schlafen"), Verb("laughs", "laugh", "lacht", "lachen"),
    Verb("dreams", "dream", "träumt", "träumen"), Verb("waits", "wait", "wartet", "warten"),
)
SPEECH = (Verb("knows", "know", "weiß", "wissen"), Verb("says", "say", "sagt", "sagen"))
ADVERBS = (("today", "heute"), ("often", "oft"), ("sometimes", "manchmal"), ("now", "jetzt"))

DEFINITE = {"m": ("der", "den"), "f": ("die", "die"), "n": ("das", "das")}  # nominative, accusative
INDEFINITE = {"m": ("ein", "einen"), "f": ("eine", "eine"), "n": ("ein", "ein")}
AFTER_DEFINITE = {"m": ("e", "en"), "f": ("e", "e"), "n": ("e", "e")}
AFTER_INDEFINITE = {"m": ("er", "en"), "f": ("e", "e"), "n": ("es", "es")}

PARTS = ("plot", "acting", "music", "ending", "dialogue", "camera work", "humour", "cast", "story", "beginning")
GOOD = ("good", "moving", "clever", "funny", "brilliant", "charming", "fresh", "gripping", "honest", "delightful")
BAD = ("bad", "dull", "stupid", "boring", "awful", "tired", "stale", "lifeless", "dishonest", "tedious")
DEGREES = ("", "", "very", "really", "quite", "truly", "rather")
FRAMES = ("the {0} is {1}", "i find the {0} {1}", "its {0} seems {1}", "what a {0} : it is {1}", "the {0} was {1}")
# fmt: on


@dataclass
class Sentence:
    """A sentence in both languages.

    Attributes:
        english: words and marks.
        tags: index into `TAGS` of each of them.
        german: words and marks.
    """

    english: list[str] = field(default_factory=list)
    tags: list[int] = field(default_factory=list)
    german: list[str] = field(default_factory=list)

    def say(self, word: str, tag: str) -> None:
        self.english.append(word)
        self.tags.append(TAGS.index(tag))


class _Draws:
    """Choices that are the same with every version of Python: of random.Random, `random()` alone promises that."""

    def __init__(self, seed: int) -> None:
        self._source = random.Random(seed)

    def chance(self, probability: float) -> bool:
        return self._source.random() < probability

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self._source.random() * len(options))]


def _noun_phrase(draws: _Draws, sentence: Sentence, nouns: Sequence[Noun], case: int) -> tuple[list[str], bool]:
    """Adds a noun phrase to the English; returns the German one and whether it is plural. Case 0: nominative."""
    noun, plural, definite = draws.pick(nouns), draws.chance(0.4), draws.chance(0.6)
    german: list[str] = []
    if definite:
        sentence.say("the", "article")
        german.append("die" if plural else DEFINITE[noun.gender][case])
    elif not plural:
        german.append(INDEFINITE[noun.gender][case])
    article = len(sentence.english)
    if draws.chance(0.4):
        adjective, stem = draws.pick(ADJECTIVES)
        sentence.say(adjective, "adjective")
        endings = AFTER_DEFINITE if definite else AFTER_INDEFINITE
        german.append(stem + (("en" if definite else "e") if plural else endings[noun.gender][case]))
    sentence.say(noun.many if plural else noun.one, "noun")
    german.append(noun.german_many if plural else noun.german_one)
    if not definite and not plural:
        following = sentence.english[article]
        sentence.english.insert(article, "an" if following[0] in "aeiou" else "a")
        sentence.tags.insert(article, TAGS.index("article"))
    return german, plural


def _clause(
    draws: _Draws,
    sentence: Sentence,
    verb_last: bool,
    beings: Sequence[Noun] = BEINGS,
    things: Sequence[Noun] = THINGS,
) -> None:
    """Adds subject, verb and maybe an object, in the German order of a main or of a subordinate clause."""
    fronted = not verb_last and draws.chance(0.3)
    adverb = draws.pick(ADVERBS)
    if fronted:
        sentence.say(adverb[0], "adverb")
    subject, plural = _noun_phrase(draws, sentence, beings, 0)
    verb = draws.pick(TRANSITIVE) if (transitive := draws.chance(0.65)) else draws.pick(INTRANSITIVE)
    sentence.say(verb.many if plural else verb.one, "verb")
    german_verb = verb.german_many if plural else verb.german_one
    rest = _noun_phrase(draws, sentence, (*beings, *things), 1)[0] if transitive else []
    if verb_last:
        sentence.german += [*subject, *rest, german_verb]
    elif fronted:
        sentence.german += [adverb[1], german_verb, *subject, *rest]
    else:
        sentence.german += [*subject, german_verb, *rest]


def scenes(count: int, seed: int = 0) -> list[Sentence]:
    """`count` sentences, the same for the same seed."""
    draws, made = _Draws(seed), []
    for _ in range(count):
        sentence = Sentence()
        if draws.chance(0.25):
            subject, plural = _noun_phrase(draws, sentence, BEINGS, 0)
            verb = draws.pick(SPEECH)
            sentence.say(verb.many if plural else verb.one, "verb")
            sentence.say("that", "conjunction")
            sentence.german += [*subject, verb.german_many if plural else verb.german_one, ",", "dass"]
            _clause(draws, sentence, verb_last=True)
        else:
            _clause(draws, sentence, verb_last=False)
        sentence.say(".", "punctuation")
        sentence.german.append(".")
        made.append(sentence)
    return made


def stories(count: int, seed: int = 0) -> list[list[str]]:
    """`count` stories of 8 to 15 English sentences; each has a cast of its own, two beings and two things."""
    draws, made = _Draws(seed), []
    for _ in range(count):
        cast = [_two(draws, nouns) for nouns in (BEINGS, THINGS)]
        story = []
        for _ in range(8 + int(draws.chance(0.5)) + 2 * int(draws.chance(0.5)) + 4 * int(draws.chance(0.5))):
            sentence = Sentence()
            _clause(draws, sentence, False, *cast)
            sentence.say(".", "punctuation")
            story.append(" ".join(sentence.english))
        made.append(story)
    return made


def _two(draws: _Draws, nouns: Sequence[Noun]) -> tuple[Noun, Noun]:
    first = draws.pick(nouns)
    return first, draws.pick([noun for noun in nouns if noun is not first])


def reviews(count: int, seed: int = 0) -> list[tuple[str, int]]:
    """`count` (sentence, 1 for praise and 0 for blame); after "but" the second half decides."""
    draws, made = _Draws(seed), []
    for _ in range(count):
        text, good = _judgement(draws)
        if draws.chance(0.4):
            second, second_good = _judgement(draws)
            for _ in range(20):  # a contrast, or agreement
                contrast = second_good != good
                if contrast or draws.chance(0.5):
                    break
                second, second_good = _judgement(draws)
            text, good = f"{text} {'but' if contrast else 'and'} {second}", second_good
        made.append((f"{text} .", int(good)))
    return made


def _judgement(draws: _Draws) -> tuple[str, bool]:
    good, negated = draws.chance(0.5), draws.chance(0.35)
    words = ["not"] if negated else []
    degree = draws.pick(DEGREES)
    words += [degree] if degree else []
    words.append(draws.pick(GOOD if good else BAD))
    return draws.pick(FRAMES).format(draws.pick(PARTS), " ".join(words)), good != negated
