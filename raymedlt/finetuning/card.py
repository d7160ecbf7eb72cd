"""Cards: README.md beside the model, and README.md of the run's folder with the reports that it wrote.

Markdown with the header that hubs read. They hold counts, figures and versions: no image, no image or patient id, and
nothing of a report's text.
"""

from __future__ import annotations

import math

from raymedlt.evaluation.scores import COMPLETE
from raymedlt.finetuning.page import verdict
from raymedlt.finetuning.page_making import FORMS, METHODS, USES, replicas_words, zero_words
from raymedlt.finetuning.report import Report, Scored
from raymedlt.finetuning.score_words import rows_of, whole_words
from raymedlt.finetuning.warnings import warnings_of
from raymedlt.runreport.markdown import bullets, data_files, escaped, header, in_code, table
from raymedlt.runreport.words import NOT_FOR_DIAGNOSIS, capital
from raymedlt.schema import SPLITS

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_TITLE = "Reports of chest X-rays, written by a model"
_TAGS = ["chest-x-ray", "radiology", "report-generation", "not-for-diagnosis"]


def model_card(report: Report, *, folder: str = "", base_model: str = "", license_words: str = "") -> str:
    """The card of the model.

    Args:
        folder: where it lies, as it shall stand in the example of use.
        base_model: on a hub, the name of what it was trained on top of, for the header; "" for none.
        license_words: under what the weights may be used, for the header; left out when "".
    """
    parts = [
        _model_header(report, base_model, license_words),
        _what_it_is(report, folder or "FOLDER"),
        _data(report),
        _training(report),
        _scores(report),
        _limits(report),
        _made_by(report),
    ]
    return "\n".join(parts)


def data_card(report: Report, *, license_words: str = "") -> str:
    """The card of the run's folder: the table `generations`.

    Args:
        license_words: under what the reports may be used; left out when "".
    """
    parts = [
        _data_header(report, license_words),
        _generations(report),
        _scores(report),
        _limits(report),
        _made_by(report),
    ]
    return "\n".join(parts)


# Headers


def _model_header(report: Report, base_model: str, license_words: str) -> str:
    scored = report.main
    fields: dict[str, object] = {
        "library_name": "raymedlt",
        "pipeline_tag": "image-text-to-text",
        **({"base_model": base_model} if base_model else {}),
        "tags": _TAGS + ([report.model.method] if report.model.method == "lora" else [])
        + (["synthetic-data"] if report.data.phantom else []),
    }  # fmt: skip
    if scored is not None:
        fields["model-index"] = [
            {
                "name": "raymedlt report writer",
                "results": [
                    {
                        "task": {"type": "image-text-to-text", "name": "reports of chest X-rays"},
                        "dataset": {
                            "type": "phantom" if report.data.phantom else "chest-x-rays",
                            "name": report.data.words,
                            "split": scored.split,
                        },
                        "metrics": [
                            {"type": name, "name": words, "value": round(scored.scores[name].estimate, 4)}
                            for name, words in _metric_names(scored)
                            if math.isfinite(scored.scores[name].estimate)
                        ],
                    }
                ],
            }
        ]
    return header(fields, license_words)


def _metric_names(scored: Scored) -> list[tuple[str, str]]:
    names = ("micro_f1", "macro_f1", "micro_precision", "micro_recall", "sentence_f1", "rouge_l", "bleu", "chrf")
    return [
        (name, name.removeprefix(COMPLETE) + (", against complete texts" if name.startswith(COMPLETE) else ""))
        for name in [*names, *(f"{COMPLETE}{name}" for name in names)]
        if name in scored.scores
    ]


def _data_header(report: Report, license_words: str) -> str:
    rows = sum(each.reports for each in report.scored)
    return header(
        {
            "configs": data_files(["generations", *(["rejected"] if report.rejected else [])]),
            "pretty_name": _TITLE,
            "task_categories": ["image-to-text"],
            "size_categories": [next((words for most, words in SIZES if rows < most), "n>1M")],
            "tags": [*_TAGS, *(["synthetic-data"] if report.data.phantom else [])],
        },
        license_words,
    )


# Parts of the model's card


def _what_it_is(report: Report, folder: str) -> str:
    own = report.model
    return f"""# Chest X-rays to reports

{NOT_FOR_DIAGNOSIS}

Model: {escaped(own.words)}; {own.parameters:,} parameters. It takes grey chest X-rays of
{own.image_size} x {own.image_size} pixels and writes {escaped(FORMS[report.data.form])} of the report.

## Use

```python
from raymedlt.finetuning import load

texts = load("{in_code(folder)}").generate(images)  # paths, bytes, PIL images or arrays
```

The weights are safetensors: loading them runs no code of theirs.
"""


def _data(report: Report) -> str:
    own, train = report.data, report.data.studies.get("train", 0)
    rows = [
        (split, f"{own.studies[split]:,}", f"{own.patients.get(split, 0):,}")
        for split in SPLITS
        if split in own.studies
    ]
    return f"""## Data

{escaped(capital(own.words))}. Training texts: {USES[own.use]} ({own.taught:,} of {train:,} training studies
teach other than their own text; {own.variants:,} texts in all). Validation and test references are the original
reports, always. Splits are by patient.

{table(("split", "studies", "patients"), rows)}
"""


def _training(report: Report) -> str:
    own, kept = report.training, report.training.kept
    rows = [
        ("method", METHODS.get(report.model.method, report.model.method)),
        ("learning parameters", f"{report.model.learning:,} of {report.model.parameters:,}"),
        ("prompt", report.model.prompt),
        ("studies per step", f"{own.batch:,}"),
        ("epochs", f"{len(own.history)} of at most {own.epochs}"),
        *(
            []
            if kept is None
            else [("kept", f"epoch {int(kept['epoch']) + 1}, validation loss {kept['validation_loss']:.4f} per token")]
        ),
        ("arithmetic", f"{own.precision} on {own.device}"),
        ("training processes", replicas_words(own) or "none"),
        ("sharded", zero_words(own)),
    ]
    return f"## Training\n\n{table(('what', 'how'), rows)}\n"


# Parts of the data card


def _generations(report: Report) -> str:
    rows = [
        (each.split, f"{each.reports:,}", f"{each.patients:,}", f"{each.cut:,}", f"{each.distinct:,}")
        for each in report.scored
    ]
    whose = "made by code" if report.data.phantom else "of patients: keep this folder where they may be kept"
    return f"""# {_TITLE}

{NOT_FOR_DIAGNOSIS}

{escaped(verdict(report))}

The table `generations` holds for each image the original report (`reference`), what the model wrote (`completion`)
and the scores of that report (`metrics`). The original reports are {whose}.

{table(("split", "reports", "patients", "ended by the limit", "different reports"), rows)}
"""


# Parts of both


def _scores(report: Report) -> str:
    parts = ["## Scores\n"]
    if not report.scored:
        parts.append("No report was scored.\n")
    for scored in report.scored:
        head = [
            "score",
            "original reports",
            *(["complete texts"] if scored.complete is not None else []),
            "what it says",
        ]
        rows = []
        for row in rows_of(scored):
            complete = [whole_words(row.complete)] if scored.complete is not None else []
            rows.append([row.name, whole_words(row.original), *complete, row.meaning])
        parts.append(
            f"{scored.reports:,} {scored.split} reports, in brackets 95 % intervals over patients.\n\n"
            f"{table(head, rows)}\n"
        )
        if scored.absent:
            parts.append(f"{bullets(scored.absent)}\n")
    return "\n".join([*parts, *_findings(report)])


def _findings(report: Report) -> list[str]:
    if report.main is None or not report.main.truth:
        return []
    rows = [
        (each.name, f"{each.positives:,}", f"{each.claimed:,}", str(each.precision), str(each.recall))
        for each in report.main.truth
    ]
    head = ("finding", "there", "claimed", "precision (95 %)", "recall (95 %)")
    return [f"Findings of the {report.main.split} reports, against {report.main.truth_words}:\n\n{table(head, rows)}\n"]


def _limits(report: Report) -> str:
    own = [
        "The model writes what training reports say of such images, omissions and habits included.",
        "What it does not mention may be there: a report is no list of everything that was ruled out.",
        "Findings are read from texts by rules, which err; a true finding that the original report leaves out counts as"
        " wrong against it.",
        "Other scanners, views, ages and hospitals than the training data's were not tested.",
    ]
    warnings = [each for each in warnings_of(report) if each != NOT_FOR_DIAGNOSIS]
    return f"## Limits\n\n{bullets([*warnings, *own])}\n"


def _made_by(report: Report) -> str:
    rows = [("configuration", report.config_hash or "not told"), ("seed", str(report.seed)), *report.versions.items()]
    return f"""## Made by

`jobs/finetune.py` of raymedlt; the configuration is in config.yaml, examples and curves are in report.html.

{table(("what", "which"), rows)}
"""
