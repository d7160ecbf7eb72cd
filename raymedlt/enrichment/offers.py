"""What may be added to a report: the clusters that go with all of its findings, passed through the guard.

For a report with cluster set F: V(F) = {c not in F, addable, u -> c for every u in F} (SemEnrich). Under a policy that
doesn't let every missing arc veto, one arc is enough where none speaks against c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from raymedlt.enrichment import guard
from raymedlt.enrichment.cliques import as_bits, bits
from raymedlt.enrichment.guard.image import REFUSED
from raymedlt.enrichment.knowledge import Donors, Knowledge


@dataclass(frozen=True)
class Offer:
    """What may be added to one report. passing[c]: donor groups of cluster c that the guard let through."""

    clusters: int  # F, as a bit set
    noise: int  # unclustered sentences
    passing: dict[int, tuple[Donors, ...]]
    refused: dict[int, str]  # cluster -> reason

    @property
    def offered(self) -> int:
        """Bit set of the clusters that passed."""
        return as_bits(self.passing)


ImageVerdict = Callable[[guard.Signature], str]  # of one report's images


def offer(
    knowledge: Knowledge, findings_keys: list[str], claims: guard.Claims, image: ImageVerdict | None = None
) -> Offer:
    """V(F) of a report, passed through the guard.

    Args:
        findings_keys: keys of the report's findings sentences; keys that were never fitted count as noise.
        claims: what the whole report says (`report_claims`).
        image: the second guard that looks at the report's images, if there is one.
    """
    labels = [knowledge.label_of.get(key, -1) for key in findings_keys]
    clusters, noise = 0, 0
    for label in labels:
        if label < 0:
            noise += 1
        else:
            clusters |= 1 << label
    if not clusters or (noise and knowledge.policy.skip_noise):
        return Offer(clusters, noise, {}, {})
    vouched, vetoed = 0, 0
    for u in bits(clusters):
        vouched |= knowledge.forward[u]
        vetoed |= knowledge.veto[u]
    valid = vouched & ~vetoed & knowledge.addable & ~clusters
    passing: dict[int, tuple[Donors, ...]] = {}
    refused: dict[int, str] = {}
    for c in bits(valid):
        groups = knowledge.donors[c]
        if not knowledge.policy.guard:
            passing[c] = groups
            continue
        judged = [_admit(knowledge, group, claims, image) for group in groups]
        if passed := tuple(admitted for admitted, _ in judged if admitted.members):
            passing[c] = passed
        else:
            reasons = [reason for _, reason in judged]
            largest = max(range(len(groups)), key=lambda i: (len(groups[i].members), -i))
            refused[c] = str(reasons[largest])
    return Offer(clusters, noise, passing, refused)


def _admit(
    knowledge: Knowledge, group: Donors, claims: guard.Claims, image: ImageVerdict | None
) -> tuple[Donors, str | None]:
    """The members of `group` that the report may receive, and why there are none if so."""
    reason = guard.refusal(group.signature, claims)
    if reason is None and claims.unseen:
        views = {
            number: guard.view_refusal(knowledge.keys[number], claims, knowledge.language) for number in group.members
        }
        group = replace(group, members=tuple(number for number, view in views.items() if view is None))
        reason = None if group.members else next(iter(views.values()))
    if reason is None and image is not None:
        answer = image(group.signature)
        reason = answer if answer.startswith(f"{REFUSED}:") else None
    return (group, None) if reason is None else (replace(group, members=()), reason)
