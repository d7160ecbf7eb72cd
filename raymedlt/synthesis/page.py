"""The synthesize job's page: what was planned, drawn, accepted and refused, how real it is, and what to distrust.

All that it says comes from a `Report` (see report.py), and so do the cards (card.py). Sections are in page_outcome.py
(what came out), page_sheets.py (pictures) and page_making.py (how it was made), figures in figures.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from raymedlt.runreport import render
from raymedlt.runreport.about import configuration_blocks, rejected_blocks
from raymedlt.runreport.page import KeyFigure, Page, Section
from raymedlt.runreport.words import capital, class_count
from raymedlt.synthesis.page_making import (
    cost_blocks,
    gate_blocks,
    plan_blocks,
    run_blocks,
    training_blocks,
    use_blocks,
)
from raymedlt.synthesis.page_outcome import class_blocks, likeness_blocks, memorisation_blocks, refusal_blocks
from raymedlt.synthesis.page_sheets import sheet_blocks
from raymedlt.synthesis.report import Report
from raymedlt.synthesis.report_words import COPY
from raymedlt.synthesis.warnings import warnings_of


def synthesis_page(
    report: Report, *, folder: str = "", command: str = "", paths: Mapping[str, str] | None = None
) -> str:
    """One HTML file.

    Args:
        folder: where the run's tables lie, as it shall stand in the example of use.
        command: what to type to resume or repeat the run.
        paths: table -> where it lies, as it shall be shown ("images", "plan", "rejected").

    O(classes + images shown); a second for 20 classes and their sheets.
    """
    places = dict(paths or {})
    sections = [
        Section(title="Class by class", blocks=class_blocks(report, places)),
        Section(title="Contact sheets", blocks=sheet_blocks(report)),
        Section(title="Why images were refused", blocks=refusal_blocks(report)),
        Section(title="How real, how varied", blocks=likeness_blocks(report)),
        Section(title="Memorisation", blocks=memorisation_blocks(report)),
        Section(title="The plan", blocks=plan_blocks(report, places)),
        Section(title="The gate", blocks=gate_blocks(report)),
        Section(title="Training", blocks=training_blocks(report)),
        Section(title="Cost", blocks=cost_blocks(report)),
        Section(title="How to use the images", blocks=use_blocks(folder)),
        Section(title="Rejected rows", blocks=rejected_blocks(report.rejected, report.rejected_rows, places)),
        Section(title="Run", blocks=run_blocks(report)),
        Section(title="Configuration", blocks=configuration_blocks(report.config, report.defaults)),
    ]
    return render(
        Page(
            title="Synthetic chest X-rays of rare classes",
            verdict=verdict(report),
            about=f"{capital(report.generator.words)}. Real images: {report.data}.",
            key_figures=_key_figures(report),
            warnings=warnings_of(report),
            sections=sections,
            config_hash=report.config_hash,
            resume=command,
        )
    )


def verdict(report: Report) -> str:
    """The outcome in one sentence."""
    kept, drawn = report.acceptance
    left = "" if drawn == report.planned else f" of {report.planned:,} planned"
    words = f"{drawn:,}{left} images were drawn for {class_count(len(report.classes))}"
    if not drawn:
        return f"{words}."
    told = f"{words}: {kept:,} were accepted ({100 * kept / drawn:.0f}\u00a0%) and {drawn - kept:,} refused"
    reasons = list(report.reasons().items())[:2]
    return f"{told}{', mostly: ' if reasons else ''}{', '.join(f'{name} ({n:,})' for name, n in reasons)}."


def _key_figures(report: Report) -> list[KeyFigure]:
    share, own = report.acceptance, report.likeness
    reasons = report.reasons()
    served = sum(each.accepted > 0 for each in report.classes)
    copies = reasons.get(COPY, 0)
    return [
        KeyFigure(
            label="Drawn",
            value=f"{share.whole:,}",
            hint="all that were planned" if share.whole == report.planned else f"of {report.planned:,} planned",
        ),
        KeyFigure(
            label="Accepted",
            value=f"{share.part:,}",
            hint=f"{share} of the drawn" if share.whole else "nothing was drawn",
        ),
        KeyFigure(
            label="Refused",
            value=f"{report.refused:,}",
            hint=" · ".join(f"{count:,} {name}" for name, count in list(reasons.items())[:3]),
        ),
        KeyFigure(
            label="Classes with images", value=f"{served:,}", hint=f"of {class_count(len(report.classes))} planned for"
        ),
        KeyFigure(
            label="KID",
            value="–" if own.synthetic.kid is None else own.synthetic.kid_words,
            hint=f"real images get {own.real.kid_words}; 0: no difference" if own.synthetic.kid is not None
            else f"not defined: {own.why}",
        ),
        KeyFigure(
            label="Copies refused",
            value=f"{copies:,}" if report.memorisation or copies else "–",
            hint=f"{report.memorisation.caught} of planted copies caught"
            if report.memorisation
            else "memorisation was not measured",
        ),
    ]  # fmt: skip
