"""What the three policies switch.

On OpenI (benchmarks/enrichment_levers.py; contradictions by the human codes, recovery on unseen reports):

| policy | reports given an addition | offers that contradict | hidden sentences recovered |
|---|---|---|---|
| paper | 7 % | 0.9 % | 18 % |
| safe | 87 % | 0.23 % | 86 % |
| safe, clustering.second_chance 1 (none) | 76 % | 0.08 % | 82 % |
| strict | 35 % | 0.07 % | 65 % |
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """Switches of an enrichment policy.

    skip_noise: reports that hold an unclustered sentence are left alone (the release); otherwise such sentences are
        left out of F and still read by the guard.
    guard: refuse donors that contradict or restate the report, and donors unfit for any other report.
    signs: what may be added.
    both_ways: members of a valid set are linked in both directions (Figure 4 of the paper; the release tests one).
    second_chance: noise sentences may join the cluster of their nearest clustered sentence.
    all_veto: every cluster of a report must have an arc to an addition (the paper); otherwise at least one, and
        no cluster may speak against it (see graph.veto_expected).
    min_typical: a donor denies nothing that less than this share of its cluster's occurrences deny.
    """

    skip_noise: bool
    guard: bool
    signs: tuple[str, ...]
    both_ways: bool
    second_chance: bool
    all_veto: bool
    min_typical: float


POLICIES = {
    "paper": Policy(
        skip_noise=True,
        guard=False,
        signs=("normal", "neutral"),
        both_ways=False,
        second_chance=False,
        all_veto=True,
        min_typical=0.0,
    ),
    "safe": Policy(
        skip_noise=False,
        guard=True,
        signs=("normal",),
        both_ways=True,
        second_chance=True,
        all_veto=False,
        min_typical=0.2,
    ),
    "strict": Policy(
        skip_noise=False,
        guard=True,
        signs=("normal",),
        both_ways=True,
        second_chance=False,
        all_veto=True,
        min_typical=0.5,
    ),
}
