"""The audit's page: a plain verdict first, then each part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from raymedlt.config import flatten
from raymedlt.enrichment.audit.injection import ERRORS_REFUSED_BAR, GOOD_REFUSED_BAR
from raymedlt.enrichment.audit.parts import (
    contradiction_blocks,
    injection_blocks,
    injection_verdicts,
    interval,
    percent,
    reader_name,
    readers_blocks,
    recovery_blocks,
    sheet_blocks,
)
from raymedlt.evaluation.config import EvaluateConfig
from raymedlt.runreport.about import configuration_blocks
from raymedlt.runreport.page import KeyFigure, Page, Section

RECOVERY, CONTRADICTION, INJECTION, SHEET, READERS_PART = "recovery", "contradiction", "injection", "sheet", "readers"


def audit_page(
    config: EvaluateConfig,
    figures: Mapping[str, Mapping[str, Any]],
    passed: pa.Table,
    *,
    run: str,
    coverage: Mapping[str, Any],
    warnings: Sequence[str],
    paths: Mapping[str, str],
    config_hash: str,
    command: str,
) -> Page:
    """The page.

    Args:
        figures: part -> its figures, as evaluation.json holds them.
        passed: the injected errors that the guard let through (schema.INJECTIONS).
        run: where the run lies. coverage: share of its reports that were enriched.
        paths: table or file -> where it lies, as it shall be shown.
    """
    sections = []
    if RECOVERY in figures:
        sections.append(Section(title="Hide and recover", blocks=recovery_blocks(figures[RECOVERY])))
    if CONTRADICTION in figures:
        sections.append(
            Section(title="Contradiction with labels", blocks=contradiction_blocks(figures[CONTRADICTION], paths))
        )
    if INJECTION in figures:
        sections.append(Section(title="Error injection", blocks=injection_blocks(figures[INJECTION], passed, paths)))
    if SHEET in figures:
        sections.append(Section(title="Audit sheet", blocks=sheet_blocks(figures[SHEET], paths)))
    if READERS_PART in figures:
        sections.append(Section(title="What the readers found", blocks=readers_blocks(figures[READERS_PART])))
    sections.append(
        Section(title="Configuration", blocks=configuration_blocks(flatten(config), flatten(EvaluateConfig())))
    )
    return Page(
        title="Audit of enriched reports",
        verdict=_verdict(figures),
        about=f"Run: {run}",
        key_figures=_key_figures(figures, coverage),
        warnings=warnings,
        sections=sections,
        config_hash=config_hash,
        resume=command,
    )


def _verdict(figures: Mapping[str, Mapping[str, Any]]) -> str:
    words = []
    if "errors_refused" in figures.get(INJECTION, {}):
        errors, good = injection_verdicts(figures[INJECTION])
        words.append(
            f"The guard refused {percent(figures[INJECTION]['errors_refused'])} of the injected errors"
            f" (bar {ERRORS_REFUSED_BAR:.0%}: {errors}) and {percent(figures[INJECTION]['good_refused'])} of the good"
            f" sentences (bar {GOOD_REFUSED_BAR:.0%}: {good})."
        )
    if "additions" in figures.get(CONTRADICTION, {}):
        part = figures[CONTRADICTION]
        words.append(
            f"{percent(part['additions']['of_checkable'])} of the additions that labels can check contradict them,"
            f" beside {percent(part['human_floor']['of_checkable'])} of the reports' own sentences."
        )
    if "guarded" in figures.get(RECOVERY, {}):
        words.append(f"{percent(figures[RECOVERY]['guarded']['recovered'])} of hidden sentences were recovered.")
    if READERS_PART in figures:
        words += [
            f"{reader_name(reader)} agrees with {percent(found['overall']['agree'])} of the additions."
            for reader, found in figures[READERS_PART]["readers"].items()
        ]
    return " ".join(words) or "The audit sheet is ready to be read."


def _key_figures(figures: Mapping[str, Mapping[str, Any]], coverage: Mapping[str, Any]) -> list[KeyFigure]:
    found = [KeyFigure(label="Reports enriched", value=percent(coverage), hint=interval(coverage))]
    if "errors_refused" in figures.get(INJECTION, {}):
        for label, name in (("Injected errors refused", "errors_refused"), ("Good sentences refused", "good_refused")):
            value = figures[INJECTION][name]
            found.append(KeyFigure(label=label, value=percent(value), hint=interval(value)))
    if "additions" in figures.get(CONTRADICTION, {}):
        value = figures[CONTRADICTION]["additions"]["of_checkable"]
        found.append(KeyFigure(label="Additions against labels", value=percent(value), hint=interval(value)))
    if "guarded" in figures.get(RECOVERY, {}):
        value = figures[RECOVERY]["guarded"]["recovered"]
        found.append(KeyFigure(label="Hidden sentences recovered", value=percent(value), hint=interval(value)))
    if READERS_PART in figures:
        kappa = figures[READERS_PART]["agreement"]["kappa"]
        found.append(KeyFigure(label="Kappa of the readers", value="-" if kappa is None else f"{kappa:.2f}"))
    return found
