"""Arrow schemas of every table that crosses a job's border: the contract between rooms.

Columns are non-null unless a comment says otherwise; "" means "the source does not say".
"""

from __future__ import annotations

import pyarrow as pa

from raymedlt.errors import InputError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)

_TEXTS = pa.list_(pa.string())

# One radiology report, as every reader yields it.
REPORTS = pa.schema(
    [
        ("report_id", pa.string()),  # unique in a run
        ("study_id", pa.string()),
        # A string: parsing it as a number merges patients. Where the source doesn't say, the study's id.
        ("patient_id", pa.string()),
        ("split", pa.string()),  # one of SPLITS; a source without splits is all "train"
        ("findings", pa.string()),
        ("impression", pa.string()),
        ("indication", pa.string()),
        ("views", _TEXTS),  # as the source names them: "PA", "LATERAL"
        ("image_ids", _TEXTS),  # the source's image ids, or paths relative to the images' root
        ("labels", _TEXTS),  # the source's labels; enrichment never reads them
        ("language", pa.string()),  # "en", "es"
    ]
)

# What a reader writes for one shard: every row of the source, good (reason null) or bad (reason says why).
READ_ROWS = pa.schema(
    [*REPORTS, pa.field("row_id", pa.string()), pa.field("source", pa.string()), pa.field("reason", pa.string())]
)

REJECTED = pa.schema([("row_id", pa.string()), ("source", pa.string()), ("reason", pa.string())])

# A report's sentence, in reading order. `key` is what makes two sentences the same (see reports.sentences).
SENTENCES_OF_REPORTS = pa.schema(
    [
        ("report_id", pa.string()),
        ("section", pa.string()),  # "findings", "impression"
        ("position", pa.int32()),
        ("sentence_key", pa.string()),
        ("text", pa.string()),
    ]
)

ENRICHED = pa.schema(
    [
        ("report_id", pa.string()),
        ("study_id", pa.string()),
        ("patient_id", pa.string()),
        ("split", pa.string()),
        ("findings", pa.string()),
        ("enriched_findings", pa.string()),
        ("impression", pa.string()),
        ("indication", pa.string()),
        ("views", _TEXTS),
        ("image_ids", _TEXTS),
        ("labels", _TEXTS),
        ("language", pa.string()),
        ("added", pa.int32()),
        ("status", pa.string()),  # "enriched", "unchanged"
        ("why_unchanged", pa.string()),  # "" when enriched
        ("variant", pa.int32()),
    ]
)

ADDITIONS = pa.schema(
    [
        ("report_id", pa.string()),
        ("variant", pa.int32()),
        ("position", pa.int32()),  # 0 for the first added sentence
        ("sentence", pa.string()),
        ("sentence_key", pa.string()),
        ("cluster_id", pa.int32()),
        ("medoid", pa.string()),
        ("sign", pa.string()),
        ("support", pa.int32()),  # smallest support over the report's clusters
        ("confidence_min", pa.float32()),
        ("lift_lower", pa.float32()),
        ("purity", pa.float32()),
        ("guard", pa.string()),  # "passed", or "off" under the policy "paper" and the controls
        ("guard_nli", pa.float32()),  # largest probability of contradicting a sentence of the report; null: off
        ("guard_image", pa.string()),  # "passed", "abstained:<why>", or "off"
        ("witness", pa.list_(pa.int32())),  # the report's clusters that vouch for it, and the rest of the drawn set
        ("seed", pa.int64()),
        ("version", pa.string()),
    ]
)

REFUSALS = pa.schema(
    [
        ("report_id", pa.string()),
        ("cluster_id", pa.int32()),
        ("sentence_key", pa.string()),  # of the cluster's medoid donor
        ("reason", pa.string()),  # "contradicts:effusion", "restates:...", "unread:...", "view:...", "image:...", ...
    ]
)

SENTENCES = pa.schema(
    [
        ("section", pa.string()),
        ("sentence_key", pa.string()),
        ("text", pa.string()),  # the commonest spelling of the key
        ("count", pa.int32()),  # occurrences in training reports
        ("cluster_id", pa.int32()),  # -1 is noise, never a cluster
        ("probability", pa.float32()),
        ("assigned", pa.string()),  # "core", "second_chance", "noise"
        ("sign", pa.string()),
    ]
)

CLUSTERS = pa.schema(
    [
        ("section", pa.string()),
        ("cluster_id", pa.int32()),
        ("size", pa.int32()),  # distinct sentences
        ("occurrences", pa.int32()),  # sentences with repeats
        ("sign", pa.string()),
        ("purity", pa.float32()),
        ("medoid", pa.string()),
        ("persistence", pa.float32()),
    ]
)

EDGES = pa.schema(
    [
        ("section", pa.string()),
        ("source", pa.int32()),
        ("target", pa.int32()),
        ("support", pa.int32()),
        ("confidence", pa.float32()),
        ("lift", pa.float32()),
        ("lift_lower", pa.float32()),
        ("opposite", pa.int32()),  # studies with `source` that state the opposite of `target`
    ]
)


# What jobs/evaluate.py --what enrichment leaves.

RECOVERY = pa.schema(
    [
        ("report_id", pa.string()),
        ("position", pa.int32()),  # of the hidden sentence among the report's findings
        ("sentence_key", pa.string()),
        ("cluster_id", pa.int32()),  # of the clustering of the fitted part, not of the run
        ("guarded", pa.bool_()),
        ("outcome", pa.string()),  # "offered", "already said", "contradicts", "not linked", ...
    ]
)

CONTRADICTIONS = pa.schema(
    [
        ("report_id", pa.string()),
        ("source", pa.string()),  # "addition", "human": the report's own normal sentence
        ("sentence", pa.string()),
        ("denied", pa.string()),  # the finding that the sentence denies
        ("labelled", pa.string()),  # the finding that the report's labels name
    ]
)

INJECTIONS = pa.schema(
    [
        ("report_id", pa.string()),
        ("kind", pa.string()),  # "negation_flip", "side_flip", ...
        ("good", pa.bool_()),  # true: the sentence belongs to the report; false: a known error
        ("finding", pa.string()),  # what the sentence speaks of, "" if that isn't known
        ("sentence", pa.string()),
        ("origin", pa.string()),  # the report's sentence that an error contradicts; "" where there is none
        ("reason", pa.string()),  # why the guard refused; "" if it let the sentence through
    ]
)

AUDIT_KEY = pa.schema(
    [
        ("item", pa.string()),
        ("report_id", pa.string()),
        ("sentence_key", pa.string()),
        ("decoy", pa.string()),  # kind of the injected error; "" for an addition
        ("band", pa.string()),  # how often the addition's cluster was added: "common", "middle", "rare"
        ("group", pa.string()),  # what the sentence denies: "lungs", "pleura", ...
        ("cluster_id", pa.int32()),  # -1 for a decoy
    ]
)

VERDICTS = pa.schema(
    [
        ("item", pa.string()),
        ("reader", pa.string()),  # "reader_1", "reader_2"
        ("verdict", pa.string()),  # "agree", "contradicts", "restates", "unsure"
    ]
)


# What jobs/classify.py reads and leaves.

IMAGE_LABELS = pa.schema(
    [
        ("image_id", pa.string()),  # unique in a run
        ("study_id", pa.string()),
        ("patient_id", pa.string()),  # a string: parsing it as a number merges patients
        ("split", pa.string()),  # one of SPLITS; "" where the source has none
        ("view", pa.string()),
        ("source", pa.string()),  # which data set or hospital an image is from
        ("path", pa.string()),  # relative to the images' root; "" for a phantom, which is drawn
        ("labels", _TEXTS),  # classes that the image shows
        ("uncertain", _TEXTS),  # classes of which the source says that it can't tell
        ("unknown", _TEXTS),  # classes that the source does not speak of (not negative: no part in loss and metrics)
        ("synthetic", pa.bool_()),
    ]
)

PREDICTIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("patient_id", pa.string()),
        ("split", pa.string()),
        ("class", pa.string()),
        pa.field("label", pa.float32()),  # 1, 0; null where uncertain or unknown
        ("probability", pa.float32()),  # calibrated
    ]
)


# What jobs/synthesize.py leaves.

PLAN = pa.schema(
    [
        ("row_id", pa.string()),  # follows from the other columns
        ("label_set", _TEXTS),  # in the order of the classes
        ("prompt", pa.string()),
        ("seed", pa.int64()),  # of the image's noise, in [0, 2^63)
        ("checkpoint_hash", pa.string()),  # of the generator
        ("target", pa.string()),  # the rare class that the row is for; of a requested set its rarest
        ("number", pa.int64()),  # among the target's rows, from 0
        ("origin", pa.string()),  # of the label set: "real" (a real image's), "smoothed" or "requested"
        ("sides", _TEXTS),  # beside label_set: "left", "right", "both", ""
        ("severities", pa.list_(pa.float64())),  # beside label_set, 0 to 1; null where it isn't known
    ]
)

SYNTHETIC_IMAGES = pa.schema(
    [
        ("row_id", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),  # the Hugging Face image feature
        ("sha256", pa.string()),  # of the bytes
        ("accepted", pa.bool_()),
        ("reasons", _TEXTS),  # why it was refused; empty if it was accepted
        ("scores", pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())]))),
        ("synthetic", pa.bool_()),  # true
    ]
)


# What jobs/finetune.py leaves.

GENERATIONS = pa.schema(
    [
        ("report_id", pa.string()),
        ("image_id", pa.string()),
        ("patient_id", pa.string()),
        ("split", pa.string()),
        ("reference", pa.string()),  # the original report
        ("completion", pa.string()),  # what the model wrote
        # Of this report, NaN where undefined; names as in evaluation.scores.
        ("metrics", pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())]))),
    ]
)

# What jobs/finetune.py learns from and is scored on: a report joined with its image.
STUDIES = pa.schema(
    [
        ("report_id", pa.string()),
        ("patient_id", pa.string()),
        ("split", pa.string()),  # one of SPLITS
        ("image_id", pa.string()),
        ("image_row", pa.int64()),  # of the image among the prepared ones (_work/examples)
        ("targets", _TEXTS),  # what it teaches: training one or more, an epoch draws one; else the original alone
        ("tokens", pa.list_(pa.int32())),  # of each target, for the model that is trained
        ("reference_findings", pa.string()),  # the original report
        ("reference_impression", pa.string()),
        ("complete_findings", pa.string()),  # the text without omissions; only a phantom has it
        ("language", pa.string()),
    ]
)


# What jobs/evaluate.py leaves of any other run: its scores, and where there is one those of the run beside it.

SCORES = pa.schema(
    [
        ("name", pa.string()),
        ("part", pa.string()),  # a class, a finding, a group of classes; "" for all
        ("count", pa.int64()),  # of what it is over: images, reports, positives
        *(
            pa.field(name, pa.float64())  # null where undefined, and without another run
            for side in ("run", "against", "difference")
            for name in (side, f"{side}_low", f"{side}_high")
        ),
        pa.field("p", pa.float64()),  # two-sided, of the paired randomisation test; null where there was none
    ]
)

ITEM_SCORES = pa.schema(
    [
        ("item_id", pa.string()),  # of a report
        ("patient_id", pa.string()),
        ("name", pa.string()),
        pa.field("run", pa.float64()),  # NaN where undefined
        pa.field("against", pa.float64()),  # null without another run
    ]
)


def conform(table: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    """Order and cast `table`'s columns to `schema`.

    Raises:
        InputError: a column is missing; the message names it, the table and the columns that are there.
    """
    missing = [field.name for field in schema if field.name not in table.column_names]
    if missing:
        raise InputError(
            f"table '{name}' lacks the columns {missing}; it has {table.column_names}",
            f"the columns {schema.names}",
            "rename the columns, or give a column map with --reports.columns",
        )
    return table.select(schema.names).cast(schema)
