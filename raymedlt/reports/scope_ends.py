"""Rules of where statements end: commas, "and", and the words that end every scope.

A denial runs through a list ("no effusion, edema or pneumothorax") and ends where a new statement begins ("no effusion,
mild cardiomegaly"; "no edema but ...").
"""

from __future__ import annotations

from raymedlt.reports.phrases import Item
from raymedlt.reports.scope import ABSENT, GENERIC, PRESENT, REACH_OF_NOT, SKIPPED, UNCERTAIN, UNSPECIFIED, Scope
from raymedlt.reports.vocabulary import ABNORMAL, FINDING, FLAG, SIDES, STRUCTURE, Term

CHUNK_ENDS = frozenset({"comma", "and", "break", "stop", "with", "question", "except"})
CLAUSE_ENDS = frozenset({"break", "stop", "with", "question", "except"})
_BETWEEN = SKIPPED | {"comma"}
_NAMED = SKIPPED | {FINDING, STRUCTURE, "or", "past"}


def separator(scope: Scope, index: int, item: Item) -> None:
    """A comma or "and": the next part of a list, or a new statement."""
    drop_unread_subjects(scope, index)
    scope.chunk += 1
    scope.joined_by = item.term.role
    if scope.history and _is_list_part(scope, index):
        scope.past_chunk = scope.chunk  # "history of asthma, heart failure and pneumonia"
    else:
        scope.history = False
    if scope.assertion == ABSENT and not list_goes_on(scope, index):
        scope.open(index, PRESENT)


def _is_list_part(scope: Scope, index: int) -> bool:
    """Whether what follows up to the next comma or "and" only names things."""
    for item in scope.items[index + 1 :]:
        if item.term.role in CHUNK_ENDS:
            break
        if item.term.role not in _NAMED or "time" in item.term.flags or item.term.affirm:
            return False
    return True


def drop_unread_subjects(scope: Scope, index: int) -> None:
    """ "The heart is stable, the lungs are clear": the second predicate says nothing about the first subject."""
    waiting = [structure for structure in scope.structures if structure.pending and structure.chunk == scope.chunk]
    if not waiting or scope.role_after(index) != STRUCTURE:
        return
    roles = {item.term.role for item in scope.items[:index] if item.chunk == scope.chunk}
    if "persist" in roles or ("be" in roles and roles & {"unknown", "placeholder"}):
        for structure in waiting:
            structure.pending = False


def list_goes_on(scope: Scope, index: int) -> bool:
    """Whether the denial that holds before this comma or "and" holds behind it."""
    rest = scope.items[index + 1 :]
    if not rest:
        return True
    if not scope.denied_something():  # "no acute, displaced fracture", but "without a prior study, ..."
        return all(item.term.role != FLAG for item in scope.items[scope.opened_at : index])
    after_comma = scope.items[index].term.role == "comma"
    if after_comma and rest[0].term.role == "and":
        after_comma, rest = False, rest[1:]
    part: list[Term] = []
    later_or = False
    in_part = True
    for item in rest:
        role = item.term.role
        if role in CLAUSE_ENDS or role == "deny":
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
    if scope.closed:
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
    said_generic = bool(scope.claims) and scope.claims[-1].kind == GENERIC
    return later_or or not said_generic or "generic" in roles or not roles & {FINDING}


def end_on_not(scope: Scope, index: int) -> None:
    """ "The left lung is clear, the right is not." """
    if scope.not_until >= 0:
        at = scope.not_until - REACH_OF_NOT
        if all(item.term.role in SIDES for item in scope.items[at + 1 : index]):
            scope.claim(UNSPECIFIED, PRESENT, scope.items[at], ABNORMAL)


def end_clause(scope: Scope, index: int, item: Item) -> None:
    """A new statement; but behind an opening cue it is what the cue speaks of ("whether there is an effusion")."""
    if item.term.role == "break" and index and _opens(scope, index - 1):
        return
    end_on_not(scope, index)
    scope.chunk += 1
    scope.clause_chunk = scope.chunk
    scope.open(index, PRESENT)
    scope.structures = []
    scope.past_chunk = scope.not_until = scope.acute_at = -1
    scope.history = False


def _opens(scope: Scope, index: int) -> bool:
    """Whether the last phrase that means something is a hedge, with nothing to hedge yet."""
    while index and scope.items[index].term.role in _BETWEEN:  # "I doubt that there is", "if any, there is"
        index -= 1
    return scope.assertion == UNCERTAIN and scope.opened_at == index and scope.items[index].term.role != "no_change"


def aside(scope: Scope, index: int, item: Item) -> None:
    """ "With", a bracket: ends a denial, but its subject goes on."""
    scope.chunk += 1
    scope.open(index, PRESENT)


def stop(scope: Scope, index: int, item: Item) -> None:
    end_clause(scope, index, item)
    scope.last_structure = None


def question(scope: Scope, index: int, item: Item) -> None:
    """ "Pneumonia?" asks about what was said, "? pneumonia" about what follows."""
    asked = [claim for claim in scope.claims if claim.item.chunk >= scope.clause_chunk]
    for claim in asked:
        claim.assertion = UNCERTAIN
    stop(scope, index, item)
    if not asked:
        scope.open(index, UNCERTAIN)


def exception(scope: Scope, index: int, item: Item) -> None:
    scope.cues.add("except")
    end_clause(scope, index, item)
