"""All scores of one system's reports: a table with a row per report, and each score with its interval.

Names of the scores. One value per report, means over reports:
* bleu, chrf, rouge_l: agreement in words (`overlap`);
* sentence_f1, cluster_f1, cluster_f1_strict: agreement in sentences (`sentences`, `clusters`);
* report_f1: F1 of a report's present findings; 1 where neither text claims any;
* false_denials: findings of the reference that the report expressly denies, a number;
* words: of the report;
* bertscore.
Over all findings of all reports: micro_precision, micro_recall, micro_f1, macro_f1, and micro_f1_sides, where left and
right are two findings; chexbert_micro_f1, chexbert_macro_f1. Where complete texts are given (texts without omissions,
as the phantom has them), all scores of findings come again against those, with "complete_" in front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymedlt.errors import InputError
from raymedlt.evaluation import external
from raymedlt.evaluation.clusters import (
    ClusterMap,
    Clusters,
    cluster_f1,
    cluster_f1_strict,
    contradicting_sentences,
)
from raymedlt.evaluation.config import NO_SCORERS, ScorersConfig
from raymedlt.evaluation.findings import Agreement, Claims, claims_of, compare, precision_recall_f1
from raymedlt.evaluation.overlap import chrf, rouge_l, sentence_bleu
from raymedlt.evaluation.paired import Score, difference, interval, macro_score, mean_score, micro_score
from raymedlt.evaluation.paired import randomisation_test as _randomisation_test
from raymedlt.evaluation.sentences import sentence_f1
from raymedlt.resampling import Interval, Patients
from raymedlt.schema import GENERATIONS

Floats = npt.NDArray[np.float64]
COMPLETE = "complete_"
"""Start of the names of scores against texts without omissions."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The scores of one system."""

    per_report: dict[str, Floats]
    """Name -> [N]."""
    scores: dict[str, Score]
    """Name -> the score over all reports."""
    agreement: Agreement
    """Findings of the references."""
    complete: Agreement | None
    """Findings of the complete texts."""
    patients: Patients
    absent: list[str] = field(default_factory=list)
    """What was not computed, and why, a line each."""

    def interval(self, name: str, *, resamples: int, seed: int) -> Interval:
        """A score with its 95 % interval over patients."""
        return interval(self._score(name), self.patients, resamples=resamples, seed=seed)

    def intervals(self, *, resamples: int, seed: int) -> dict[str, Interval]:
        """Every score with its interval."""
        return {name: self.interval(name, resamples=resamples, seed=seed) for name in self.scores}

    def difference(self, other: Evaluation, name: str, *, resamples: int, seed: int) -> Interval:
        """How much higher this system's score is than the other's, on the same resamples.

        Raises:
            InputError: not of the same patients, or one lacks the score.
        """
        self._check_same(other)
        return difference(self._score(name), other._score(name), self.patients, resamples=resamples, seed=seed)

    def randomisation_test(self, other: Evaluation, name: str, *, permutations: int, seed: int) -> float:
        """Two-sided p, see `paired.randomisation_test`. Raises InputError as `difference`."""
        self._check_same(other)
        first, second = self._score(name), other._score(name)
        return _randomisation_test(first, second, self.patients, permutations=permutations, seed=seed)

    def by_finding(self, *, complete: bool = False) -> dict[str, dict[str, float]]:
        """Of each finding precision, recall, f1 (NaN where undefined), positives (of the truth) and claimed."""
        agreement = self.complete if complete else self.agreement
        if agreement is None:
            raise InputError("findings of complete texts", "a system that was scored with them", "give `complete`")
        counts_G3 = agreement.counts_NG3.sum(0)
        names = ("precision", "recall", "f1")
        return {
            str(group): dict(zip(names, rates.tolist(), strict=True))
            | {"positives": float(counts[0] + counts[2]), "claimed": float(counts[0] + counts[1])}
            for group, rates, counts in zip(agreement.names, precision_recall_f1(counts_G3), counts_G3, strict=True)
        }

    def _score(self, name: str) -> Score:
        if name not in self.scores:
            raise InputError(f"the score '{name}'", f"one of {', '.join(self.scores)}")
        return self.scores[name]

    def _check_same(self, other: Evaluation) -> None:
        same = self.patients.digest == other.patients.digest and np.array_equal(
            self.patients.number_N, other.patients.number_N
        )
        if not same:
            raise InputError(
                "two systems' reports of different patients",
                "reports of the same studies in the same order",
                "score both systems on the same rows",
            )


def evaluate(
    completions: Sequence[str],
    references: Sequence[str],
    patient_ids: Sequence[str],
    *,
    complete: Sequence[str] | None = None,
    language: str | Sequence[str] = "en",
    clusters: Clusters | None = None,
    scorers: ScorersConfig = NO_SCORERS,
    device: str = "cpu",
) -> Evaluation:
    """Score what a system wrote.

    Args:
        completions: what it wrote, one text per study.
        references: the original reports.
        patient_ids: whose they are.
        complete: the same without omissions, where that is known.
        language: of all texts, or of each.
        clusters: a cluster model of findings (`clustering.model.ClusterModel`); without it no cluster scores.
        scorers: models in local folders, see `external`; without them their scores are named in `absent`.

    Raises:
        InputError: no reports, columns of different lengths, a language without rules, a folder without weights.

    Complexity: some milliseconds a report, most of it ROUGE-L and chrF; sentences are judged once each.
    """
    lengths = [len(references), len(patient_ids), *([] if complete is None else [len(complete)])]
    if not completions or any(length != len(completions) for length in lengths):
        raise InputError(
            f"{len(completions)} reports with {lengths} references, patients and complete texts",
            "one of each per study",
        )
    languages = [language] * len(completions) if isinstance(language, str) else list(language)
    claimed = _claims(completions, languages)
    per_report: dict[str, Floats] = {
        "bleu": sentence_bleu(completions, references),
        "chrf": chrf(completions, references),
        "rouge_l": rouge_l(completions, references),
        "sentence_f1": _floats(sentence_f1(*pair) for pair in zip(completions, references, strict=True)),
        "words": _floats(len(text.split()) for text in completions),
    }
    absent = external.absent(scorers)
    if clusters is None:
        absent.append("Cluster F1: not computed (no cluster model of findings: scoring.clusters, text.enriched)")
    else:
        per_report |= _cluster_scores(completions, references, languages, ClusterMap(clusters))
    if scorers.bertscore is not None:
        per_report["bertscore"] = external.bertscore(completions, references, scorers.bertscore, device=device)
    if scorers.radeval:
        per_report |= external.radeval(completions, references, scorers.radeval, scorers.radeval_folder)
    pooled: dict[str, Score] = {}
    agreement = _add_findings("", _claims(references, languages), claimed, per_report, pooled)
    whole = None
    if complete is not None:
        whole = _add_findings(COMPLETE, _claims(complete, languages), claimed, per_report, pooled)
    if scorers.chexbert is not None:
        _add_chexbert(completions, references, scorers.chexbert, device, pooled)
    scores = {name: mean_score(values) for name, values in per_report.items()} | pooled
    return Evaluation(per_report, scores, agreement, whole, Patients.of(patient_ids), absent)


def generations_table(columns: Mapping[str, Sequence[str]], per_report: Mapping[str, Floats]) -> pa.Table:
    """The table GENERATIONS.

    Args:
        columns: report_id, image_id, patient_id, split, reference, completion.
        per_report: as of `Evaluation`; may be empty.
    """
    names = list(per_report)
    rows = zip(*per_report.values(), strict=True) if names else ([] for _ in columns["report_id"])
    metrics = [[{"name": name, "value": float(value)} for name, value in zip(names, row, strict=True)] for row in rows]
    table = {field.name: columns[field.name] for field in GENERATIONS if field.name != "metrics"}
    return pa.table({**table, "metrics": metrics}, schema=GENERATIONS)


def _claims(texts: Sequence[str], languages: Sequence[str]) -> list[Claims]:
    return [claims_of(text, language) for text, language in zip(texts, languages, strict=True)]


def _cluster_scores(
    completions: Sequence[str], references: Sequence[str], languages: Sequence[str], clusters: ClusterMap
) -> dict[str, Floats]:
    mapped = clusters.map([*completions, *references], [*languages, *languages])
    pairs = list(zip(mapped[: len(completions)], mapped[len(completions) :], strict=True))
    opposed = [contradicting_sentences(*row) for row in zip(completions, references, languages, strict=True)]
    return {
        "cluster_f1": _floats(cluster_f1(*pair) for pair in pairs),
        "cluster_f1_strict": _floats(cluster_f1_strict(*pair, k) for pair, k in zip(pairs, opposed, strict=True)),
    }


def _add_findings(
    prefix: str,
    truth: Sequence[Claims],
    claimed: Sequence[Claims],
    per_report: dict[str, Floats],
    pooled: dict[str, Score],
) -> Agreement:
    agreement, sided = compare(truth, claimed), compare(truth, claimed, sides=True)
    f1 = precision_recall_f1(agreement.counts_N3)[:, 2]
    per_report[f"{prefix}report_f1"] = np.where(np.isnan(f1), 1.0, f1)
    per_report[f"{prefix}false_denials"] = agreement.denials_N.astype(np.float64)
    for number, name in enumerate(("micro_precision", "micro_recall", "micro_f1")):
        pooled[f"{prefix}{name}"] = micro_score(agreement, number)
    pooled[f"{prefix}macro_f1"] = macro_score(agreement)
    pooled[f"{prefix}micro_f1_sides"] = micro_score(sided)
    return agreement


def _add_chexbert(
    completions: Sequence[str], references: Sequence[str], folder: str, device: str, pooled: dict[str, Score]
) -> None:
    labels = external.chexbert([*completions, *references], folder, device=device)
    said, there = labels[: len(completions)], labels[len(completions) :]
    agreement = Agreement(
        external.CHEXBERT_CLASSES, there & said, ~there & said, there & ~said, np.zeros(len(said), np.int64)
    )
    pooled["chexbert_micro_f1"], pooled["chexbert_macro_f1"] = micro_score(agreement), macro_score(agreement)


def _floats(values: object) -> Floats:
    return np.asarray(list(values), np.float64)  # type: ignore[call-overload]
