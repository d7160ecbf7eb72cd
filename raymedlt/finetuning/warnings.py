"""What to distrust in a run of the finetune job, from its report: for the page, the cards and the job's log."""

from __future__ import annotations

from raymedlt.finetuning.report import Report, Scored
from raymedlt.intervals import Share
from raymedlt.runreport.words import NOT_FOR_DIAGNOSIS, counted, listed

FEW_REPORTS = 200
FEW_POSITIVES = 30  # of a finding in the scored reports
MANY_CUT = 0.02
MORE_NORMAL = 0.15  # share of reports without a finding, above the truth's
SAME_TEXTS = 0.25  # different reports, as a share of the references' number
PHANTOM = (
    "Images and reports are made by code (the procedural phantom), not patients'. The figures compare methods; they say"
    " nothing about real chest X-rays."
)
BLIND = (
    "The control: the model saw the same grey square instead of every image. What it writes can only be what reports"
    " usually say."
)


def warnings_of(report: Report) -> list[str]:
    """What to distrust, the gravest first."""
    found = [NOT_FOR_DIAGNOSIS, *([PHANTOM] if report.data.phantom else []), *([BLIND] if report.blind else [])]
    if learnt := report.data.learnt_from_held_out:
        found.append(
            f"{counted(learnt, 'validation or test report')} had a part in the enrichment of the training texts (the"
            " run of text.enriched took them for training reports): the scores may be too good. Run jobs/enrich.py with"
            " the splits of these images."
        )
    if report.training.sees_first and not report.training.seeing:
        found.append(
            "The vision encoder learnt nothing: no finding is claimed by enough of the training texts. Give more"
            " reports, or an encoder with weights (model.vision_weights)."
        )
    if report.main is None:
        found.append("No report was scored: nothing says what the model is worth.")
    else:
        found += [*_collapse(report.main), *_about_scores(report.main)]
    if report.training.still_falling:
        found.append(
            f"The validation loss was still falling at the last of {counted(report.training.epochs, 'epoch')}: more of"
            " them (training.epochs) would probably have done better."
        )
    if rows := sum(report.rejected.values()):
        found.append(f"{counted(rows, 'row')} rejected, each with a reason.")
    return found


def _collapse(scored: Scored) -> list[str]:
    """Reports that say the same of every image."""
    found = []
    own, truth = scored.normal.value, scored.normal_truth.value
    if own is not None and truth is not None and own - truth > MORE_NORMAL:
        found.append(
            f"{100 * own:.0f}\u00a0% of the written reports claim no finding, but only {100 * truth:.0f}\u00a0% of"
            f" {scored.truth_words}: the model calls sick chests normal."
        )
    if 0 < scored.distinct <= SAME_TEXTS * scored.distinct_references:
        found.append(
            f"{scored.reports:,} images got {counted(scored.distinct, 'different report')}; the original reports have"
            f" {scored.distinct_references:,}: the model hardly looks at the image, or can say little."
        )
    cut = Share(scored.cut, scored.reports).value or 0.0
    if cut > MANY_CUT:
        found.append(
            f"{100 * cut:.0f}\u00a0% of the written reports end in the middle, since they reached"
            " generation.max_tokens: raise it, or look for reports that repeat themselves."
        )
    return found


def _about_scores(scored: Scored) -> list[str]:
    found = []
    if scored.reports < FEW_REPORTS:
        found.append(
            f"Only {counted(scored.reports, 'report')} of {counted(scored.patients, 'patient')} scored: read the"
            " intervals, not the points."
        )
    never = [each.name for each in scored.truth if each.positives >= FEW_POSITIVES and not each.hits]
    if never:
        found.append(
            f"Never found, though {FEW_POSITIVES} or more images show it: {listed(never)}. The model cannot say"
            f" {'it' if len(never) == 1 else 'them'}, or cannot see {'it' if len(never) == 1 else 'them'}."
        )
    if few := [each.name for each in scored.truth if 0 < each.positives < FEW_POSITIVES]:
        found.append(
            f"{counted(len(few), 'finding')} with fewer than {FEW_POSITIVES} positives: {listed(few)}. One image more"
            " or less moves their figures visibly."
        )
    return found
