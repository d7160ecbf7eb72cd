"""The pipeline's page: a card for each step, in order, that leads to the step's own page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raymedlt.config import flatten
from raymedlt.pipeline.config import PipelineConfig
from raymedlt.pipeline.headlines import Headline
from raymedlt.pipeline.steps import Step
from raymedlt.runreport import page as blocks
from raymedlt.runreport.about import configuration_blocks
from raymedlt.runreport.page import KeyFigure, Page, Paragraph, Section, Steps, render
from raymedlt.runreport.words import capital, counted

# Which figure of a step stands on top of the page.
_KEY = {"enrich": 1, "synthesize": 1, "classify": 1, "finetune": 1, "align": 0, "evaluate-enrichment": 0}


@dataclass(frozen=True)
class Shown:
    """A step as the page shows it."""

    step: Step
    state: str
    """ "done", "failed", or why it isn't done."""
    headline: Headline | None
    seconds: float
    """Over all calls; 0 where none was made."""


def pipeline_page(config: PipelineConfig, shown: Sequence[Shown], *, command: str) -> str:
    """One HTML file that links to the folders beside it."""
    usual, own = flatten(PipelineConfig()), flatten(config)
    changed = {key: value for key, value in own.items() if value != usual[key]}
    made = [each for each in shown if each.step.stage != "evaluate"]
    judged = [each for each in shown if each.step.stage == "evaluate"]
    sections = [
        Section(title="What was made", blocks=[Steps([_card(each) for each in made])]),
        Section(title="What it is worth", blocks=[Steps([_card(each) for each in judged])]),
        Section(
            title="Configuration",
            blocks=[
                Paragraph("What differs from the demonstration's defaults; configs/ holds what each job was given."),
                *(configuration_blocks(changed, usual) if changed else [Paragraph("Nothing.")]),
            ],
        ),
    ]
    done = [each for each in shown if each.headline is not None]
    seconds = sum(each.seconds for each in shown)
    return render(
        Page(
            title="The whole way",
            verdict=_verdict(shown),
            about=f"{len(done)} of {counted(len(shown), 'step')} done, in {_time(seconds)}.",
            key_figures=_key_figures(done),
            warnings=_warnings(config, shown),
            sections=sections,
            resume=command,
        )
    )


def _verdict(shown: Sequence[Shown]) -> str:
    words = [each.headline.outcome for each in shown if each.headline is not None and each.headline.outcome]
    if not words:
        return "Nothing is done yet."
    return " ".join(capital(sentence.rstrip(".")) + "." for sentence in words)


def _key_figures(done: Sequence[Shown]) -> list[KeyFigure]:
    """The first figure that each job is known by."""
    found = []
    for each in done:
        place = _KEY.get(each.step.name)
        if each.headline is not None and place is not None and place < len(each.headline.figures):
            label, value = each.headline.figures[place]
            found.append(KeyFigure(label=capital(label), value=value, hint=each.step.title.lower()))
    return found


def _warnings(config: PipelineConfig, shown: Sequence[Shown]) -> list[str]:
    found = [
        f"{each.step.name}: {each.state}; --restart --stages '[{each.step.stage}]' begins it anew."
        for each in shown
        if each.state.startswith("of an earlier")
    ]
    if config.images.path is None:
        found.append(
            "The images, and the reports of fine-tuning and alignment, are the phantom's: drawn and written by code."
            " Figures on it compare methods and say nothing about real X-rays."
        )
    return found


def _card(each: Shown) -> blocks.Step:
    figures = () if each.headline is None else each.headline.figures
    told = each.state in ("done", "failed")
    notes = ("" if told else each.state, _time(each.seconds) if each.seconds else "")
    return blocks.Step(
        title=each.step.title,
        href=f"{each.step.name}/report.html" if each.headline is not None else "",
        tag=each.state if told else "",
        text=capital(each.step.does) + ".",
        lines=figures,
        note="; ".join(words for words in notes if words),
    )


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
