"""What a report's sentence claims: which findings are present, absent, uncertain or historical, and its sign.

One pass: the sentence is cut into tokens, the longest phrases of the vocabulary are found in its trie, and a scope
machine reads them from left to right. "No" opens a denial that runs through a list ("no effusion, edema or
pneumothorax") and ends where a new statement begins ("no effusion, mild cardiomegaly"; "no edema but ..."). A statement
of normality is the denial of a parent: "the lungs are clear" denies `lung_abnormality`. The rules lean to one side: a
sentence that they can't read is not called normal.

The idea of trigger phrases with a scope is NegEx's (Chapman et al. 2001) and ConText's (Harkema et al. 2009); the sign
of a sentence is described in the project's README.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from raymedlt.reports.vocabulary import (
    ABNORMAL,
    FINDING,
    FLAG,
    HEALTHY,
    PLAIN,
    STRUCTURE,
    Term,
    Trie,
    Vocabulary,
    clashes,
    is_a,
    ontology,
    vocabulary,
)

__all__ = ["Judgement", "Mention", "clashes", "is_a", "judge", "judge_many"]

PRESENT, ABSENT, UNCERTAIN, HISTORICAL = "present", "absent", "uncertain", "historical"
NORMAL, NEUTRAL, ABNORMAL_SIGN, MIXED = "normal", "neutral", "abnormal", "mixed"

_TOKEN = re.compile(r"x{3,}|_{2,}|\d+/\d+(?:/\d+)?|\d+(?:\.\d+)?|[^\W\d_]+(?:'[^\W\d_]+)?|[,;:.?()/&]|\[\*\*.*?\*\*\]")
_PUNCTUATION = {
    ",": Term("comma"),
    ";": Term("stop"),
    ".": Term("stop"),
    "?": Term("question", flags=frozenset({"question"})),
    ":": Term("colon"),
    "(": Term("with"),
    ")": Term("with"),
    "/": Term("or"),
    "&": Term("and"),
}
_NUMBER = Term(FLAG, flags=frozenset({"number"}))
_DATE = Term(FLAG, flags=frozenset({"number", "date"}))
_PLACEHOLDER = Term("placeholder", flags=frozenset({"placeholder"}))
_UNKNOWN = Term("unknown", flags=frozenset({"unknown_word"}))

_SIDES = {"side_left": "left", "side_right": "right", "side_both": "bilateral"}
_SIDE_WORDS = {"left": "left", "right": "right", "bilateral": "bilateral", "both": "bilateral"}  # inside a phrase
_REACH_OF_NOT = 4  # items after "not" within which it turns a predicate around
_UNSPECIFIED = "unspecified_abnormality"
_ACUTE_CHEST = "acute_cardiopulmonary_abnormality"
_CHEST = "chest_abnormality"
_CHUNK_ENDS = frozenset({"comma", "and", "break", "stop", "with", "question", "except"})
_CLAUSE_ENDS = frozenset({"break", "stop", "with", "question", "except"})
_IN_A_LIST = frozenset({FINDING, STRUCTURE, PLAIN, "comma", "and", "or", "unknown", "placeholder", *_SIDES})
_VERBS = frozenset({"be", "seen", "show", "present"})
_NEUTRALISERS = ("gone", "no_change", "limited", "otherwise", "question", "was")


@dataclass(frozen=True, slots=True)
class Mention:
    """One finding that a sentence speaks of."""

    finding: str  # an id of the ontology, "pleural_effusion"
    assertion: str  # "present", "absent", "uncertain", "historical"
    side: str  # "left", "right", "bilateral", ""
    start: int  # the term's first character in the sentence
    end: int  # one past its last
    anatomy: str = ""  # "lung", "pleura", "spine", ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a sentence claims. `flags` say what makes it unfit to be donated to another report, whatever its sign."""

    sign: str  # "normal", "neutral", "abnormal", "mixed"
    mentions: tuple[Mention, ...]
    flags: frozenset[str]


class _Item:
    """A phrase found in the sentence."""

    __slots__ = ("chunk", "end", "pending", "side", "start", "term")

    def __init__(self, term: Term, start: int, end: int, side: str = "") -> None:
        self.term, self.start, self.end = term, start, end
        self.side = side  # "left", "right", "bilateral": of a side word, or of one inside the phrase
        self.chunk = -1  # once read: number of commas, "and"s and clause ends before it
        self.pending = False  # a structure that no predicate has spoken of yet


class _Claim:
    """A mention in the making."""

    __slots__ = ("assertion", "finding", "item", "kind")

    def __init__(self, finding: str, assertion: str, item: _Item, kind: str) -> None:
        self.finding, self.assertion, self.item, self.kind = finding, assertion, item, kind


def judge(sentence: str, language: str = "en") -> Judgement:
    """Read one sentence.

    Returns:
        The sign: normal if it only denies or states normality; abnormal if something is present, uncertain or
        historical; mixed if both; neutral if neither, or if it speaks of a change ("has resolved", "no new ...") or of
        a part ("otherwise clear"). Mentions are in the order of the sentence.

    Raises:
        InputError: no rules for the language.

    Complexity: linear in the number of tokens for all but lists, whose commas each look ahead to the clause's end.
    """
    return _judge(sentence, vocabulary(language))


def judge_many(sentences: Iterable[str], language: str = "en") -> list[Judgement]:
    """`judge` for each sentence, in order."""
    book = vocabulary(language)
    return [_judge(sentence, book) for sentence in sentences]


def _judge(sentence: str, book: Vocabulary) -> Judgement:
    items = _match(sentence.lower(), book.trie)
    scope = _Scope(items, book.pairs)
    scope.read()
    return scope.judgement()


def _match(text: str, trie: Trie) -> list[_Item]:
    """Longest phrases, from left to right; hyphens and other marks are skipped, so "air-space" is two tokens."""
    tokens = [(match.group(), match.start(), match.end()) for match in _TOKEN.finditer(text)]
    items: list[_Item] = []
    index, count = 0, len(tokens)
    while index < count:
        token, start, end = tokens[index]
        found, after = None, index + 1
        node = trie.get(token)
        step = index
        while node is not None:
            term = node.get("")
            if term is not None:
                found, after = term, step + 1
            step += 1
            if step == count:
                break
            node = node.get(tokens[step][0])
        if found is None:
            found = _PUNCTUATION.get(token)
            if found is None:
                first = token[0]
                if first.isdigit():
                    found = _DATE if "/" in token else _NUMBER
                elif first == "_" or first == "[" or token.startswith("xxx"):
                    found = _PLACEHOLDER
                else:
                    found = _UNKNOWN
        side = _SIDES.get(found.role, "")
        if not side and after > index + 1:
            side = next((_SIDE_WORDS[word] for word, _, _ in tokens[index:after] if word in _SIDE_WORDS), "")
        items.append(_Item(found, start, tokens[after - 1][2], side))
        if found is not _PLACEHOLDER and any(tokens[step][0].startswith("xxx") for step in range(index, after)):
            items.append(_Item(_PLACEHOLDER, start, start))
        index = after
    return items


class _Scope:
    """The state of the reading: what is being claimed, since where, and of which structures."""

    def __init__(self, items: list[_Item], pairs: dict[tuple[str, str], str]) -> None:
        self.items, self.pairs = items, pairs
        self.claims: list[_Claim] = []
        self.structures: list[_Item] = []  # of this clause
        self.last_structure: _Item | None = None  # of this sentence
        self.assertion = PRESENT
        self.closed = False  # a verb ended the list of denials: "no effusion is seen ..."
        self.opened_at = 0  # where the current assertion began
        self.clause_at = 0
        self.chunk = 0
        self.clause_chunk = 0  # first chunk of the clause
        self.joined_by = ""  # "comma" or "and", what the current chunk began with
        self.not_until = -1
        self.past_chunk = -1
        self.acute_at = -1
        self.prenominal = False  # "normal heart size and ...": structures that follow are normal
        self.normality = False  # a statement of normality that names nothing
        self.cues: set[str] = set()

    # reading

    def read(self) -> None:
        for index, item in enumerate(self.items):
            item.chunk = self.chunk
            if item.term.affirm and self.assertion == ABSENT and self.items[index - 1].term.role == FINDING:
                self.open(index, PRESENT)  # a full stop is missing: "no pneumothorax small effusion"
            handler = _HANDLERS.get(item.term.role)
            if handler is not None:
                handler(self, index, item)

    def scope(self) -> str:
        return PRESENT if self.closed else self.assertion

    def open(self, index: int, assertion: str) -> None:
        self.assertion, self.closed, self.opened_at, self.prenominal = assertion, False, index, False

    def claim(self, finding: str, assertion: str, item: _Item, kind: str) -> None:
        self.claims.append(_Claim(finding, assertion, item, kind))

    def turned(self, index: int) -> bool:
        """Whether a "not" stands close before; it is used up."""
        if index <= self.not_until:
            self.not_until = -1
            return True
        return False

    # what can be claimed

    def finding(self, index: int, item: _Item) -> None:
        assertion = self.scope()
        if self.turned(index):
            assertion = ABSENT
        elif self.past_chunk == self.chunk and assertion == PRESENT:
            assertion = HISTORICAL
        for structure in self.structures:  # "lung nodule", "spine with osteophytes": the structure only says where
            if structure.chunk == self.chunk:
                structure.pending = False
        self.prenominal = False
        self.claim(item.term.ids[0], assertion, item, FINDING)

    def structure(self, index: int, item: _Item) -> None:
        self.structures.append(item)
        self.last_structure = item
        if self.prenominal:
            self.state_normal(item)
            return
        last = self.claims[-1] if self.claims else None
        item.pending = last is None or last.item.chunk != self.chunk or last.kind == STRUCTURE

    def state_normal(self, item: _Item) -> None:
        item.pending = False
        for finding in item.term.ids:
            self.claim(finding, ABSENT, item, STRUCTURE)

    def normal(self, index: int, item: _Item) -> None:
        turned = self.turned(index)
        pending = [structure for structure in self.structures if structure.pending]
        if turned:
            target = pending[-1] if pending else self.last_structure
            self.claim(target.term.ids[-1] if target else _UNSPECIFIED, PRESENT, target or item, ABNORMAL)
            for structure in pending:
                structure.pending = False
        elif self.structure_follows(index):
            self.prenominal = True
        elif pending:
            for structure in pending:
                self.state_normal(structure)
        elif self.last_structure is None and self.names_nothing_else(index):
            self.claim(_CHEST, ABSENT, item, STRUCTURE)
            self.claim(_ACUTE_CHEST, ABSENT, item, STRUCTURE)
        else:
            self.normality = self.normality or self.last_structure is not None

    def names_nothing_else(self, index: int) -> bool:
        """ "Normal.", "Unremarkable.", "Negative." """
        return not self.claims and all(
            other is self.items[index] or other.term.role in {PLAIN, "stop", "be"} for other in self.items
        )

    def structure_follows(self, index: int) -> bool:
        """Whether the predicate stands before its noun: "normal size of the heart", "clear lungs"."""
        for item in self.items[index + 1 :]:
            role = item.term.role
            if role == STRUCTURE:
                return True
            if role not in {PLAIN, "placeholder", "side_left", "side_right", "side_both", "unknown"}:
                return False
        return False

    def healthy(self, index: int, item: _Item) -> None:
        """ "Well expanded" says of the lungs what "low volumes" and "hyperinflated" would deny."""
        if self.turned(index):
            self.claim(item.term.ids[0], PRESENT, item, FINDING)
        else:
            for finding in item.term.ids:
                self.claim(finding, ABSENT, item, STRUCTURE)

    def abnormal(self, index: int, item: _Item) -> None:
        assertion = self.scope()
        if self.turned(index):
            assertion = ABSENT
        elif self.past_chunk == self.chunk and assertion == PRESENT:
            assertion = HISTORICAL
        self.prenominal = False
        target = next((other for other in reversed(self.structures) if other.chunk == self.chunk), None)
        if target is None:
            target, modifies_finding = self.noun_after(index)
            if modifies_finding:
                return  # "enlarged granuloma": the finding speaks for itself
        if target is None and self.structures:
            target = self.structures[-1]
        if target is None:
            target = self.last_structure
        if target is None:
            self.claim(item.term.ids[0], assertion, item, ABNORMAL)
            return
        finding = self.pairs.get((target.term.name, item.term.name))
        if finding:
            found: tuple[str, ...] = (finding,)
        else:
            found = target.term.ids[-1:] if assertion != ABSENT else item.term.ids
        for each in found:
            self.claim(each, assertion, item, ABNORMAL if each == _UNSPECIFIED else FINDING)
        for structure in self.structures:
            if structure.chunk == target.chunk:
                structure.pending = False

    def noun_after(self, index: int) -> tuple[_Item | None, bool]:
        """The structure that an abnormal word stands before, or whether it stands before a finding."""
        for item in self.items[index + 1 :]:
            role = item.term.role
            if role == STRUCTURE:
                item.chunk = self.chunk
                return (None, True) if self.role_after(self.items.index(item)) == FINDING else (item, False)
            if role in {FINDING, ABNORMAL, "generic"}:
                return None, True
            if role in _CHUNK_ENDS or role in _VERBS:
                break
        return None, False

    def generic(self, index: int, item: _Item) -> None:
        """ "Abnormality", "disease": what it is an abnormality of stands before, or is the subject, or follows."""
        assertion = self.scope()
        if self.turned(index):
            assertion = ABSENT
        after = self.role_after(index)
        if item.term.weak and (assertion != ABSENT or after in {FINDING, "unsure_soft"}):
            return  # "no findings of edema" denies edema, not every finding
        start = self.items[self.opened_at].start
        inside = [structure for structure in self.structures if structure.start >= start]
        about = inside or [structure for structure in self.structures if structure.pending]
        for other in self.items[index + 1 :]:
            role = other.term.role
            if about or role in _CHUNK_ENDS or role in {"be", "present", FINDING}:
                break
            if role == STRUCTURE:
                about = [other]
        for structure in self.structures:
            structure.pending = False
        if assertion != ABSENT:
            found = about[-1].term.ids[-1] if about else _UNSPECIFIED
            self.claim(found, assertion, item, ABNORMAL)
            return
        acute = self.acute_at >= self.opened_at or not about
        ids = [found for structure in about for found in (structure.term.acute_ids if acute else structure.term.ids)]
        for found in dict.fromkeys(ids or [_ACUTE_CHEST]):
            self.claim(found, ABSENT, item, "generic")

    def role_after(self, index: int) -> str:
        """The role of the next phrase that means something."""
        roles = (item.term.role for item in self.items[index + 1 :])
        return next((role for role in roles if role not in {PLAIN, "unknown", "placeholder"}), "")

    # what opens, turns and closes

    def deny(self, index: int, item: _Item) -> None:
        self.open(index, ABSENT)

    def double(self, index: int, item: _Item) -> None:
        self.open(index, UNCERTAIN)

    def unsure(self, index: int, item: _Item) -> None:
        self.open(index, UNCERTAIN)

    def unsure_both(self, index: int, item: _Item) -> None:
        for claim in self.just_said():
            claim.assertion = UNCERTAIN
        self.open(index, UNCERTAIN)

    def unsure_soft(self, index: int, item: _Item) -> None:
        """ "Suspicious for" doubts, but "no opacity suspicious for pneumonia" denies."""
        if self.assertion == ABSENT:
            self.closed = False
        else:
            self.open(index, UNCERTAIN)

    def unsure_post(self, index: int, item: _Item) -> None:
        said = self.just_said() or self.claims[-1:]
        for claim in said:
            claim.assertion = UNCERTAIN
        if not said:  # "small if any effusion"
            self.open(index, UNCERTAIN)

    def deny_post(self, index: int, item: _Item) -> None:
        said = self.just_said()
        for claim in said:
            claim.assertion = ABSENT
        if not said:  # "the angles are excluded" from the film
            self.limited(index, item)

    def negative(self, index: int, item: _Item) -> None:
        """ "Chest is negative", "effusion: negative", "negative acute abnormality"."""
        if self.role_after(index) in {FINDING, "generic", "acute"}:
            self.open(index, ABSENT)
        elif self.just_said():
            self.deny_post(index, item)
        else:
            self.normal(index, item)

    def not_seen(self, index: int, item: _Item) -> None:
        said = self.just_said()
        for claim in said:
            claim.assertion = ABSENT
        if any(other.term.role == "seen" for other in self.items[:index]):
            self.cues.add("was")  # "the nodule seen earlier is not visible": absent, yet not a normal statement
        if not said:
            self.limited(index, item)

    def just_said(self) -> list[_Claim]:
        """Findings that a predicate at this place speaks of: this chunk's, and a list's before it."""
        clause = [item for item in self.items if self.clause_chunk <= item.chunk <= self.chunk]
        before = {item.term.role for item in clause if item.chunk < self.chunk}
        last = [item.term.role for item in clause if item.chunk == self.chunk]
        joined = self.joined_by == "and" or "or" in last
        first = self.clause_chunk if joined and before <= _IN_A_LIST else self.chunk
        return [claim for claim in self.claims if claim.item.chunk >= first and claim.kind in {FINDING, ABNORMAL}]

    def gone(self, index: int, item: _Item) -> None:
        self.cues.add("gone")
        said = [claim for claim in self.claims if claim.item.chunk == self.chunk and claim.kind == FINDING]
        if said:
            for claim in said:
                claim.assertion = ABSENT
                claim.kind = "gone"
        else:
            self.open(index, ABSENT)

    def no_change(self, index: int, item: _Item) -> None:
        """ "No new opacity" leaves the old one in place: nothing is denied."""
        self.cues.add("no_change")
        self.open(index, UNCERTAIN)
        for structure in self.structures:
            structure.pending = False

    def persist(self, index: int, item: _Item) -> None:
        self.cues.add("persist")

    def note(self, index: int, item: _Item) -> None:
        self.cues.add(item.term.role)

    def limited(self, index: int, item: _Item) -> None:
        self.cues.add("limited")
        for structure in self.structures:
            if structure.chunk == self.chunk:
                structure.pending = False

    def negate(self, index: int, item: _Item) -> None:
        self.not_until = index + _REACH_OF_NOT

    def past(self, index: int, item: _Item) -> None:
        self.past_chunk = self.chunk

    def acute(self, index: int, item: _Item) -> None:
        self.acute_at = index

    def alternative(self, index: int, item: _Item) -> None:
        if self.assertion == ABSENT:
            self.closed = False

    def seen(self, index: int, item: _Item) -> None:
        self.prenominal = False
        adjective = self.items[index - 1].term.role in {"comma", "and", "or"}  # "or visible effusion"
        if self.assertion == ABSENT and not adjective and self.denied_something():
            self.closed = True

    def be(self, index: int, item: _Item) -> None:
        self.prenominal = False
        if self.assertion == ABSENT and self.structures and self.structures[-1] is self.items[index - 1]:
            if self.denied_something():
                self.open(index, PRESENT)  # a full stop is missing: "no effusion the lungs are hyperinflated"

    def denied_something(self) -> bool:
        start = self.items[self.opened_at].start
        return bool(self.claims) and self.claims[-1].item.start > start

    def degree(self, index: int, item: _Item) -> None:
        """ "Mild" with nothing known to be mild: an abnormality, whatever its name."""
        if self.scope() == ABSENT or any(claim.item.chunk >= self.clause_chunk for claim in self.claims):
            return
        for other in self.items[index + 1 :]:
            if other.term.role in _CLAUSE_ENDS:
                break
            if other.term.role in {FINDING, ABNORMAL, "generic", "normal", HEALTHY, "limited", "degree"}:
                return
        if not any("technique" in other.term.flags for other in self.items):
            self.claim(_UNSPECIFIED, self.scope(), item, ABNORMAL)

    # where statements end

    def separator(self, index: int, item: _Item) -> None:
        """A comma or "and": the next part of a list, or a new statement."""
        self.chunk += 1
        self.joined_by = item.term.role
        if self.assertion == ABSENT and not self.list_goes_on(index):
            self.open(index, PRESENT)

    def list_goes_on(self, index: int) -> bool:
        """Whether the denial that holds before this comma or "and" holds behind it."""
        rest = self.items[index + 1 :]
        if not rest or not self.denied_something():
            return True
        after_comma = self.items[index].term.role == "comma"
        if after_comma and rest[0].term.role == "and":
            after_comma, rest = False, rest[1:]
        part: list[Term] = []
        later_or = False
        in_part = True
        for item in rest:
            role = item.term.role
            if role in _CLAUSE_ENDS or role == "deny":
                break
            if role in {"comma", "and"}:
                in_part = False
            elif role == "or":
                later_or = True
            if in_part:
                part.append(item.term)
        first = part[0] if part else None
        if first is None or first.role == "or":
            return True
        if self.closed:
            return False
        roles = {term.role for term in part}
        if "present" in roles or roles & {"unsure_post", "persist", "past"}:
            return later_or and first.role == FINDING and "present" not in roles and "unsure_post" not in roles
        if first.role == "persist" or ((first.affirm or first.role == ABNORMAL) and not later_or):
            return False
        if after_comma and not later_or and roles & {"be", "seen", "normal", ABNORMAL}:
            return False
        if not after_comma and roles & {"be", "normal", ABNORMAL} and STRUCTURE in roles:
            return False
        said_generic = bool(self.claims) and self.claims[-1].kind == "generic"
        return later_or or not said_generic or "generic" in roles or not roles & {FINDING}

    def end_clause(self, index: int, item: _Item) -> None:
        self.chunk += 1
        self.clause_chunk = self.chunk
        self.open(index, PRESENT)
        self.structures = []
        self.past_chunk = self.not_until = self.acute_at = -1

    def aside(self, index: int, item: _Item) -> None:
        """ "With", a bracket: ends a denial, but its subject goes on."""
        self.chunk += 1
        self.open(index, PRESENT)

    def stop(self, index: int, item: _Item) -> None:
        self.end_clause(index, item)
        self.last_structure = None

    def question(self, index: int, item: _Item) -> None:
        for claim in self.claims:
            if claim.item.chunk >= self.clause_chunk:
                claim.assertion = UNCERTAIN
        self.stop(index, item)

    def exception(self, index: int, item: _Item) -> None:
        self.cues.add("except")
        self.end_clause(index, item)

    # the result

    def judgement(self) -> Judgement:
        claims = self.kept()
        flags: set[str] = set()
        for item in self.items:
            if item.term.flags:
                flags |= item.term.flags
        book = ontology()
        for claim in claims:
            if book.kinds[claim.finding] == "device":
                flags.add("device")
            if "other_body_part_abnormality" in book.ancestors[claim.finding]:
                flags.add("other_body_part")
        if not claims and (self.items and self.items[-1].term.role == "colon" or self.only_names()):
            flags.add("header")
        mentions = tuple(
            Mention(
                claim.finding,
                claim.assertion,
                self.side(claim),
                claim.item.start,
                claim.item.end,
                self.anatomy(claim),
            )
            for claim in claims
        )
        return Judgement(self.sign(claims, flags), mentions, frozenset(flags))

    def kept(self) -> list[_Claim]:
        """Claims without repeats; an unspecified abnormality counts only where nothing better is said."""
        specific = {(claim.item.chunk, claim.assertion) for claim in self.claims if claim.finding != _UNSPECIFIED}
        kept: dict[tuple[str, str, int], _Claim] = {}
        for claim in self.claims:
            if claim.finding == _UNSPECIFIED and (claim.item.chunk, claim.assertion) in specific:
                continue
            kept.setdefault((claim.finding, claim.assertion, claim.item.chunk), claim)
        return sorted(kept.values(), key=lambda claim: claim.item.start)

    def only_names(self) -> bool:
        return bool(self.items) and all(
            item.term.role in {STRUCTURE, PLAIN, FLAG, "placeholder"} for item in self.items
        )

    def sign(self, claims: list[_Claim], flags: set[str]) -> str:
        abnormal = any(claim.assertion != ABSENT for claim in claims)
        normal = self.normality or any(claim.assertion == ABSENT and claim.kind != "gone" for claim in claims)
        if abnormal:
            return MIXED if normal else ABNORMAL_SIGN
        if not normal:
            return NEUTRAL
        if "except" in self.cues:
            return MIXED
        if not claims or "recommendation" in flags or any(cue in self.cues for cue in _NEUTRALISERS):
            return NEUTRAL
        return NORMAL

    def side(self, claim: _Claim) -> str:
        """The nearest side word of its chunk; a neighbour that names no finding lends its side ("right and left ...")."""
        if claim.item.side:
            return claim.item.side
        if not any(item.side for item in self.items):
            return ""
        here = claim.item.chunk
        claimed = {other.item.chunk for other in self.claims}
        chunks = {here} | ({here - 1, here + 1} - claimed)
        sides = [item for item in self.items if item.side and item.chunk in chunks]
        names = {item.side for item in sides}
        alone = all(other.item is claim.item or other.item.chunk != here for other in self.claims)
        if "bilateral" in names or (len(names) == 2 and alone):
            return "bilateral"
        return min(sides, key=lambda item: abs(item.start - claim.item.start)).side if sides else ""

    def anatomy(self, claim: _Claim) -> str:
        if claim.item.term.role in {FINDING, STRUCTURE}:
            return claim.item.term.anatomy
        return ""


_HANDLERS: dict[str, Callable[[_Scope, int, _Item], None]] = {
    FINDING: _Scope.finding,
    STRUCTURE: _Scope.structure,
    ABNORMAL: _Scope.abnormal,
    "generic": _Scope.generic,
    "normal": _Scope.normal,
    HEALTHY: _Scope.healthy,
    "deny": _Scope.deny,
    "double": _Scope.double,
    "unsure": _Scope.unsure,
    "unsure_both": _Scope.unsure_both,
    "unsure_soft": _Scope.unsure_soft,
    "unsure_post": _Scope.unsure_post,
    "deny_post": _Scope.deny_post,
    "negative": _Scope.negative,
    "not_seen": _Scope.not_seen,
    "not_evidence": _Scope.double,
    "gone": _Scope.gone,
    "no_change": _Scope.no_change,
    "persist": _Scope.persist,
    "was": _Scope.note,
    "otherwise": _Scope.note,
    "limited": _Scope.limited,
    "not": _Scope.negate,
    "past": _Scope.past,
    "acute": _Scope.acute,
    "or": _Scope.alternative,
    "seen": _Scope.seen,
    "present": _Scope.seen,
    "be": _Scope.be,
    "degree": _Scope.degree,
    "show": _Scope.be,
    "comma": _Scope.separator,
    "and": _Scope.separator,
    "break": _Scope.end_clause,
    "with": _Scope.aside,
    "stop": _Scope.stop,
    "question": _Scope.question,
    "except": _Scope.exception,
}
