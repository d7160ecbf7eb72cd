"""The state of reading one sentence: what is being claimed, since where, and of which structures.

A chunk is what stands between commas and "and"s; a clause is what stands between the words that end every scope ("but",
"which", a semicolon). The rules that change this state are `scope_claims` (findings and structures), `scope_cues`
(negation, hedges, time) and `scope_ends` (commas and clause ends); `reading` runs them over a sentence.
"""

from __future__ import annotations

from raymedlt.reports.phrases import Item
from raymedlt.reports.vocabulary import ABNORMAL, FINDING, PLAIN, SIDES, STRUCTURE

PRESENT, ABSENT, UNCERTAIN, HISTORICAL = "present", "absent", "uncertain", "historical"
UNSPECIFIED = "unspecified_abnormality"
GONE, GENERIC = "gone", "generic"  # kinds of claims beside FINDING, ABNORMAL and STRUCTURE

REACH_OF_NOT = 4  # items after "not" within which it turns a predicate around
SKIPPED = frozenset({PLAIN, "unknown", "placeholder", *SIDES})  # roles that say nothing about scope
_IN_A_LIST = frozenset({FINDING, STRUCTURE, PLAIN, "comma", "and", "or", "unknown", "placeholder", *SIDES})


class Claim:
    """A mention in the making."""

    __slots__ = ("anatomy", "assertion", "finding", "item", "kind")

    def __init__(self, finding: str, assertion: str, item: Item, kind: str, anatomy: str) -> None:
        self.finding, self.assertion, self.item, self.kind, self.anatomy = finding, assertion, item, kind, anatomy


class Scope:
    """What holds at the place that the reading has come to, and what was claimed so far."""

    def __init__(self, items: list[Item], pairs: dict[tuple[str, str], str]) -> None:
        self.items, self.pairs = items, pairs
        self.claims: list[Claim] = []
        self.structures: list[Item] = []  # of this clause
        self.last_structure: Item | None = None  # of this sentence
        self.assertion = PRESENT
        self.closed = False  # a verb ended the list of denials: "no effusion is seen ..."
        self.opened_at = 0  # where the current assertion began
        self.chunk = 0
        self.clause_chunk = 0  # first chunk of the clause
        self.joined_by = ""  # "comma" or "and", what the current chunk began with
        self.not_until = -1
        self.past_chunk = -1
        self.history = False  # "history of": a list of them
        self.acute_at = -1
        self.place_at = -1  # "at", "over": the structure that follows is a place, not a subject
        self.prenominal = False  # "normal heart size and ...": structures that follow are normal
        self.normality = False  # a statement of normality that names nothing
        self.cues: set[str] = set()

    def current(self) -> str:
        return PRESENT if self.closed else self.assertion

    def open(self, index: int, assertion: str) -> None:
        self.assertion, self.closed, self.opened_at, self.prenominal = assertion, False, index, False

    def claim(self, finding: str, assertion: str, item: Item, kind: str, about: Item | None = None) -> None:
        """`item` is the phrase that makes the claim; `about` the structure that it is made of, if another."""
        self.claims.append(Claim(finding, assertion, item, kind, (about or item).term.anatomy))

    def turned(self, index: int) -> bool:
        """Whether a "not" stands close before; it is used up."""
        if index <= self.not_until:
            self.not_until = -1
            return True
        return False

    def role_after(self, index: int) -> str:
        """The role of the next phrase that means something."""
        roles = (item.term.role for item in self.items[index + 1 :])
        return next((role for role in roles if role not in SKIPPED), "")

    def just_said(self) -> list[Claim]:
        """Findings that a predicate at this place speaks of: this chunk's, and a list's before it."""
        clause = [item for item in self.items if self.clause_chunk <= item.chunk <= self.chunk]
        before = {item.term.role for item in clause if item.chunk < self.chunk}
        last = [item.term.role for item in clause if item.chunk == self.chunk]
        joined = self.joined_by == "and" or "or" in last
        first = self.clause_chunk if joined and before <= _IN_A_LIST else self.chunk
        return [claim for claim in self.claims if claim.item.chunk >= first and claim.kind in {FINDING, ABNORMAL}]

    def denied_something(self) -> bool:
        start = self.items[self.opened_at].start
        return bool(self.claims) and self.claims[-1].item.start > start
