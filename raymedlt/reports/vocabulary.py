"""The words of radiology reports: rule tables read into an ontology and one trie per language.

The tables are data (`rules/`), so that a reader who knows radiology but not Python can correct them. A pattern is a
sequence of tokens; `a/b` stands for either token and `word?` for a token that may be missing; patterns are separated
by `;`. Nothing here is a regular expression, so a pattern matches whole tokens only: "no" is not found inside "nodule".

A language is a folder of tables. Its `language.csv` says how its words are read (see `Language`).
"""

from __future__ import annotations

import csv
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from raymedlt.errors import InputError

FINDING, STRUCTURE, ABNORMAL, HEALTHY, PLAIN, FLAG = "finding", "structure", "abnormal", "healthy", "plain", "flag"
LEAST_STEM = 4  # letters of a stem that takes endings; shorter ones ("sin", "con") are too easily part of other words

SIDES = {"side_left": "left", "side_right": "right", "side_both": "bilateral"}  # roles of side words

# Words that only add a property to a phrase which may have a role of its own.
_PROPERTIES = ("affirm", "weak", FLAG)
PHRASE_END = ""  # the key under which a trie node keeps its term


@dataclass(slots=True)
class Term:
    """What a phrase means to the scope rules."""

    role: str  # FINDING, STRUCTURE, ABNORMAL, PLAIN, FLAG, or a cue's role as `cues.csv` names it
    ids: tuple[str, ...] = ()  # finding: its id; structure: what "normal" denies; abnormal word: its id when alone
    acute_ids: tuple[str, ...] = ()  # structure: what "no acute abnormality" denies
    name: str = ""  # structure or lemma, the keys of `pairs.csv`
    anatomy: str = ""
    within: str = ""  # structure: the anatomy that it is a part of ("lung" for a lobe)
    flags: frozenset[str] = frozenset()
    affirm: bool = False  # after "no x," or "no x and" it opens a new, affirmed statement ("mild", "stable", "left")
    weak: bool = False  # says nothing when affirmed ("these findings")


Trie = dict[str, Any]  # the next token's node; under PHRASE_END the Term of a phrase that ends here


@dataclass(frozen=True, slots=True)
class Language:
    """How the words of a language are read: the settings of `rules/<language>/language.csv`, all of them optional."""

    plurals: tuple[tuple[str, str], ...] = ()
    """Endings of a noun and of its plural, "y>ies"; the first that fits counts. The last token of a noun's pattern
    also matches its plural."""
    endings: frozenset[str] = frozenset()
    """Endings of words whose stems (`LEAST_STEM` letters or more) are in the tables: "derrame" is read as "derram"."""
    skipped: frozenset[str] = frozenset()
    """Words that are passed over: articles and prepositions that stemmed text lacks."""
    fold_accents: bool = False
    """Whether letters lose their accents before they are looked up; the tables then have none."""
    restore_breaks: bool = False
    """Whether text comes without commas and "and"s, so that `breaks.restore` has to find where statements end."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The phrases of one language."""

    trie: Trie
    pairs: dict[tuple[str, str], str]  # (structure, lemma of an abnormal word) -> finding
    sides: dict[str, str]  # side words that may stand inside a phrase: "left" -> "left", "both" -> "bilateral"
    terms: int
    abbreviations: dict[str, tuple[str, ...]]  # "rll" -> ("right", "lower", "lobe")
    words: frozenset[str]  # all tokens of the patterns and the abbreviations
    language: Language


@dataclass(frozen=True, slots=True)
class Ontology:
    """Findings, their ancestors and the groups whose members can stand for each other in a report."""

    ancestors: dict[str, frozenset[str]]  # of each finding, itself included
    kinds: dict[str, str]  # "group", "finding", "device"
    related: dict[str, frozenset[str]]
    compatible: dict[str, frozenset[str]]  # denied -> asserted, although related


def _rows(*parts: str) -> list[dict[str, str]]:
    text = files("raymedlt.reports").joinpath("rules", *parts).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


@cache
def languages() -> tuple[str, ...]:
    """The languages that have rules: the folders of `rules/` with a `language.csv`."""
    folders = files("raymedlt.reports").joinpath("rules").iterdir()
    return tuple(sorted(folder.name for folder in folders if folder.joinpath("language.csv").is_file()))


def _language(language: str) -> Language:
    settings = {row["setting"]: row["value"] for row in _rows(language, "language.csv")}
    plurals = (rule.partition(">") for rule in settings.get("plurals", "").split())
    return Language(
        plurals=tuple((ending, plural) for ending, _, plural in plurals),
        endings=frozenset(settings.get("endings", "").split()),
        skipped=frozenset(settings.get("skipped", "").split()),
        fold_accents=settings.get("fold_accents") == "yes",
        restore_breaks=settings.get("restore_breaks") == "yes",
    )


@cache
def ontology() -> Ontology:
    """The findings shared by all languages.

    Raises:
        InputError: a table names a finding that `findings.csv` lacks.
    """
    rows = _rows("findings.csv")
    parents = {row["id"]: row["parents"].split() for row in rows}
    ancestors: dict[str, frozenset[str]] = {}

    def climb(finding: str) -> frozenset[str]:
        if finding not in parents:
            raise InputError(
                f"a rule table names the finding '{finding}'", "an id of rules/findings.csv", "add it there"
            )
        if finding not in ancestors:
            ancestors[finding] = frozenset({finding}).union(*map(climb, parents[finding]))
        return ancestors[finding]

    for finding in parents:
        climb(finding)
    related: dict[str, set[str]] = {finding: set() for finding in parents}
    for row in _rows("related.csv"):
        members = row["members"].split()
        for member in members:
            climb(member)
            related[member].update(members)
    compatible = {row["denied"]: frozenset(row["asserted"].split()) for row in _rows("compatible.csv")}
    for finding in frozenset(compatible).union(*compatible.values()):
        climb(finding)
    return Ontology(
        ancestors,
        {row["id"]: row["kind"] for row in rows},
        {finding: frozenset(others) for finding, others in related.items()},
        compatible,
    )


def is_a(child: str, parent: str) -> bool:
    """Whether `child` is `parent` or one of its kinds: is_a("pneumonia", "lung_abnormality").

    Raises:
        KeyError: `child` is not in the ontology.
    """
    return parent in ontology().ancestors[child]


@cache
def clashes(denied: str, asserted: str) -> bool:
    """Whether denying `denied` conflicts with the presence of `asserted`.

    True for equal findings, for ancestor and descendant in either direction, and for members of one group of
    `related.csv` (a report may call the same shadow consolidation, infiltrate or atelectasis), their kinds included.
    Pairs of `compatible.csv` are the exception: radiologists deny the one and assert the other in one report about as
    often as chance would have it ("basilar atelectasis; no focal consolidation").
    When in doubt it says True: a needless refusal costs one addition, a contradiction costs trust.

    Raises:
        KeyError: an id is not in the ontology.
    """
    book = ontology()
    above_denied, above_asserted = book.ancestors[denied], book.ancestors[asserted]
    if denied in above_asserted or asserted in above_denied:
        return True
    if above_asserted & book.compatible.get(denied, frozenset()):
        return False
    groups = frozenset(finding for finding in above_denied if book.kinds[finding] != "group" or finding == denied)
    others = frozenset(finding for finding in above_asserted if book.kinds[finding] != "group" or finding == asserted)
    return any(other in book.related[finding] for finding in groups for other in others)


@cache
def tables_hash() -> str:
    """Sixteen hexadecimal digits that change when any rule table of the package changes, the guard's and the audit's
    included: judgements made under other tables are not to be mixed."""
    digest = hashlib.sha256()
    for path in sorted(Path(str(files("raymedlt"))).rglob("*.csv")):
        digest.update(path.name.encode() + b":" + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def vocabulary(language: str) -> Vocabulary:
    """Read the tables of one language; a few milliseconds, once per process.

    Raises:
        InputError: no tables for the language, an unknown finding, or a phrase with two meanings.
    """
    if language not in languages():
        raise InputError(
            f"no assertion rules for the language '{language}'",
            f"one of {', '.join(languages())}",
            "set the language column, or add a folder of tables under raymedlt/reports/rules",
        )
    phrases: dict[tuple[str, ...], Term] = {}
    plurals: dict[tuple[str, ...], Term] = {}
    known = ontology().ancestors
    reading = _language(language)
    for tokens, term, noun in _terms(language):
        for finding in (*term.ids, *term.acute_ids):
            if finding not in known:
                raise InputError(f"rules/{language} name the finding '{finding}'", "an id of rules/findings.csv")
        _add(phrases, tokens, term)
        plural = _plural(tokens[-1], reading.plurals) if noun else ""
        if plural:
            plurals.setdefault((*tokens[:-1], plural), term)
    phrases = plurals | phrases  # a phrase that the tables spell out wins over a plural made here
    for tokens, term in _properties(language):
        held = phrases.get(tokens, Term(FLAG if term.role == FLAG else PLAIN))
        phrases[tokens] = Term(
            held.role,
            held.ids,
            held.acute_ids,
            held.name,
            held.anatomy,
            held.within,
            held.flags | term.flags,
            held.affirm or term.affirm,
            held.weak or term.weak,
        )
    trie: Trie = {}
    for tokens, term in phrases.items():
        node = trie
        for token in tokens:
            node = node.setdefault(token, {})
        node[PHRASE_END] = term
    pairs = {(row["structure"], row["lemma"]): row["finding"] for row in _rows(language, "pairs.csv")}
    sides = {tokens[0]: SIDES[term.role] for tokens, term in phrases.items() if term.role in SIDES and len(tokens) == 1}
    short = {row["short"]: tuple(row["full"].split()) for row in _rows(language, "abbreviations.csv")}
    words = frozenset(word for tokens in phrases for word in tokens) | short.keys()
    return Vocabulary(trie, pairs, sides, len(phrases), short, words, reading)


def _add(phrases: dict[tuple[str, ...], Term], tokens: tuple[str, ...], term: Term) -> None:
    held = phrases.setdefault(tokens, term)
    if held is not term and (held.role, held.ids, held.name) != (term.role, term.ids, term.name):
        raise InputError(
            f"the phrase '{' '.join(tokens)}' is {held.role} {held.name or held.ids} and {term.role} "
            f"{term.name or term.ids}",
            "one meaning for a phrase",
            "delete one of the two patterns under raymedlt/reports/rules",
        )


def _terms(language: str) -> Iterator[tuple[tuple[str, ...], Term, bool]]:
    """Phrases with a meaning of their own, and whether they are nouns, whose plural is meant too."""
    for row in _rows(language, "findings.csv"):
        yield from _each(row, Term(FINDING, (row["finding"],), anatomy=row["anatomy"]), plural=True)
    for row in _rows(language, "structures.csv"):
        ids, acute = tuple(row["normal"].split()), tuple(row["acute"].split())
        flags = frozenset(row["flags"].split())
        term = Term(STRUCTURE, ids, acute, row["structure"], row["anatomy"], row["within"], flags)
        yield from _each(row, term, plural=True)
    for row in _rows(language, "abnormal.csv"):
        yield from _each(row, Term(ABNORMAL, (row["alone"],), name=row["lemma"]), plural=False)
    for row in _rows(language, "healthy.csv"):
        yield from _each(row, Term(HEALTHY, tuple(row["denies"].split())), plural=False)
    for row in _rows(language, "cues.csv"):
        if row["role"] not in _PROPERTIES:
            yield from _each(row, Term(row["role"], flags=frozenset(row["flags"].split())), plural=False)


def _properties(language: str) -> Iterator[tuple[tuple[str, ...], Term]]:
    for row in _rows(language, "cues.csv"):
        role = row["role"]
        if role in _PROPERTIES:
            term = Term(role, flags=frozenset(row["flags"].split()), affirm=role == "affirm", weak=role == "weak")
            for tokens, _, _ in _each(row, term, plural=False):
                yield tokens, term


def _each(row: dict[str, str], term: Term, plural: bool) -> Iterator[tuple[tuple[str, ...], Term, bool]]:
    for pattern in row["patterns"].split(";"):
        for tokens in expand(pattern):
            yield tokens, term, plural


def expand(pattern: str) -> list[tuple[str, ...]]:
    """All token sequences of a pattern: "pleural? fluid/effusion" has four. Blank patterns have none."""
    choices = []
    for token in pattern.split():
        optional = token.endswith("?")
        forms = token.rstrip("?").split("/")
        choices.append([*forms, ""] if optional else forms)
    return [tuple(filter(None, tokens)) for tokens in itertools.product(*choices)] if choices else []


def _plural(word: str, rules: tuple[tuple[str, str], ...]) -> str:
    for ending, plural in rules:
        if word.endswith(ending):
            return word[: len(word) - len(ending)] + plural
    return ""
