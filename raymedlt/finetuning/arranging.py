"""From prepared images and reports to studies, once per run.

_work/studies/all.parquet       schema.STUDIES, in the order of the images
rejected/studies.parquet        reports that teach nothing, and why
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raymedlt.errors import ConsistencyError, InputError
from raymedlt.finetuning.config import FinetuneConfig, data_of
from raymedlt.finetuning.controls import phantom_variants
from raymedlt.finetuning.report_runs import ReportRun
from raymedlt.finetuning.studies import (
    Studies,
    check_references,
    count_tokens,
    in_splits,
    join,
    phantom_reports,
)
from raymedlt.finetuning.texts import target_text
from raymedlt.images.examples import Examples
from raymedlt.images.preparing import LABELS_FILE, kind_of
from raymedlt.ledger import Ledger, LedgerHandle
from raymedlt.schema import SPLITS, TRAIN
from raymedlt.storage import Storage

STUDIES = "studies"
STUDIES_FILE = "_work/studies/all.parquet"
REJECTED_FILE = "rejected/studies.parquet"
PHANTOM = "phantom"

TokensOf = Callable[[Sequence[str]], Callable[[str], int]]
"""The training texts -> what counts the tokens of one text."""


def arrange_studies(
    config: FinetuneConfig,
    examples: Examples,
    run: ReportRun | None,
    ledger: Ledger | LedgerHandle,
    tokens_of: TokensOf,
    rejected_before: int = 0,
) -> dict[str, Any]:
    """Join, check and keep the studies; done before: say so again.

    Args:
        examples: prepared images with their final splits; their pixels are not looked at.
        run: where the reports are from; None: the phantom.
        tokens_of: makes the counter of tokens, of the model that is trained.
        rejected_before: rows that the stages of the images rejected.

    Returns:
        reports (rows in), studies and patients per split, rejected (reason -> reports), taught (training studies whose
        texts were changed), variants (training texts in all), tokens (median and largest, of training texts), and
        learnt_from_held_out (validation and test studies that the run of jobs/enrich.py took for training reports).

    Raises:
        InputError: no training study is left, or more rows were rejected than `config.max_rejected` allows.
        ConsistencyError: a report was lost or doubled, or a validation or test text was changed.
    """
    known = ledger.done(STUDIES, "table")
    if known is not None:
        return known
    images = ledger.storage.read_table(LABELS_FILE, ["image_id", "study_id"]) if run is not None else None
    reports = phantom_reports(data_of(config)) if run is None or images is None else run.image_reports(images)
    before = dict(zip(reports["report_id"].to_pylist(), reports["split"].to_pylist(), strict=True))
    reports = in_splits(reports, examples)
    source = PHANTOM if run is None else run.uri
    if run is None:
        variants = phantom_variants(reports, config.text, seed=config.seed, workers=config.workers)
    else:
        variants = run.variants(config.text.use)
    joined = join(reports, examples, variants, config.text.format, source)
    training = joined.studies.training_texts()
    if not training:
        raise InputError("no training study is left", "reports with findings", "see the table `rejected`")
    counted = count_tokens(joined.studies, tokens_of(training), config.text.max_tokens, source)
    studies, rejected = counted.studies, pa.concat_tables([joined.rejected, counted.rejected])
    check_references(studies, config.text.format)
    if len(studies) + rejected.num_rows != len(examples):
        raise ConsistencyError(
            f"{len(examples)} reports with images, {len(studies)} studies and {rejected.num_rows} rejected",
            "equal numbers", "--restart",
        )  # fmt: skip
    count, most = rejected_before + rejected.num_rows, config.max_rejected
    if most is not None and count > most:
        raise InputError(
            f"{count} rows were rejected, {rejected.num_rows} of them reports",
            f"at most {most} (--max_rejected)",
            "see the table `rejected`, mend the source, or allow more",
        )
    if not len(studies.of(TRAIN)):
        raise InputError(
            f"every training study has a text of more than {config.text.max_tokens} tokens",
            "some shorter ones",
            "raise --text.max_tokens",
        )
    storage = ledger.storage
    entries = [storage.write_table(STUDIES_FILE, studies.table())]
    if rejected.num_rows:
        entries.append(storage.write_table(REJECTED_FILE, rejected))
    held_out = studies.report_ids[studies.splits != TRAIN].tolist()
    summary = {
        "reports": len(examples),
        **_summary(studies, config),
        "rejected": dict(sorted(Counter(map(kind_of, rejected["reason"].to_pylist())).items())),
        "learnt_from_held_out": sum(before[name] == TRAIN for name in held_out) if run is not None else 0,
    }
    ledger.commit(STUDIES, "table", entries, summary)
    return summary


def _summary(studies: Studies, config: FinetuneConfig) -> dict[str, Any]:
    train = studies.of(TRAIN).tolist()
    tokens = np.array([count for n in train for count in studies.tokens[n]])
    own = [
        target_text(studies.reference_findings[n], studies.reference_impressions[n], config.text.format) for n in train
    ]
    return {
        "studies": {split: len(studies.of(split)) for split in SPLITS},
        "patients": {split: len(set(studies.patient_ids[studies.of(split)].tolist())) for split in SPLITS},
        "taught": sum(studies.targets[n] != (text,) for n, text in zip(train, own, strict=True)),
        "variants": len(tokens),
        "tokens": {"median": int(np.median(tokens)), "largest": int(tokens.max())},
    }


def read_studies(storage: Storage) -> Studies:
    """The studies of a run, as `arrange_studies` left them."""
    return Studies.of_table(storage.read_table(STUDIES_FILE))
