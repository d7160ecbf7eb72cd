"""Rules that make claims: findings, structures and the predicates that speak of them.

A structure ("heart size") waits until a predicate speaks of it ("normal", "enlarged") or a finding uses it as a place
("lung nodule").
"""

from __future__ import annotations

from raymedlt.reports.phrases import Item
from raymedlt.reports.scope import ABSENT, GENERIC, HISTORICAL, PRESENT, SKIPPED, UNSPECIFIED, Scope
from raymedlt.reports.scope_ends import CHUNK_ENDS, CLAUSE_ENDS
from raymedlt.reports.vocabulary import ABNORMAL, FINDING, HEALTHY, PLAIN, SIDES, STRUCTURE

_ACUTE_CHEST = "acute_cardiopulmonary_abnormality"
_CHEST = "chest_abnormality"
_SUBJECT = frozenset({STRUCTURE, PLAIN, "be", "seen", *SIDES})  # what may stand between "no" and "normal"
_VERBS = frozenset({"be", "seen", "show", "present"})
_WHOLE = frozenset({"chest", "cardiopulmonary"})  # "abnormal chest" says no more than "abnormal"


def finding(scope: Scope, index: int, item: Item) -> None:
    assertion = scope.current()
    if scope.turned(index):
        assertion = ABSENT
    elif scope.past_chunk == scope.chunk and assertion == PRESENT:
        assertion = HISTORICAL
    for structure in scope.structures:  # "lung nodule", "spine with osteophytes": the structure only says where
        if structure.chunk == scope.chunk:
            structure.pending = False
    scope.prenominal = False
    scope.claim(item.term.ids[0], assertion, item, FINDING)


def structure(scope: Scope, index: int, item: Item) -> None:
    scope.structures.append(item)
    scope.last_structure = item
    if scope.prenominal:
        state_normal(scope, item)
        return
    last = scope.claims[-1] if scope.claims else None
    place = scope.place_at >= 0 and scope.role_after(scope.place_at) == STRUCTURE
    scope.place_at = -1
    item.pending = not place and (last is None or last.item.chunk != scope.chunk or last.kind == STRUCTURE)


def state_normal(scope: Scope, item: Item) -> None:
    item.pending = False
    for finding in item.term.ids:
        scope.claim(finding, ABSENT, item, STRUCTURE)


def normal(scope: Scope, index: int, item: Item) -> None:
    turned = scope.turned(index)
    pending = [structure for structure in scope.structures if structure.pending]
    if deny_normality(scope, index):
        return
    if turned:
        target = pending[-1] if pending else scope.last_structure
        scope.claim(target.term.ids[-1] if target else UNSPECIFIED, PRESENT, target or item, ABNORMAL)
        for structure in pending:
            structure.pending = False
    elif structure_follows(scope, index):
        scope.prenominal = True
    elif pending:
        for structure in pending:
            state_normal(scope, structure)
    elif scope.last_structure is None and names_nothing_else(scope, index):
        scope.claim(_CHEST, ABSENT, item, STRUCTURE)
        scope.claim(_ACUTE_CHEST, ABSENT, item, STRUCTURE)
    else:
        scope.normality = scope.normality or scope.last_structure is not None


def deny_normality(scope: Scope, index: int) -> bool:
    """Claims what "no normal lung", "neither lung is clear" and "loss of the normal contour" say, if it is said."""
    if scope.items[scope.opened_at].term.role == "deny" and scope.current() == ABSENT and not scope.denied_something():
        between = {item.term.role for item in scope.items[scope.opened_at + 1 : index]}
        if not between <= _SUBJECT:
            return False
        if STRUCTURE in between:
            target: Item | None = scope.last_structure
        else:
            target = noun_after(scope, index)[0]
        if target is None:
            return False
        target.pending = False
        scope.claim(target.term.ids[-1], PRESENT, target, ABNORMAL)
        scope.open(index, PRESENT)
        return True
    before = next((item for item in reversed(scope.items[:index]) if item.term.role not in SKIPPED), None)
    return before is not None and before.term.role == ABNORMAL and before.chunk == scope.chunk


def names_nothing_else(scope: Scope, index: int) -> bool:
    """ "Normal.", "Unremarkable.", "Negative." """
    return not scope.claims and all(
        other is scope.items[index] or other.term.role in {PLAIN, "stop", "be"} for other in scope.items
    )


def structure_follows(scope: Scope, index: int) -> bool:
    """Whether the predicate stands before its noun: "normal size of the heart", "clear lungs"."""
    for item in scope.items[index + 1 :]:
        role = item.term.role
        if role == STRUCTURE:
            return True
        if role not in SKIPPED:
            return False
    return False


def healthy(scope: Scope, index: int, item: Item) -> None:
    """ "Well expanded" says of the lungs what "low volumes" and "hyperinflated" would deny."""
    if scope.turned(index):
        scope.claim(item.term.ids[0], PRESENT, item, FINDING)
    else:
        for finding in item.term.ids:
            scope.claim(finding, ABSENT, item, STRUCTURE)


def abnormal(scope: Scope, index: int, item: Item) -> None:
    assertion = scope.current()
    if scope.turned(index):
        assertion = ABSENT
    elif scope.past_chunk == scope.chunk and assertion == PRESENT:
        assertion = HISTORICAL
    scope.prenominal = False
    target = next((other for other in reversed(scope.structures) if other.chunk == scope.chunk), None)
    if target is None:
        target, modifies_finding = noun_after(scope, index)
        if modifies_finding:
            return  # "enlarged granuloma": the finding speaks for itself
    if target is None and scope.structures:
        target = scope.structures[-1]
    if target is None:
        target = scope.last_structure
    if target is None:
        scope.claim(item.term.ids[0], assertion, item, ABNORMAL)
        return
    finding = scope.pairs.get((target.term.name, item.term.name))
    if finding:
        found: tuple[str, ...] = (finding,)
    else:
        general = assertion == ABSENT or item.term.ids[0] != UNSPECIFIED or target.term.name in _WHOLE
        found = item.term.ids if general else target.term.ids[-1:]
    for each in found:
        scope.claim(each, assertion, item, ABNORMAL if each == UNSPECIFIED else FINDING, target)
    for structure in scope.structures:
        if structure.chunk == target.chunk:
            structure.pending = False


def noun_after(scope: Scope, index: int) -> tuple[Item | None, bool]:
    """The structure that an abnormal word stands before, or whether it stands before a finding."""
    for item in scope.items[index + 1 :]:
        role = item.term.role
        if role == STRUCTURE:
            item.chunk = scope.chunk
            return (None, True) if scope.role_after(scope.items.index(item)) == FINDING else (item, False)
        if role in {FINDING, ABNORMAL, "generic"}:
            return None, True
        if role in CHUNK_ENDS or role in _VERBS:
            break
    return None, False


def generic(scope: Scope, index: int, item: Item) -> None:
    """ "Abnormality", "disease": what it is an abnormality of stands before, or is the subject, or follows."""
    assertion = scope.current()
    if scope.turned(index):
        assertion = ABSENT
    after = scope.role_after(index)
    if item.term.weak and (assertion != ABSENT or after in {FINDING, "unsure_soft"}):
        return  # "no findings of edema" denies edema, not every finding
    start = scope.items[scope.opened_at].start
    inside = [structure for structure in scope.structures if structure.start >= start]
    about = inside or [structure for structure in scope.structures if structure.pending]
    for other in scope.items[index + 1 :]:
        role = other.term.role
        if about or role in CHUNK_ENDS or role in {"be", "present", FINDING}:
            break
        if role == STRUCTURE:
            about = [other]
    for structure in scope.structures:
        structure.pending = False
    if assertion != ABSENT:
        placed = about and about[-1].term.name not in _WHOLE
        found = about[-1].term.ids[-1] if placed else UNSPECIFIED
        scope.claim(found, assertion, item, ABNORMAL, about[-1] if about else None)
        return
    acute = scope.acute_at >= scope.opened_at or not about
    for structure in about:
        for found in structure.term.acute_ids if acute else structure.term.ids:
            scope.claim(found, ABSENT, item, GENERIC, structure)
    if not about:
        scope.claim(_ACUTE_CHEST, ABSENT, item, GENERIC)


def degree(scope: Scope, index: int, item: Item) -> None:
    """ "Mild" with nothing known to be mild: an abnormality, whatever its name."""
    if scope.current() == ABSENT or any(claim.item.chunk >= scope.clause_chunk for claim in scope.claims):
        return
    for other in scope.items[index + 1 :]:
        if other.term.role in CLAUSE_ENDS:
            break
        if other.term.role in {FINDING, ABNORMAL, "generic", "normal", HEALTHY, "limited", "degree"}:
            return
    if not any("technique" in other.term.flags for other in scope.items):
        scope.claim(UNSPECIFIED, scope.current(), item, ABNORMAL)
