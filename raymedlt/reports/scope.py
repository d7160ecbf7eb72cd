"""The scope machine: reads a sentence's phrases from left to right and collects what they claim.

"No" opens a denial that runs through a list ("no effusion, edema or pneumothorax") and ends where a new statement
begins ("no effusion, mild cardiomegaly"; "no edema but ..."). A chunk is what stands between commas and "and"s; a
clause is what stands between the words that end every scope ("but", "which", a semicolon). A structure ("heart size")
waits until a predicate speaks of it ("normal", "enlarged") or a finding uses it as a place ("lung nodule").

The rules lean to one side: what can't be read is not denied.
"""

from __future__ import annotations

from collections.abc import Callable

from raymedlt.reports.phrases import Item
from raymedlt.reports.vocabulary import ABNORMAL, FINDING, FLAG, HEALTHY, PLAIN, SIDES, STRUCTURE, Term

PRESENT, ABSENT, UNCERTAIN, HISTORICAL = "present", "absent", "uncertain", "historical"
UNSPECIFIED = "unspecified_abnormality"
GONE, GENERIC = "gone", "generic"  # kinds of claims beside FINDING, ABNORMAL and STRUCTURE

_REACH_OF_NOT = 4  # items after "not" within which it turns a predicate around
_ACUTE_CHEST = "acute_cardiopulmonary_abnormality"
_CHEST = "chest_abnormality"
_CHUNK_ENDS = frozenset({"comma", "and", "break", "stop", "with", "question", "except"})
_CLAUSE_ENDS = frozenset({"break", "stop", "with", "question", "except"})
_IN_A_LIST = frozenset({FINDING, STRUCTURE, PLAIN, "comma", "and", "or", "unknown", "placeholder", *SIDES})
_SKIPPED = frozenset({PLAIN, "unknown", "placeholder", *SIDES})
_VERBS = frozenset({"be", "seen", "show", "present"})


class Claim:
    """A mention in the making."""

    __slots__ = ("anatomy", "assertion", "finding", "item", "kind")

    def __init__(self, finding: str, assertion: str, item: Item, kind: str, anatomy: str) -> None:
        self.finding, self.assertion, self.item, self.kind, self.anatomy = finding, assertion, item, kind, anatomy


class Scope:
    """The state of the reading: what is being claimed, since where, and of which structures."""

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
        self.acute_at = -1
        self.place_at = -1  # "at", "over": the structure that follows is a place, not a subject
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
        self.end_on_not(len(self.items))

    def scope(self) -> str:
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

    # what can be claimed

    def finding(self, index: int, item: Item) -> None:
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

    def structure(self, index: int, item: Item) -> None:
        self.structures.append(item)
        self.last_structure = item
        if self.prenominal:
            self.state_normal(item)
            return
        last = self.claims[-1] if self.claims else None
        place = self.place_at >= 0 and self.role_after(self.place_at) == STRUCTURE
        self.place_at = -1
        item.pending = not place and (last is None or last.item.chunk != self.chunk or last.kind == STRUCTURE)

    def state_normal(self, item: Item) -> None:
        item.pending = False
        for finding in item.term.ids:
            self.claim(finding, ABSENT, item, STRUCTURE)

    def normal(self, index: int, item: Item) -> None:
        turned = self.turned(index)
        pending = [structure for structure in self.structures if structure.pending]
        if turned:
            target = pending[-1] if pending else self.last_structure
            self.claim(target.term.ids[-1] if target else UNSPECIFIED, PRESENT, target or item, ABNORMAL)
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
            if role not in _SKIPPED:
                return False
        return False

    def healthy(self, index: int, item: Item) -> None:
        """ "Well expanded" says of the lungs what "low volumes" and "hyperinflated" would deny."""
        if self.turned(index):
            self.claim(item.term.ids[0], PRESENT, item, FINDING)
        else:
            for finding in item.term.ids:
                self.claim(finding, ABSENT, item, STRUCTURE)

    def abnormal(self, index: int, item: Item) -> None:
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
            general = assertion == ABSENT or item.term.ids[0] != UNSPECIFIED
            found = item.term.ids if general else target.term.ids[-1:]
        for each in found:
            self.claim(each, assertion, item, ABNORMAL if each == UNSPECIFIED else FINDING, target)
        for structure in self.structures:
            if structure.chunk == target.chunk:
                structure.pending = False

    def noun_after(self, index: int) -> tuple[Item | None, bool]:
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

    def generic(self, index: int, item: Item) -> None:
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
            found = about[-1].term.ids[-1] if about else UNSPECIFIED
            self.claim(found, assertion, item, ABNORMAL, about[-1] if about else None)
            return
        acute = self.acute_at >= self.opened_at or not about
        for structure in about:
            for found in structure.term.acute_ids if acute else structure.term.ids:
                self.claim(found, ABSENT, item, GENERIC, structure)
        if not about:
            self.claim(_ACUTE_CHEST, ABSENT, item, GENERIC)

    def role_after(self, index: int) -> str:
        """The role of the next phrase that means something."""
        roles = (item.term.role for item in self.items[index + 1 :])
        return next((role for role in roles if role not in _SKIPPED), "")

    # what opens, turns and closes

    def deny(self, index: int, item: Item) -> None:
        self.open(index, ABSENT)

    def double(self, index: int, item: Item) -> None:
        self.open(index, UNCERTAIN)

    def unsure(self, index: int, item: Item) -> None:
        self.open(index, UNCERTAIN)

    def unsure_both(self, index: int, item: Item) -> None:
        for claim in self.just_said():
            claim.assertion = UNCERTAIN
        self.open(index, UNCERTAIN)

    def unsure_soft(self, index: int, item: Item) -> None:
        """ "Suspicious for" doubts, but "no opacity suspicious for pneumonia" denies."""
        if self.assertion == ABSENT:
            self.closed = False
        else:
            self.open(index, UNCERTAIN)

    def unsure_post(self, index: int, item: Item) -> None:
        said = self.just_said() or self.claims[-1:]
        for claim in said:
            claim.assertion = UNCERTAIN
        if not said:  # "small if any effusion"
            self.open(index, UNCERTAIN)

    def deny_post(self, index: int, item: Item) -> None:
        said = self.just_said()
        for claim in said:
            claim.assertion = ABSENT
        if not said:  # "the angles are excluded" from the film
            self.limited(index, item)

    def negative(self, index: int, item: Item) -> None:
        """ "Chest is negative", "effusion: negative", "negative acute abnormality"."""
        if self.role_after(index) in {FINDING, "generic", "acute"}:
            self.open(index, ABSENT)
        elif self.just_said():
            self.deny_post(index, item)
        else:
            self.normal(index, item)

    def not_seen(self, index: int, item: Item) -> None:
        said = self.just_said()
        for claim in said:
            claim.assertion = ABSENT
        if any(other.term.role == "seen" for other in self.items[:index]):
            self.cues.add("was")  # "the nodule seen earlier is not visible": absent, yet not a normal statement
        if not said:
            self.limited(index, item)

    def just_said(self) -> list[Claim]:
        """Findings that a predicate at this place speaks of: this chunk's, and a list's before it."""
        clause = [item for item in self.items if self.clause_chunk <= item.chunk <= self.chunk]
        before = {item.term.role for item in clause if item.chunk < self.chunk}
        last = [item.term.role for item in clause if item.chunk == self.chunk]
        joined = self.joined_by == "and" or "or" in last
        first = self.clause_chunk if joined and before <= _IN_A_LIST else self.chunk
        return [claim for claim in self.claims if claim.item.chunk >= first and claim.kind in {FINDING, ABNORMAL}]

    def gone(self, index: int, item: Item) -> None:
        self.cues.add("gone")
        said = [claim for claim in self.just_said() if claim.kind == FINDING]
        if any(claim.item.chunk == self.chunk for claim in said):
            for claim in said:
                claim.assertion = ABSENT
                claim.kind = GONE
        else:
            self.open(index, ABSENT)

    def no_change(self, index: int, item: Item) -> None:
        """ "No new opacity" leaves the old one in place: nothing is denied."""
        self.cues.add("no_change")
        self.open(index, UNCERTAIN)
        for structure in self.structures:
            structure.pending = False

    def persist(self, index: int, item: Item) -> None:
        self.cues.add("persist")

    def note(self, index: int, item: Item) -> None:
        self.cues.add(item.term.role)

    def limited(self, index: int, item: Item) -> None:
        self.cues.add("limited")
        for structure in self.structures:
            if structure.chunk == self.chunk:
                structure.pending = False

    def negate(self, index: int, item: Item) -> None:
        self.not_until = index + _REACH_OF_NOT

    def past(self, index: int, item: Item) -> None:
        self.past_chunk = self.chunk

    def place(self, index: int, item: Item) -> None:
        self.place_at = index

    def acute(self, index: int, item: Item) -> None:
        self.acute_at = index

    def alternative(self, index: int, item: Item) -> None:
        if self.assertion == ABSENT:
            self.closed = False

    def seen(self, index: int, item: Item) -> None:
        self.prenominal = False
        adjective = self.items[index - 1].term.role in {"comma", "and", "or"}  # "or visible effusion"
        if self.assertion == ABSENT and not adjective and self.denied_something():
            self.closed = True

    def be(self, index: int, item: Item) -> None:
        self.prenominal = False
        subject = bool(self.structures) and self.structures[-1] is self.items[index - 1]
        if self.assertion == ABSENT and subject and self.denied_something():
            self.open(index, PRESENT)  # a full stop is missing: "no effusion the lungs are hyperinflated"

    def denied_something(self) -> bool:
        start = self.items[self.opened_at].start
        return bool(self.claims) and self.claims[-1].item.start > start

    def degree(self, index: int, item: Item) -> None:
        """ "Mild" with nothing known to be mild: an abnormality, whatever its name."""
        if self.scope() == ABSENT or any(claim.item.chunk >= self.clause_chunk for claim in self.claims):
            return
        for other in self.items[index + 1 :]:
            if other.term.role in _CLAUSE_ENDS:
                break
            if other.term.role in {FINDING, ABNORMAL, "generic", "normal", HEALTHY, "limited", "degree"}:
                return
        if not any("technique" in other.term.flags for other in self.items):
            self.claim(UNSPECIFIED, self.scope(), item, ABNORMAL)

    # where statements end

    def separator(self, index: int, item: Item) -> None:
        """A comma or "and": the next part of a list, or a new statement."""
        self.drop_unread_subjects(index)
        self.chunk += 1
        self.joined_by = item.term.role
        if self.assertion == ABSENT and not self.list_goes_on(index):
            self.open(index, PRESENT)

    def drop_unread_subjects(self, index: int) -> None:
        """ "The heart is stable, the lungs are clear": the second predicate says nothing about the first subject."""
        waiting = [structure for structure in self.structures if structure.pending and structure.chunk == self.chunk]
        if not waiting or self.role_after(index) != STRUCTURE:
            return
        roles = {item.term.role for item in self.items[:index] if item.chunk == self.chunk}
        if "persist" in roles or ("be" in roles and roles & {"unknown", "placeholder"}):
            for structure in waiting:
                structure.pending = False

    def list_goes_on(self, index: int) -> bool:
        """Whether the denial that holds before this comma or "and" holds behind it."""
        rest = self.items[index + 1 :]
        if not rest:
            return True
        if not self.denied_something():  # "no acute, displaced fracture", but "without a prior study, ..."
            return all(item.term.role != FLAG for item in self.items[self.opened_at : index])
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
        said_generic = bool(self.claims) and self.claims[-1].kind == GENERIC
        return later_or or not said_generic or "generic" in roles or not roles & {FINDING}

    def end_on_not(self, index: int) -> None:
        """ "The left lung is clear, the right is not." """
        if self.not_until >= 0:
            at = self.not_until - _REACH_OF_NOT
            if all(item.term.role in SIDES for item in self.items[at + 1 : index]):
                self.claim(UNSPECIFIED, PRESENT, self.items[at], ABNORMAL)

    def end_clause(self, index: int, item: Item) -> None:
        self.end_on_not(index)
        self.chunk += 1
        self.clause_chunk = self.chunk
        self.open(index, PRESENT)
        self.structures = []
        self.past_chunk = self.not_until = self.acute_at = -1

    def aside(self, index: int, item: Item) -> None:
        """ "With", a bracket: ends a denial, but its subject goes on."""
        self.chunk += 1
        self.open(index, PRESENT)

    def stop(self, index: int, item: Item) -> None:
        self.end_clause(index, item)
        self.last_structure = None

    def question(self, index: int, item: Item) -> None:
        for claim in self.claims:
            if claim.item.chunk >= self.clause_chunk:
                claim.assertion = UNCERTAIN
        self.stop(index, item)

    def exception(self, index: int, item: Item) -> None:
        self.cues.add("except")
        self.end_clause(index, item)

    # the result


_HANDLERS: dict[str, Callable[[Scope, int, Item], None]] = {
    FINDING: Scope.finding,
    STRUCTURE: Scope.structure,
    ABNORMAL: Scope.abnormal,
    "generic": Scope.generic,
    "normal": Scope.normal,
    HEALTHY: Scope.healthy,
    "deny": Scope.deny,
    "double": Scope.double,
    "unsure": Scope.unsure,
    "unsure_both": Scope.unsure_both,
    "unsure_soft": Scope.unsure_soft,
    "unsure_post": Scope.unsure_post,
    "deny_post": Scope.deny_post,
    "negative": Scope.negative,
    "not_seen": Scope.not_seen,
    "not_evidence": Scope.double,
    "gone": Scope.gone,
    "no_change": Scope.no_change,
    "persist": Scope.persist,
    "was": Scope.note,
    "otherwise": Scope.note,
    "limited": Scope.limited,
    "not": Scope.negate,
    "past": Scope.past,
    "acute": Scope.acute,
    "place": Scope.place,
    "or": Scope.alternative,
    "seen": Scope.seen,
    "present": Scope.seen,
    "be": Scope.be,
    "degree": Scope.degree,
    "show": Scope.be,
    "comma": Scope.separator,
    "and": Scope.separator,
    "break": Scope.end_clause,
    "with": Scope.aside,
    "stop": Scope.stop,
    "question": Scope.question,
    "except": Scope.exception,
}
