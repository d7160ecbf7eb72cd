"""Cards: README.md beside the synthetic images, and README.md beside a trained generator or its adapters.

Markdown with the header that hubs read. They hold counts, figures and versions: no image, no image or patient id, and
nothing of a report's text.
"""

from __future__ import annotations

from raymedlt.runreport.markdown import bullets, data_files, escaped, header, in_code, table
from raymedlt.runreport.words import capital
from raymedlt.synthesis.report import Figures, Report
from raymedlt.synthesis.report_words import COPY, MEASURES, NOT_PATIENTS, PHANTOM, REASONS, UNDEFINED, number
from raymedlt.synthesis.warnings import warnings_of

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def data_card(report: Report, *, folder: str = "", license_words: str = "") -> str:
    """The card of the synthetic images.

    Args:
        folder: where the run lies, as it shall stand in the examples of use.
        license_words: under what the images may be used, for the header; left out when "".
    """
    parts = [
        _data_header(report, license_words),
        _images(report, folder or "FOLDER"),
        _classes(report),
        _made_how(report),
        _likeness(report),
        _privacy(report),
        _limits(report),
        _made_by(report),
    ]
    return "\n".join(parts)


def generator_card(
    report: Report, *, folder: str = "", adapters: bool = False, base_model: str = "", license_words: str = ""
) -> str:
    """The card of a generator that was trained in the run, or of what was learnt on top of one.

    Args:
        folder: where the weights lie, as it shall stand in the example of use.
        adapters: the weights are adapters for the generator `report.generator.base`.
        base_model: that generator's name on a hub, for the header; "" for a folder.
        license_words: under what the weights may be used; left out when "". Adapters inherit the base's terms.
    """
    parts = [
        _generator_header(report, adapters, base_model, license_words),
        _generator(report, folder or "FOLDER", adapters),
        _training(report),
        _likeness(report),
        _privacy(report),
        _limits(report),
        _made_by(report),
    ]
    return "\n".join(parts)


# Headers


def _data_header(report: Report, license_words: str) -> str:
    size = next((words for most, words in SIZES if report.acceptance.whole < most), "n>1M")
    return header(
        {
            "configs": data_files(["images", "plan"]),
            "pretty_name": "Synthetic chest X-rays of rare classes",
            "task_categories": ["image-classification"],
            "size_categories": [size],
            "tags": ["chest-x-ray", "synthetic", "diffusion", "long-tail", "not-for-diagnosis"],
        },
        license_words,
    )


def _generator_header(report: Report, adapters: bool, base_model: str, license_words: str) -> str:
    return header(
        {
            "library_name": "raymedlt" if adapters else "diffusers",
            "pipeline_tag": "text-to-image",
            **({"base_model": base_model} if base_model else {}),
            "tags": ["chest-x-ray", "latent-diffusion", "long-tail", "not-for-diagnosis"]
            + ([report.generator.method.replace("_", "-")] if adapters else [])
            + (["synthetic-data"] if report.phantom else []),
        },
        license_words,
    )


# Parts of the data card


def _images(report: Report, folder: str) -> str:
    kept, drawn = report.acceptance
    size = report.generator.size
    return f"""# Synthetic chest X-rays of rare classes

{NOT_PATIENTS}
{PHANTOM if report.phantom else ""}

{drawn:,} grey images of {size} x {size} pixels, drawn by a diffusion model for {len(report.classes)} classes that real
training images rarely show; {kept:,} of them were accepted by a quality and privacy gate. The table `images` holds all
of them, each with `accepted`, `reasons` and `scores`; the table `plan` holds each image's label set, prompt and seed.

## Use

```
python jobs/classify.py --synthetic.path {in_code(folder)}
```

```python
import datasets

images = datasets.load_dataset("{in_code(folder)}", "images", split="train")
images = images.filter(lambda row: row["accepted"])
```

They belong among training images alone. Compare with a training without them, over several seeds.
"""


def _classes(report: Report) -> str:
    rows = [
        (
            each.name,
            f"{each.real:,}",
            f"{each.planned:,}",
            f"{each.drawn:,}",
            f"{each.accepted:,}",
            f"{each.acceptance}",
        )
        for each in report.classes
    ]
    head = ("class", "real training images", "planned", "drawn", "accepted", "acceptance (95 %)")
    return f"""## Classes

Every image is drawn for one class and may show others of its label set.

{table(head, rows)}
"""


def _made_how(report: Report) -> str:
    plan, own = report.plan, report.generator
    reasons = [(name, f"{count:,}", REASONS.get(name, "")) for name, count in report.reasons().items()]
    told = f"\n{table(('refused for', 'images', 'meaning'), reasons)}\n" if reasons else ""
    return f"""## How they were made

Real images: {escaped(report.data)}. Generator: {escaped(own.words)} (`{own.checkpoint_hash[:16]}`).
The plan has {plan.rows:,} rows with {plan.label_sets:,} label sets, {plan.new_sets:,} of which no real training image
has; the largest shift of a co-occurrence against the real images is {100 * plan.shift:.1f} points. An image follows
from its row of the plan, the generator and the configuration alone.

The gate's classifier was trained on real images only: {escaped(report.classifier or "not told")}.
{told}"""


def _likeness(report: Report) -> str:
    every = [("all together", report.likeness), *((each.name, each.likeness) for each in report.classes)]
    rows = [
        (
            name,
            f"{each.compared:,}",
            f"{each.synthetic.kid_words} ({each.real.kid_words})" if each.synthetic.kid is not None else UNDEFINED,
            *(_pair(each.synthetic, each.real, measure) for measure in MEASURES),
            each.why,
        )
        for name, each in every
    ]
    return f"""## How real, how varied

Accepted images and as many held-out real ones, against the real training images of the class; in brackets what the real
ones get. KID has its standard error. All together: equally many images of each class in every set.

{table(("class", "images of each", "KID", *MEASURES.values(), "not defined, because"), rows)}
"""


def _pair(own: Figures, real: Figures, measure: str) -> str:
    value, floor = getattr(own, measure), getattr(real, measure)
    return UNDEFINED if value is None else f"{number(value)} ({number(floor)})"


def _privacy(report: Report) -> str:
    own = report.memorisation
    if own is None:
        return "## Privacy\n\nMemorisation was not measured.\n"
    rows = [
        ("planted copies caught", str(own.caught), f"{own.caught.part:,} of {own.caught.whole:,}"),
        (
            "real images refused",
            str(own.false_refusals),
            f"{own.false_refusals.part:,} of {own.false_refusals.whole:,}",
        ),
        ("drawn images refused as copies", "", f"{report.reasons().get(COPY, 0):,} of {report.acceptance.whole:,}"),
    ]
    return f"""## Privacy

Each drawn image was compared with the real training images of this run{_base(report)}; closer than
{own.threshold:.2f} times the usual distance of a held-out real image it counts as a copy and is refused. The threshold
was set on the same held-out images, so that the share of them below it is as was asked for.

Give away `images/` and `plan/` only. The other folders of the run hold real images, or vectors made from them.

{table(("what", "share (95 %)", "images"), rows)}

The search finds training images that were moved, turned, mirrored, exposed otherwise, noised or stored as JPEG; it does
not find a patch of one in an otherwise new image. An accepted image is no proof of privacy.
"""


def _base(report: Report) -> str:
    """What wasn't compared."""
    if not report.generator.base:
        return ""
    return " (what the base generator had learnt from before is not known here, and was not searched)"


# Parts of the generator's card


def _generator(report: Report, folder: str, adapters: bool) -> str:
    own = report.generator
    where = f'"{in_code(own.base)}", adapters="{in_code(folder)}"' if adapters else f'"{in_code(folder)}"'
    title = "What was learnt on top of a generator of chest X-rays" if adapters else "Generator of chest X-rays"
    parameters = "" if own.parameters is None else f", {own.parameters:,} parameters"
    return f"""# {title}

{NOT_PATIENTS}
{PHANTOM if report.phantom else ""}

{escaped(capital(own.words))}{parameters}. It draws grey images of {own.size} x {own.size} pixels
from short texts that name findings.

## Use

```python
from raymedlt.synthesis.folder import load_generator

generator = load_generator({where})
```

The weights are safetensors: loading them runs no code of theirs.
Hash: `{own.checkpoint_hash}`.
"""


def _training(report: Report) -> str:
    own = report.generator
    rows = [
        (name, f"{int(entries[-1]['step']):,}", f"{entries[0]['loss']:.4g}", f"{entries[-1]['loss']:.4g}")
        for name, entries in report.curves.items()
        if entries
    ]
    told = table(("training of the", "steps", "first loss", "last loss"), rows) if rows else "Nothing was trained."
    images = "" if own.images is None else f"{own.images:,} real training images: "
    method = f" Method: {own.method.replace('_', ' ')}." if own.method else ""
    held_out = ""
    if (loss := own.held_out) is not None:
        held_out = (
            f"\nDenoising loss on {loss.images:,} held-out real images, with the same noise: {loss.before:.5g} before"
            f" and {loss.after:.5g} after.\n"
        )
    return f"""## Training

{images}{escaped(report.data)}.{method}

{told}
{held_out}"""


# Parts of both


def _limits(report: Report) -> str:
    own = [
        "What is drawn for a class is what the training images and their labels taught, mistakes included.",
        "The gate knows what its classifier knows: images that fool the classifier pass.",
        "KID and its companions depend on the network that gives the features and on the number of images.",
        "Other scanners, views, ages and hospitals than the training data's are not drawn.",
    ]
    return f"## Limits\n\n{bullets([*warnings_of(report), *own])}\n"


def _made_by(report: Report) -> str:
    rows = [("configuration", report.config_hash or "not told"), ("seed", str(report.seed)), *report.versions.items()]
    return f"""## Made by

`jobs/synthesize.py` of raymedlt; the configuration is in config.yaml, contact sheets and curves are in report.html.

{table(("what", "which"), rows)}
"""
