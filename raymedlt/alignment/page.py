"""The align job's page: what the rewards changed, how, and what to distrust."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raymedlt.alignment.config import AlignConfig
from raymedlt.alignment.rewards import RewardModel
from raymedlt.config import config_hash
from raymedlt.evaluation.answers import split_answer
from raymedlt.evaluation.clusters import contradicting_sentences
from raymedlt.evaluation.scores import Evaluation
from raymedlt.evaluation.sentences import keys_of
from raymedlt.reports.sentences import split_sentences
from raymedlt.resampling import Interval
from raymedlt.runreport import render
from raymedlt.runreport.about import configuration_blocks, time_bars
from raymedlt.runreport.figures import ACCENT, FAINT, LEGEND, QUIET, WARN, axis, base_layout
from raymedlt.runreport.page import (
    Block,
    Code,
    Column,
    Figure,
    KeyFigure,
    KeyValues,
    Page,
    Paragraph,
    Picture,
    Piece,
    Reading,
    Readings,
    Section,
    Table,
)
from raymedlt.runreport.pictures import png, shrunk
from raymedlt.runreport.words import counted

PICTURE_PIXELS = 384
_LEGEND = (
    Piece(text="a cluster that the original report has too", marks=["right"]),
    Piece(text="contradicts the original report", marks=["wrong"]),
    Piece(text="said twice", marks=["partly"]),
    Piece(text="belongs to no cluster, or is missing in the other text", marks=["missed"]),
    Piece(text="a cluster that the original report doesn't have", marks=["unsaid"]),
)
_NAMES = {
    "complete_micro_f1": "F1 of findings (complete truth)", "complete_micro_precision": "their precision",
    "complete_micro_recall": "their recall", "micro_f1": "F1 of findings (original reports)",
    "micro_precision": "their precision ", "micro_recall": "their recall ", "report_f1": "F1 of findings per report",
    "cluster_f1": "cluster F1 (the paper's)", "cluster_f1_strict": "cluster F1, strict",
    "sentence_f1": "F1 of exact sentences", "bleu": "BLEU", "chrf": "chrF",
    "false_denials": "findings denied, a report", "words": "words of a report",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Reports:
    """What both models wrote for the same studies."""

    columns: Mapping[str, list[str]]
    """As `generations_table` takes them; `completion` is the aligned model's."""
    before: list[str]
    """The fine-tuned model's texts."""
    tuned: Evaluation
    aligned: Evaluation
    languages: list[str]
    rewards: Mapping[str, list[float]]
    """Name of a reward -> its mean over the fine-tuned and over the aligned model's reports."""
    shown: list[int]
    """Rows that the page shows."""
    images: list[npt.NDArray[np.uint8]]
    """Of these."""


@dataclass(frozen=True)
class Compared:
    """A score of both models, and the difference on the same resamples."""

    name: str
    before: Interval
    after: Interval
    difference: Interval
    p: float


def align_page(
    *,
    config: AlignConfig,
    reports: Reports,
    model: RewardModel,
    history: Sequence[Mapping[str, Any]],
    training: Mapping[str, Any],
    compared: Sequence[Compared],
    rewards: Mapping[str, list[float]],
    warnings: Sequence[str],
    seconds: Mapping[str, float],
    where: str,
    folder: str,
    command: str,
    settings: Mapping[str, Any],
    defaults: Mapping[str, Any],
) -> str:
    """One HTML file.

    Args:
        history: a line per step. training: step, best_step, best, validation.
        seconds: per stage. where: what it ran on, in words.
        folder: of the run, as it shall stand in the examples of use.
    """
    work = dict(seconds)
    startup = work.pop("start Ray", 0.0)
    sections = [
        Section(title="What it writes now", blocks=[_examples(reports, model)]),
        Section(title="Better or not", blocks=_scores(reports, compared, rewards)),
        Section(title="How it learnt", blocks=_learning(config, history, training)),
        Section(title="Rewards beside rollouts", blocks=_overlap(history)),
        Section(title="How to use it", blocks=[Code(_use(folder))]),
        Section(title="Cost", blocks=[time_bars(work, startup), Paragraph(f"Trained in {where}.")]),
        Section(title="Configuration", blocks=configuration_blocks(settings, defaults)),
    ]
    return render(
        Page(
            title="A model rewarded for what its reports say",
            verdict=_verdict(compared, rewards, config.rewards.use[0], len(reports.before)),
            about=f"GRPO with {', '.join(config.rewards.use)}: {counted(len(history), 'step')},"
            f" {config.rollouts.generations} completions of each of {config.rollouts.prompts} studies a step.",
            key_figures=_key_figures(compared, rewards, training, history),
            warnings=list(warnings),
            sections=sections,
            config_hash=config_hash(config),
            resume=command,
        )
    )


def _verdict(compared: Sequence[Compared], rewards: Mapping[str, list[float]], name: str, count: int) -> str:
    before, after = rewards[name]
    words = f"On {count:,} held-out studies the reward ({name}) went from {before:.3f} to {after:.3f}"
    found = next((each for each in compared if each.name == "complete_micro_f1"), None) or next(
        (each for each in compared if each.name == "micro_f1"), None
    )
    if found is None:
        return f"{words}."
    low, high = found.difference.low, found.difference.high
    sure = "more" if low > 0 else "fewer" if high < 0 else "neither clearly more nor fewer"
    return (
        f"{words}, and the F1 of findings from {found.before.estimate:.3f} to {found.after.estimate:.3f}"
        f" ({found.difference.estimate:+.3f}; 95 %: {low:+.3f} to {high:+.3f}): {sure} of them rightly named."
    )


def _key_figures(
    compared: Sequence[Compared],
    rewards: Mapping[str, list[float]],
    training: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
) -> list[KeyFigure]:
    shown = [
        KeyFigure(label=name, value=f"{after:.3f}", hint=f"fine-tuned: {before:.3f}")
        for name, (before, after) in list(rewards.items())[:2]
    ]
    shown += [
        KeyFigure(
            label=_NAMES[each.name], value=f"{each.after.estimate:.3f}", hint=f"fine-tuned: {each.before.estimate:.3f}"
        )
        for each in compared
        if each.name in ("complete_micro_f1", "micro_f1")
    ]
    if training:
        shown.append(KeyFigure(label="Kept", value=f"step {training['best_step']}", hint="of the highest reward"))
    total, exposed = _sum(history, "reward_seconds"), _sum(history, "exposed_seconds")
    if total:
        shown.append(
            KeyFigure(
                label="Reward time hidden", value=f"{100 * max(0.0, 1 - exposed / total):.0f}\u00a0%",
                hint=f"{exposed:.1f} s waited of {total:.1f} s computed",
            )
        )  # fmt: skip
    return shown


def _examples(reports: Reports, model: RewardModel) -> Block:
    readings = []
    for place, row in enumerate(reports.shown):
        reference, language = reports.columns["reference"][row], reports.languages[row]
        after, before = (split_answer(text)[0] for text in (reports.columns["completion"][row], reports.before[row]))
        readings.append(
            Reading(
                title=reports.columns["report_id"][row],
                picture=Picture(
                    png=png(shrunk(reports.images[place], PICTURE_PIXELS)),
                    alt=f"Chest X-ray {reports.columns['image_id'][row]}", note=reports.columns["image_id"][row],
                ),
                texts=[
                    ("Aligned", _pieces(after, reference, model, language)),
                    ("Fine-tuned", _pieces(before, reference, model, language)),
                    ("Original report", _pieces(reference, after, model, language, truth=True)),
                ],
            )
        )  # fmt: skip
    return Readings(readings=readings, legend=_LEGEND)


def _pieces(text: str, other: str, model: RewardModel, language: str, *, truth: bool = False) -> list[Piece]:
    """A text's sentences, marked by what the reward sees in them beside the other text."""
    clusters = model.maps["findings"]
    there = clusters.map([other], language)[0].nearest
    seen: set[str] = set()
    pieces = []
    for sentence in split_sentences(text):
        key = "".join(keys_of(sentence))
        own = clusters.map([sentence], language)[0].nearest
        mark = (
            "partly" if key in seen
            else "wrong" if not truth and contradicting_sentences(sentence, other, language)
            else "right" if own & there
            else "missed" if truth or not own
            else "unsaid"
        )  # fmt: skip
        seen.add(key)
        pieces.append(Piece(text=sentence, marks=[mark]))
    return pieces or [Piece(text="(nothing)", marks=["unsaid"])]


def _scores(reports: Reports, compared: Sequence[Compared], rewards: Mapping[str, list[float]]) -> list[Block]:
    return [
        Table(
            caption=f"{counted(len(reports.before), 'report')} of the fine-tuned and of the aligned model for the same"
            " studies. Differences with 95 % intervals from the same resamples of patients; p of a paired"
            " randomisation test.",
            columns=[
                Column(name="Score", wide=True), Column(name="Fine-tuned", numeric=True, digits=3),
                Column(name="Aligned", numeric=True, digits=3), Column(name="Difference", tight=True),
                Column(name="95 %", tight=True), Column(name="p", numeric=True, digits=3),
            ],
            rows=[
                (
                    _NAMES[each.name], each.before.estimate, each.after.estimate, f"{each.difference.estimate:+.3f}",
                    f"{each.difference.low:+.3f} to {each.difference.high:+.3f}", each.p,
                )
                for each in compared
            ],
        ),
        Table(
            caption="Rewards of the same reports, means.",
            columns=[
                Column(name="Reward"), Column(name="Fine-tuned", numeric=True, digits=4),
                Column(name="Aligned", numeric=True, digits=4),
            ],
            rows=[(name, before, after) for name, (before, after) in rewards.items()],
        ),
    ]  # fmt: skip


def _learning(config: AlignConfig, history: Sequence[Mapping[str, Any]], training: Mapping[str, Any]) -> list[Block]:
    if not history:
        return [Paragraph("Nothing was learnt in this run.")]
    judged = training.get("validation", [])
    steps = [line["step"] for line in history]
    reward = Figure(
        data=[
            _line("completions of the step", steps, [line["reward"] for line in history], QUIET),
            _line("validation studies", [each["step"] for each in judged], [each["reward"] for each in judged], ACCENT),
        ],
        layout=base_layout(xaxis=axis("step"), yaxis=axis("reward"), showlegend=True, legend=LEGEND),
        caption="Mean reward of drawn completions. The checkpoint with the highest reward on validation studies is"
        f" kept: step {training.get('best_step')}.",
    )  # fmt: skip
    watched = Figure(
        data=[
            _line("no finding claimed", steps, [line["normal"] for line in history], ACCENT),
            _line("distinct sentences", steps, [line["distinct"] for line in history], FAINT),
            _line("studies without a difference", steps, [line["flat"] for line in history], WARN),
            _line("sentences without a cluster", steps, [line["unmapped"] for line in history], QUIET),
        ],
        layout=base_layout(
            xaxis=axis("step"), yaxis=axis("share", range=[-0.02, 1.02], tickformat=".0%"), showlegend=True,
            legend=LEGEND,
        ),
        caption="Signs of a collapse: a policy that writes one normal report for everybody, or what nobody can check.",
    )  # fmt: skip
    distance = Figure(
        data=[_line("KL", steps, [line.get("kl", 0.0) for line in history], ACCENT)],
        layout=base_layout(xaxis=axis("step"), yaxis=axis("nats a token")),
        caption=f"KL divergence from the fine-tuned model; it counts {config.training.beta:g} times.",
        height=260,
    )
    return [reward, watched, distance]


def _line(name: str, x: Sequence[float], y: Sequence[float], colour: str) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": list(x), "y": list(y), "line": {"color": colour},
    }  # fmt: skip


def _overlap(history: Sequence[Mapping[str, Any]]) -> list[Block]:
    if not history:
        return [Paragraph("No step.")]
    busy, exposed = _sum(history, "reward_seconds"), _sum(history, "exposed_seconds")
    scored, shared = _sum(history, "scored"), _sum(history, "shared")
    looked = _sum(history, "hits") + _sum(history, "misses")
    total = _sum(history, "seconds")
    return [
        Paragraph(
            "A completion is rewarded as soon as it ends, while longer ones are still being generated and while the"
            " reference's probabilities are computed. What is left to wait for is exposed."
        ),
        KeyValues(
            [
                ("Steps took", f"{total:.1f} s", f"{total / len(history):.2f} s each"),
                ("Generation", f"{_sum(history, 'generation_seconds'):.1f} s"),
                ("Rewards, computed", f"{busy:.1f} s", "busy time of the workers"),
                ("Rewards, exposed", f"{exposed:.2f} s", f"{100 * exposed / total:.1f} % of the time" if total else ""),
                ("Queued", f"{_sum(history, 'queue_seconds') / max(1.0, scored):.2f} s", "mean of a completion"),
                ("Completions scored", f"{scored:,.0f}", f"{shared:,.0f} more were equal to another"),
                (
                    "Sentences remembered",
                    f"{100 * _sum(history, 'hits') / looked:.0f} %" if looked else "–",
                    "of those outside the dictionary; the others were embedded",
                ),
                ("Without a reward", f"{100 * _sum(history, 'none') / len(history):.2f} %", "not in time, or failed"),
                ("Workers that died", f"{_sum(history, 'deaths'):.0f}"),
            ]
        ),
    ]


def _sum(history: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(sum(line.get(name, 0.0) for line in history))


def _use(folder: str) -> str:
    return (
        f'from raymedlt.finetuning import load\n\nwriter = load("{folder}")\nprint(writer.generate(["chest.png"])[0])'
    )
