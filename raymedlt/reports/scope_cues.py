"""Rules of cues: what denies, doubts or dates the findings behind it or before it.

"No" opens a denial, "may represent" a doubt; "is not seen", "cannot be excluded" look back at what was just said.
"""

from __future__ import annotations

from raymedlt.reports.phrases import Item
from raymedlt.reports.scope import ABSENT, GONE, PRESENT, REACH_OF_NOT, UNCERTAIN, Scope
from raymedlt.reports.scope_claims import generic, normal
from raymedlt.reports.scope_ends import aside
from raymedlt.reports.vocabulary import ABNORMAL, FINDING, STRUCTURE, ontology

_NOTHING = frozenset({"", "stop", "question"})  # the roles behind a cue that nothing follows
_PREDICATES = frozenset({FINDING, ABNORMAL, "break", "degree"})


def deny(scope: Scope, index: int, item: Item) -> None:
    """ "No ..."; but "pneumothorax: no" looks back."""
    if index and scope.items[index - 1].term.role == "colon" and scope.role_after(index) in _NOTHING:
        deny_post(scope, index, item)
    else:
        scope.open(index, ABSENT)


def double(scope: Scope, index: int, item: Item) -> None:
    scope.open(index, UNCERTAIN)


def unsure(scope: Scope, index: int, item: Item) -> None:
    """ "Likely granuloma"; but "granuloma, likely" looks back."""
    last = all(other.term.role in _NOTHING for other in scope.items[index + 1 :])
    if last and index and scope.items[index - 1].term.role in {"comma", "with"}:
        unsure_post(scope, index, item)
    else:
        scope.open(index, UNCERTAIN)


def unsure_is(scope: Scope, index: int, item: Item) -> None:
    """ "Effusion is likely" doubts the effusion, "the nodule is likely a granuloma" the granuloma."""
    if scope.role_after(index) in _PREDICATES:
        scope.open(index, UNCERTAIN)
    else:
        unsure_post(scope, index, item)


def unsure_both(scope: Scope, index: int, item: Item) -> None:
    """ "Atelectasis versus pneumonia"; but the opacity that "may represent atelectasis versus pneumonia" is there."""
    start = scope.items[scope.opened_at].start if scope.assertion == UNCERTAIN else -1
    said = scope.just_said()
    for claim in [each for each in said if each.item.start > start] or said:
        claim.assertion = UNCERTAIN
    scope.open(index, UNCERTAIN)


def unsure_soft(scope: Scope, index: int, item: Item) -> None:
    """ "Suspicious for" doubts, but "no opacity suspicious for pneumonia" denies."""
    if scope.assertion == ABSENT:
        scope.closed = False
    else:
        scope.open(index, UNCERTAIN)


def unsure_post(scope: Scope, index: int, item: Item) -> None:
    said = scope.just_said() or scope.claims[-1:]
    for claim in said:
        claim.assertion = UNCERTAIN
    if not said:  # "small if any effusion"
        scope.open(index, UNCERTAIN)


def deny_post(scope: Scope, index: int, item: Item) -> None:
    said = scope.just_said()
    for claim in said:
        claim.assertion = ABSENT
    if not said and scope.role_after(index) in (FINDING, STRUCTURE):  # "absent effusion"
        scope.open(index, ABSENT)
    elif not said:  # "the angles are excluded" from the film
        limited(scope, index, item)


def negative(scope: Scope, index: int, item: Item) -> None:
    """ "Chest is negative", "effusion: negative", "negative acute abnormality"."""
    if scope.role_after(index) in {FINDING, "generic", "acute"}:
        scope.open(index, ABSENT)
    elif scope.just_said():
        deny_post(scope, index, item)
    else:
        normal(scope, index, item)


def not_seen(scope: Scope, index: int, item: Item) -> None:
    said = [] if _of_a_part(scope, index) else scope.just_said()
    for claim in said:
        claim.assertion = ABSENT
    if any(other.term.role == "seen" for other in scope.items[:index]):
        scope.cues.add("was")  # "the nodule seen earlier is not visible": absent, yet not a normal statement
    if not said:
        limited(scope, index, item)


def _of_a_part(scope: Scope, index: int) -> bool:
    """ "The tube's tip is not seen" denies no tube."""
    roles = [other.term.role for other in scope.items[:index] if other.chunk == scope.chunk]
    return "part" in roles and FINDING not in roles[roles.index("part") :]


def gone(scope: Scope, index: int, item: Item) -> None:
    scope.cues.add("gone")
    said = [claim for claim in scope.just_said() if claim.kind == FINDING]
    if any(claim.item.chunk == scope.chunk for claim in said):
        for claim in said:
            claim.assertion = ABSENT
            claim.kind = GONE
    else:
        scope.open(index, ABSENT)


def removed(scope: Scope, index: int, item: Item) -> None:
    """What is removed is a device: "pneumothorax after removal of the chest tube" denies the tube alone."""
    scope.cues.add("gone")
    kinds = ontology().kinds
    said = [claim for claim in scope.just_said() if claim.kind == FINDING and kinds[claim.finding] == "device"]
    for claim in said:
        claim.assertion = ABSENT
        claim.kind = GONE
    if not said and scope.role_after(index) in (FINDING, STRUCTURE):
        scope.open(index, ABSENT)


def no_change(scope: Scope, index: int, item: Item) -> None:
    """ "No new opacity" leaves the old one in place: nothing is denied."""
    scope.cues.add("no_change")
    scope.open(index, UNCERTAIN)
    for structure in scope.structures:
        structure.pending = False


def no_change_in(scope: Scope, index: int, item: Item) -> None:
    """ "No change in the opacity" says that it is there."""
    no_change(scope, index, item)
    scope.open(index, PRESENT)


def nothing_acute(scope: Scope, index: int, item: Item) -> None:
    scope.open(index, ABSENT)
    scope.acute_at = index
    generic(scope, index, item)


def persist(scope: Scope, index: int, item: Item) -> None:
    scope.cues.add("persist")


def note(scope: Scope, index: int, item: Item) -> None:
    scope.cues.add(item.term.role)


def limited(scope: Scope, index: int, item: Item) -> None:
    scope.cues.add("limited")
    for structure in scope.structures:
        if structure.chunk == scope.chunk:
            structure.pending = False


def negate(scope: Scope, index: int, item: Item) -> None:
    scope.not_until = index + REACH_OF_NOT


def past(scope: Scope, index: int, item: Item) -> None:
    scope.past_chunk = scope.chunk


def after(scope: Scope, index: int, item: Item) -> None:
    """ "No pneumothorax after placement of a line" denies no line."""
    if scope.assertion == ABSENT and scope.denied_something():
        aside(scope, index, item)


def history(scope: Scope, index: int, item: Item) -> None:
    after(scope, index, item)
    scope.past_chunk = scope.chunk
    scope.history = True


def place(scope: Scope, index: int, item: Item) -> None:
    scope.place_at = index


def acute(scope: Scope, index: int, item: Item) -> None:
    scope.acute_at = index


def alternative(scope: Scope, index: int, item: Item) -> None:
    if scope.assertion == ABSENT:
        scope.closed = False


def seen(scope: Scope, index: int, item: Item) -> None:
    scope.prenominal = False
    adjective = scope.items[index - 1].term.role in {"comma", "and", "or"}  # "or visible effusion"
    if scope.assertion == ABSENT and not adjective and scope.denied_something():
        scope.closed = True


def be(scope: Scope, index: int, item: Item) -> None:
    scope.prenominal = False
    subject = bool(scope.structures) and scope.structures[-1] is scope.items[index - 1]
    if scope.assertion == ABSENT and subject and scope.denied_something():
        scope.open(index, PRESENT)  # a full stop is missing: "no effusion the lungs are hyperinflated"
