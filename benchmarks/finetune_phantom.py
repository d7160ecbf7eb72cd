"""Does a small vision-language model learn to see? On the phantom, whose complete texts say all that is there.

    python benchmarks/finetune_phantom.py                                # the job and its blind control; half an hour
    python benchmarks/finetune_phantom.py --output runs/learns -- --training.epochs 2

Runs `jobs/finetune.py --text.use complete` on the phantom twice, once as it is and once with `--blind true`: the same
texts, and one grey square instead of every image. Both are scored on held-out studies against the complete texts:
micro-F1 of present findings, with its interval over patients. Beside them the best that a report without an image can
reach: the F1 of claiming the same findings for everybody. Fails if the model stays below LEARNT, takes longer than
MINUTES (without its control), or if the control is better than chance.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

from common import report
from finetune_common import finetuned

LEARNT, MINUTES = 0.8, 20


def told(done: dict[str, Any]) -> dict[str, Any]:
    """The figures of a run."""
    scored = done["scored"]["test"]
    names = ("complete_micro_f1", "complete_micro_precision", "complete_micro_recall", "complete_macro_f1")
    return {
        **{name: scored["scores"][name] for name in names},
        "reports": scored["reports"],
        "distinct": scored["distinct"],
        "validation_loss": [round(line["validation_loss"], 4) for line in done["history"]],
        "seeing": [round(line["micro_f1"], 3) for line in done["seeing"]],
    }


def same_for_everybody(done: dict[str, Any]) -> float:
    """Largest micro-F1 of one list of findings for every report."""
    scored = done["scored"]["test"]
    positives = sorted((hits + missed for hits, _, missed in scored["findings"].values()), reverse=True)
    total, best, hits = sum(positives), 0.0, 0
    for claimed, count in enumerate(positives, 1):
        hits += count
        best = max(best, 2 * hits / (claimed * scored["reports"] + total))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", help="folder of the two runs, kept (default: a temporary one)")
    parser.add_argument("job", nargs="*", help="arguments of jobs/finetune.py, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.output or temporary
        words = ["--text.use", "complete", *arguments.job]
        seen = finetuned(f"{folder}/seen", words)
        blind = finetuned(f"{folder}/blind", ["--blind", "true", *words])
    seconds = sum(seen["seconds"].values())
    chance = same_for_everybody(seen)
    f1 = seen["scored"]["test"]["scores"]["complete_micro_f1"]["estimate"]
    control = blind["scored"]["test"]["scores"]["complete_micro_f1"]["estimate"] or 0.0
    missed = [
        *([f"micro-F1 {f1:.3f}, at least {LEARNT}"] if f1 < LEARNT else []),
        *([f"{seconds / 60:.0f} minutes, at most {MINUTES}"] if seconds > 60 * MINUTES else []),
        *([f"the control reaches {control:.3f}, chance is {chance:.3f}"] if control > chance + 0.02 else []),
    ]
    report(
        "finetune_phantom",
        {
            "seen": told(seen),
            "seconds": {name: round(each) for name, each in seen["seconds"].items()},
            "minutes": round(seconds / 60, 1),
            "blind": told(blind),
            "same for everybody": round(chance, 3),
            "missed": missed,
        },
    )  # fmt: skip
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
