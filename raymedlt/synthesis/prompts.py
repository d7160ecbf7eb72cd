"""Prompts from label sets: "Frontal chest X-ray with a small left pleural effusion and cardiomegaly."

The wordings are data (`prompts.toml`). Names of classes are compared without case, underscores and CamelCase, so that
"Pleural_Thickening" (NIH), "pleural thickening" (PadChest) and "Pleural Thickening" (CXR-LT) read alike; a class that
isn't listed is worded by its own name. Side and severity are said where they are known.

Wording and order of the findings follow from a keyed seed, and every word that can occur is known (`vocabulary`). No
prompt holds a mark that replaced a patient's data ("___", "XXXX"): public models have memorised these most of all.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Sequence
from functools import cache, lru_cache
from importlib import resources
from typing import NamedTuple

from raymedlt.errors import InputError
from raymedlt.images.label_formats import is_normal
from raymedlt.seeds import keyed_seed

FRONTAL = "frontal"
_SIDES = {"": "", "left": "left", "right": "right", "both": "bilateral", "bilateral": "bilateral"}
_LEVELS = (0.33, 0.66)  # from which severity on a finding is called moderate and large (severe)
_MARKS = re.compile(r"_{2,}|x{3,}|\[\*\*|\*\*\]", re.IGNORECASE)  # of MIMIC-CXR, OpenI, MIMIC-III
_WORDS = re.compile(r"[a-z]+|[0-9]|[^\sa-z0-9]")
_OPTIONAL = re.compile(r"\[([^\]]*)\]")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\ba (?=[aeio]|un(?!i))", re.IGNORECASE)


class Described(NamedTuple):
    """A class that an image shows, as far as it is known how."""

    name: str
    side: str = ""  # "left", "right", "both", ""
    severity: float | None = None  # 0 to 1


class _Phrase(NamedTuple):
    one: tuple[str, ...]
    both: tuple[str, ...]


class _Wordings(NamedTuple):
    frames: tuple[str, ...]
    bare: tuple[str, ...]
    normal: tuple[str, ...]
    other: _Phrase
    words: dict[str, tuple[str, str, str]]
    phrases: dict[str, _Phrase]  # by `readable` name in lower case


def prompt_of(
    findings: Sequence[Described],
    *,
    seed: int = 0,
    key: Sequence[str | int] = (),
    varied: bool = True,
    view: str = FRONTAL,
    normal_classes: Collection[str] = (),
) -> str:
    """The prompt of an image that shows `findings`. About 20 microseconds.

    Args:
        findings: in any order. None at all: a prompt that says nothing of them. "No Finding" and the like alone: a
            prompt of a normal chest; beside findings they are left out.
        seed: the run's.
        key: what tells this prompt's wording from others'; the row's or image's id.
        varied: wording and order of the findings follow from seed and key. Otherwise the first wording of each and
            the order given, so that equal label sets have equal prompts.
        view: "frontal", "PA", "AP", "lateral".
        normal_classes: names that mean that there is no finding, besides "No Finding" and "normal".

    Raises:
        InputError: an unknown side, a severity outside 0 to 1, or a de-identification mark in a class name.
    """
    number = keyed_seed(seed, "prompt", *key) if varied else 0
    found = [each for each in findings if not (each.name in normal_classes or is_normal(each.name))]
    if varied and len(found) > 1:
        found.sort(key=lambda each: keyed_seed(number, "order", each.name))
    wordings = _wordings()
    frames = wordings.frames if found else wordings.normal if findings else wordings.bare
    phrases = [_phrase(each, keyed_seed(number, "phrase", each.name) if varied else 0) for each in found]
    told = " and ".join(filter(None, (", ".join(phrases[:-1]), *phrases[-1:])))
    frame = frames[number % len(frames)]
    prompt = _capital(_ARTICLE.sub(_an, frame.replace("{view}", view).replace("{findings}", told)))
    check_prompt(prompt)
    return prompt


def check_prompt(prompt: str) -> None:
    """Refuse a prompt that is empty or holds a de-identification mark.

    Raises:
        InputError: "___", "XXXX" or "[**" in it. The message does not quote the prompt.
    """
    mark = _MARKS.search(prompt)
    if mark or not prompt.strip():
        raise InputError(
            f"a prompt with {mark[0]!r} at character {mark.start()}" if mark else "an empty prompt",
            "words only: models have memorised what stood beside the marks of removed patient data",
            "take the mark out of the text or the class name",
        )


def readable(name: str) -> str:
    """A class name as it stands in a sentence: "Pleural_Thickening" and "PleuralThickening" as "pleural thickening".

    Underscores and slashes are blanks, "Hernia, Hiatal" is turned round; words in capitals ("COPD") and single letters
    stay as they are.
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", re.sub(r"[_/]+", " ", name)).strip()
    head, comma, rest = words.partition(", ")
    words = f"{rest} {head}" if comma else words
    return " ".join(word if word.isupper() else word.lower() for word in words.split())


def vocabulary(classes: Iterable[str], *, views: Iterable[str] = (FRONTAL,)) -> tuple[str, ...]:
    """Every word and mark that a prompt of these classes can hold, in lower case, sorted: "x", "-" and "ray" are three.

    Letters, single digits and single other characters, which is how CLIP's tokenizer takes a text apart.
    """
    wordings = _wordings()
    texts = [*wordings.frames, *wordings.bare, *wordings.normal, *views, *_SIDES.values(), "and , an"]
    texts += [word for words in wordings.words.values() for word in words]
    for name in classes:
        phrase = wordings.phrases.get(_plain(name), wordings.other)
        texts += [text.replace("{name}", readable(name)) for text in (*phrase.one, *phrase.both)]
    return tuple(sorted({word for text in texts for word in words_of(_PLACEHOLDER.sub(" ", text)) if word not in "[]"}))


def words_of(text: str) -> list[str]:
    """The words and marks of a text, as `vocabulary` counts them."""
    return _WORDS.findall(text.lower())


def _phrase(finding: Described, choice: int) -> str:
    """A noun phrase: "a small left pleural effusion"."""
    if finding.side not in _SIDES:
        raise InputError(f"{finding.name} on side {finding.side!r}", "left, right, both or nothing")
    level = None
    if finding.severity is not None:
        if not 0 <= finding.severity <= 1:
            raise InputError(f"{finding.name} of severity {finding.severity}", "a number from 0 to 1")
        level = sum(finding.severity >= bound for bound in _LEVELS)
    templates = _templates(finding.name, _SIDES[finding.side])
    return _filled(templates[choice % len(templates)], finding.name, _SIDES[finding.side], level)


def _templates(name: str, side: str) -> tuple[str, ...]:
    wordings = _wordings()
    phrase = wordings.phrases.get(_plain(name), wordings.other)
    return phrase.both if side == "bilateral" and phrase.both else phrase.one


@lru_cache(maxsize=100_000)
def _filled(template: str, name: str, side: str, level: int | None) -> str:
    values = {word: "" if level is None else levels[level] for word, levels in _wordings().words.items()}
    values |= {"side": side, "name": readable(name)}
    kept = _OPTIONAL.sub(
        lambda part: part[1] if all(values[w] for w in _PLACEHOLDER.findall(part[1])) else "", template
    )
    return _ARTICLE.sub(_an, " ".join(_PLACEHOLDER.sub(lambda part: values[part[1]], kept).split()))


def _an(article: re.Match[str]) -> str:
    return f"{article[0][0]}n "


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


@lru_cache(maxsize=10_000)
def _plain(name: str) -> str:
    return readable(name).lower()


@cache
def _wordings() -> _Wordings:
    with resources.files("raymedlt.synthesis").joinpath("prompts.toml").open("rb") as file:
        book = tomllib.load(file)
    phrases: dict[str, _Phrase] = {}
    for entry in book["phrase"]:
        for name in entry["classes"]:
            phrases[name.lower()] = _Phrase(tuple(entry["one"]), tuple(entry.get("both", ())))
    words = {name: (levels[0], levels[1], levels[2]) for name, levels in book["words"].items()}
    frames, bare, normal = (tuple(book[name]) for name in ("frames", "bare", "normal"))
    return _Wordings(frames, bare, normal, _Phrase(tuple(book["other"]), ()), words, phrases)
