"""SemEnrich's claim in miniature: does a model learn more from enriched reports than from reports with omissions?

    python benchmarks/finetune_omissions.py --output runs/omissions       # 9 trainings; over an hour on two cores
    python benchmarks/finetune_omissions.py --seeds 1 -- --phantom.images 2000    # a try

`python jobs/finetune.py` on the phantom, whose reports leave out what its radiologist thought not worth saying, with
training texts as they are (original), with the statements that jobs/enrich.py adds (enriched), and with as many
statements drawn at random (random): the same images, model, epochs and seeds; the last epoch is kept in each, and
held-out references are never changed. A seed is another phantom, split and start. Scored against the complete texts
(what is there to be seen) and against the original references (what their radiologist would have written). The table
gives the scores of each, over the test studies of all seeds together, and the differences to `original` with 95 %
intervals over patients, on the same resamples, with p of a paired randomisation test, and at equal style (length,
sentences, share of normal ones). It fails only where runs cannot be compared: the direction of a difference is a
result, whatever it is.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from common import report
from finetune_common import finetuned, pooled, texts_of

ARMS = ("original", "enriched", "random")
WORDS = ("--phantom.images=10000", "--training.keep=last", "--scoring.bootstrap=100")
SCORES = (
    "complete_micro_f1", "complete_micro_precision", "complete_micro_recall", "complete_macro_f1",
    "complete_false_denials", "micro_f1", "micro_precision", "micro_recall", "macro_f1", "sentence_f1", "bleu", "chrf",
    "words",
)  # fmt: skip
TESTED = ("complete_micro_f1", "micro_f1")
CONTROLLED = ("complete_report_f1", "chrf")
RESAMPLES, PERMUTATIONS = 1000, 2000


def interval(found: Any) -> list[float | None]:
    """Estimate, low, high."""
    values = (float(each) for each in (found.estimate, found.low, found.high))
    return [round(each, 4) if math.isfinite(each) else None for each in values]


def main() -> None:
    from raymedlt.evaluation.scores import evaluate
    from raymedlt.evaluation.style import style_controlled, style_of

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", help="folder of the runs, kept (default: a temporary one)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--arms", nargs="+", default=list(ARMS), help="values of text.use; the first one is compared to"
    )
    parser.add_argument("job", nargs="*", help="arguments of jobs/finetune.py, after --")
    arguments = parser.parse_args()
    free: SimpleQueue[int] = SimpleQueue()
    for core in sorted(os.sched_getaffinity(0)):
        free.put(core)

    def go(run: tuple[int, str]) -> dict[str, Any]:
        seed, arm = run
        words = [*WORDS, "--text.use", arm, "--seed", str(seed), *arguments.job]
        core = free.get()  # a run on each processor
        try:
            return finetuned(folder / f"{arm}-{seed}", words, [core])
        finally:
            free.put(core)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.output or temporary)
        runs = [(seed, arm) for seed in range(arguments.seeds) for arm in arguments.arms]
        with ThreadPoolExecutor(free.qsize()) as pool:
            measured = dict(zip(runs, pool.map(go, runs), strict=True))
        systems, styles = {}, {}
        for arm in arguments.arms:
            texts = pooled([texts_of(folder / f"{arm}-{seed}", seed) for seed in range(arguments.seeds)])
            systems[arm], styles[arm] = evaluate(**texts), style_of(texts["completions"])
    first = systems[arguments.arms[0]]
    controlled = {}
    for name in CONTROLLED:
        values = {arm: system.per_report[name] for arm, system in systems.items()}
        found = style_controlled(values, styles, first.patients, resamples=RESAMPLES, seed=0)
        controlled[name] = {
            arm: {"difference": interval(each), "plain": round(found.plain[arm], 4),
                  "share of it that style does not explain": round(found.separable[arm], 3)}
            for arm, each in found.systems.items()
        }  # fmt: skip
    table, differences = {}, {}
    for arm, system in systems.items():
        table[arm] = {name: interval(system.interval(name, resamples=RESAMPLES, seed=0)) for name in SCORES}
        if system is not first:
            differences[f"{arm} - {arguments.arms[0]}"] = {
                name: interval(system.difference(first, name, resamples=RESAMPLES, seed=0)) for name in SCORES
            } | {
                f"p of {name}": system.randomisation_test(first, name, permutations=PERMUTATIONS, seed=0)
                for name in TESTED
            }
    report(
        "finetune_omissions",
        {
            "reports": len(first.per_report["words"]),
            "scores": table,
            "differences": differences,
            "differences at equal style": controlled,
            "runs": {
                f"{arm} {seed}": {
                    **{name: round(done["scored"]["test"]["scores"][name]["estimate"], 4) for name in TESTED},
                    "validation_loss": [round(line["validation_loss"], 4) for line in done["history"]],
                    "seconds": round(sum(done["seconds"].values())),
                }
                for (seed, arm), done in measured.items()
            },
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
