"""What to distrust in a run of the synthesize job, from its report: for the page, the card and the job's log."""

from __future__ import annotations

from raymedlt.intervals import Share
from raymedlt.runreport.words import class_count, listed
from raymedlt.synthesis.report import ClassReport, Likeness, Report
from raymedlt.synthesis.report_words import COPY, NOT_PATIENTS, PHANTOM, REPEAT

LOW_ACCEPTANCE = 0.2
FEW_ACCEPTED = 50
FEW_VALIDATION = 30  # real validation images of a class: fewer, and its thresholds are a guess
FEW_COMPARED = 50  # images of each set behind KID and its companions
KID_FAR = 5.0  # times the floor
SAMENESS = 0.1  # MS-SSIM above the real one
SHIFTED = 0.1  # of a conditional probability, by the plan
LEAST_CAUGHT = 0.99
MANY_REPEATS = 0.05


def warnings_of(report: Report) -> list[str]:
    """What to distrust, the gravest first."""
    found = [NOT_PATIENTS, *([PHANTOM] if report.phantom else [])]
    found += [*_about_acceptance(report), *_about_copies(report), *_about_likeness(report), *_about_gate(report)]
    held_out = report.generator.held_out
    if held_out is not None and held_out.after >= held_out.before:
        found.append(
            "Learning did not lower the denoising loss on held-out real images"
            f" ({held_out.before:.4g} before, {held_out.after:.4g} after)."
        )
    if report.plan.shift > SHIFTED:
        first, second = report.plan.shift_pair
        found.append(
            f"The plan moves how often {second} goes with {first} by {100 * report.plan.shift:.0f} points against the"
            " real images: a classifier may learn that."
        )
    if rows := sum(report.rejected.values()):
        found.append(f"{rows:,} rows of the label table were rejected, each with a reason.")
    return found


def _about_acceptance(report: Report) -> list[str]:
    found = []
    if missing := report.planned - report.acceptance.whole:
        found.append(f"{missing:,} of {report.planned:,} planned images were not drawn.")
    if none := [each.name for each in report.classes if not each.accepted]:
        found.append(f"{class_count(len(none))} without an accepted image: {listed(none)}. Nothing was gained there.")
    if low := [each.name for each in report.classes if each.accepted and _low(each)]:
        found.append(
            f"{class_count(len(low))} with an acceptance under {100 * LOW_ACCEPTANCE:.0f} %: {listed(low)}. The gate"
            " picks the few that the classifier likes there: expect easy and uniform images."
        )
    if few := [each.name for each in report.classes if 0 < each.accepted < FEW_ACCEPTED]:
        found.append(f"{class_count(len(few))} with fewer than {FEW_ACCEPTED} accepted images: {listed(few)}.")
    return found


def _low(each: ClassReport) -> bool:
    return each.acceptance.value is not None and each.acceptance.value < LOW_ACCEPTANCE


def _about_copies(report: Report) -> list[str]:
    reasons, drawn, own = report.reasons(), report.acceptance.whole, report.memorisation
    found = []
    if copies := reasons.get(COPY, 0):
        usual = own.false_refusals.value if own else None
        words = "" if usual is None else f"; of real images of other patients it refuses {100 * usual:.1f} %"
        told = f"{copies:,} of {drawn:,} drawn images were refused as copies of training images"
        told += f" ({100 * copies / drawn:.1f} %{words})."
        if usual is None or Share(copies, drawn).interval[0] > usual:
            told += " The generator may remember patients: don't publish its weights."
        found.append(told)
    if report.generator.base:
        found.append(
            "The base generator's own training images are not known here: only copies of this run's real images were"
            " looked for."
        )
    if own is None:
        found.append("Memorisation was not measured: nothing says that these images are no copies of patients' images.")
    elif own.caught.value is None:
        found.append("The search for copies was not tried on planted copies: nobody knows what it misses.")
    elif own.caught.value < LEAST_CAUGHT:
        found.append(f"The search for copies caught only {own.caught.part:,} of {own.caught.whole:,} planted copies.")
    if drawn and (repeats := reasons.get(REPEAT, 0)) > MANY_REPEATS * drawn:
        found.append(f"{repeats:,} of {drawn:,} drawn images repeat an earlier one: the generator has little variety.")
    return found


def _about_likeness(report: Report) -> list[str]:
    every = [("all classes together", report.likeness), *((each.name, each.likeness) for each in report.classes)]
    found = []
    if far := [name for name, each in every if is_far(each)]:
        found.append(
            f"KID is more than {KID_FAR:g} times what real images get (or that figure's noise) for {listed(far)}: the"
            " images differ visibly to the network that gives the features."
        )
    if same := [name for name, each in every if _uniform(each)]:
        found.append(f"Images are more alike than real ones for {listed(same)} (MS-SSIM, coverage or recall).")
    if few := [name for name, each in every[1:] if 0 < each.compared < FEW_COMPARED]:
        found.append(
            f"KID and its companions rest on fewer than {FEW_COMPARED} images a set for {listed(few)}: mostly noise."
        )
    if undefined := [each.name for each in report.classes if each.accepted and each.likeness.synthetic.kid is None]:
        found.append(f"KID and its companions are not defined for {listed(undefined)}: see How real, how varied.")
    return found


def is_far(likeness: Likeness) -> bool:
    """KID is more than KID_FAR times the floor, or times the floor's own noise where that is larger."""
    own, real = likeness.synthetic, likeness.real
    if own.kid is None or real.kid is None:
        return False
    return own.kid > KID_FAR * max(abs(real.kid), 2 * (real.kid_error or 0.0))


def _uniform(likeness: Likeness) -> bool:
    own, real = likeness.synthetic, likeness.real
    alike = own.ms_ssim is not None and real.ms_ssim is not None and own.ms_ssim > real.ms_ssim + SAMENESS
    pairs = ((own.coverage, real.coverage), (own.recall, real.recall))
    return alike or any(a is not None and b is not None and a < b / 2 for a, b in pairs)


def _about_gate(report: Report) -> list[str]:
    found = []
    if lost := [each.name for each in report.classes if each.validation is not None and each.threshold is None]:
        found.append(
            f"{class_count(len(lost))} with too few real validation images for a threshold: {listed(lost)}. The gate"
            " refuses every image for them."
        )
    if few := [
        each.name
        for each in report.classes
        if each.validation is not None and each.threshold is not None and each.validation < FEW_VALIDATION
    ]:
        found.append(
            f"{class_count(len(few))} whose thresholds rest on fewer than {FEW_VALIDATION} real validation images:"
            f" {listed(few)}. What the gate accepts there is little vouched for."
        )
    wanted = report.gate_precision
    if wanted is not None and (
        short := [
            each.name for each in report.classes if each.gate_precision is not None and each.gate_precision < wanted
        ]
    ):
        found.append(
            f"{class_count(len(short))} where no threshold reaches the wanted precision of {wanted:g}: {listed(short)}."
            " The most precise one is used."
        )
    return found
