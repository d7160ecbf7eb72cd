"""Enrichment: add to each report the normal statements that it leaves out and that its own findings vouch for.

corpus.py        reports to distinct sentences
knowledge.py     clusters, signs, donors, arcs: what is learnt from the training reports
graph.py         co-occurrence and its evidence
cliques.py       maximal valid sets
guard/           no contradiction, no repetition; optional second guards (language model, image classifier)
offers.py        which clusters may be added to a report
text.py          how additions are put behind the findings
writing.py       additions with provenance
policy.py        paper, safe, strict
tables.py        knowledge as tables
memory.py        all of it in memory
distributed.py   all of it as a Ray job, shard by shard
finish.py        counts that must agree, card, manifest
stages.py        what each stage does to one shard
evidence.py      additions ordered by their evidence; coverage against contradiction
page.py          the run report (with sections.py, figures.py, clustermap.py, condition.py, treefigure.py, trust.py)
audit/           is it true? of a finished run (jobs/evaluate.py)

Source: SemEnrich (arXiv 2604.09887); where raymedlt differs, the module says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raymedlt.enrichment.audit.finished import FinishedRun, open_run
    from raymedlt.enrichment.memory import EnrichmentResult, enrich

__all__ = ["EnrichmentResult", "FinishedRun", "enrich", "open_run"]


def __getattr__(name: str) -> Any:
    if name in ("EnrichmentResult", "enrich"):
        from raymedlt.enrichment import memory

        return getattr(memory, name)
    if name in ("FinishedRun", "open_run"):
        from raymedlt.enrichment.audit import finished

        return getattr(finished, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
