"""What does each lever of the enrichment do, alone and together?

    python benchmarks/enrichment_levers.py

Coverage (share of OpenI reports with findings that are offered anything), contradiction with human MeSH codes (of all
and of checkable offers) and recovery (fit on 4/5 of the patients, scored on the rest) for each setting. See
enrichment_contradiction.py and enrichment_recovery.py for the measures.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pyarrow as pa
from common import openi_reports, remembering, report, share
from enrichment_contradiction import offers

from raymedlt.config import EnrichConfig
from raymedlt.enrichment import policy
from raymedlt.enrichment.audit.recovery import hide_and_recover
from raymedlt.enrichment.memory import fit
from raymedlt.parsing import parse

PAPER, SAFE = policy.POLICIES["paper"], policy.POLICIES["safe"]
UNGUARDED = dataclasses.replace(SAFE, guard=False, all_veto=True, second_chance=False)
GUARDED = dataclasses.replace(UNGUARDED, guard=True)
SETTINGS: dict[str, tuple[policy.Policy, dict[str, Any]]] = {
    "paper: reports with noise skipped, no guard": (PAPER, {}),
    "noise left out of F, no guard": (UNGUARDED, {}),
    "+ guard": (GUARDED, {}),
    "+ guard + second chance .8": (dataclasses.replace(GUARDED, second_chance=True), {}),
    "+ guard + veto only where chance would show it": (dataclasses.replace(GUARDED, all_veto=False), {}),
    "safe (default): guard + second chance .8 + that veto": (SAFE, {}),
    "safe without the guard": (dataclasses.replace(SAFE, guard=False), {}),
    "safe, donors may say more than their cluster": (dataclasses.replace(SAFE, min_typical=0.0), {}),
    "safe, second chance .75": (SAFE, {"clustering.second_chance": 0.75}),
    "safe, second chance .85": (SAFE, {"clustering.second_chance": 0.85}),
    "safe, veto from 4 expected": (SAFE, {"graph.veto_expected": 4}),
    "safe, veto from 10 expected": (SAFE, {"graph.veto_expected": 10}),
    "strict": (policy.POLICIES["strict"], {}),
}


def measure(table: pa.Table, chosen: policy.Policy, options: dict[str, Any]) -> dict[str, Any]:
    """All measures of one setting."""
    config = parse(EnrichConfig, [f"--{key}={value}" for key, value in options.items()])
    policy.POLICIES[config.policy] = chosen
    embed = remembering(config)
    knowledge, _ = fit(table, config, embed)
    tally = offers(knowledge, table.to_pylist(), config.seed)
    recovery = hide_and_recover(table, config, embed).figures()
    return {
        "coverage": share(tally.covered, tally.reports),
        "offers": tally.all,
        "contradicting_of_all": share(tally.contradicting, tally.all),
        "contradicting_of_checkable": share(tally.contradicting, tally.checkable),
        "recovered": recovery["recovered"]["value"],
        "recovered_by_an_offer": recovery["offered"]["value"],
    }


def main() -> None:
    table = openi_reports()
    report("enrichment_levers", {name: measure(table, *setting) for name, setting in SETTINGS.items()})


if __name__ == "__main__":
    main()
