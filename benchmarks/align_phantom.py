"""Does GRPO with cluster rewards make reports better? The phantom, three seeds, against the fine-tuned models.

    python benchmarks/align_phantom.py --output runs/align_phantom       # fine-tunes three models first
    python benchmarks/align_phantom.py --output runs/align_phantom --runs runs/omissions

For each seed (another phantom, split and start) `python jobs/finetune.py` trains a model on the original reports, and
`python jobs/align.py` goes on from it with its default reward (strict cluster F1 and the F1 of findings), with the
strict cluster F1 alone and with exact sentences alone. All write reports for the same held-out studies. Over the
studies of all seeds together: scores, differences to the fine-tuned models and between the two lone rewards, with 95 %
intervals from the same resamples of patients and p of a paired randomisation test; and processor minutes of an
alignment. It fails unless the default raises the strict cluster F1 and the F1 of findings against the complete truth,
both intervals above 0, within MINUTES.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from common import report
from finetune_common import ROOT, finetuned, pooled, texts_of

MINUTES = 20.0
ARMS = {
    "default": ("cluster_f1_strict", "finding_f1"),
    "strict": ("cluster_f1_strict",),
    "exact": ("exact_f1",),
}
PAIRS = (*((arm, "fine-tuned") for arm in ARMS), ("strict", "exact"))
WORDS = ("--phantom.images=10000", "--training.keep=last", "--scoring.bootstrap=100", "--text.use=original")
SCORES = (
    "complete_micro_f1", "complete_micro_precision", "complete_micro_recall", "micro_f1", "sentence_f1", "report_f1",
    "false_denials", "bleu", "words",
)  # fmt: skip
CLUSTERS = ("cluster_f1_strict", "cluster_f1")
RESAMPLES, PERMUTATIONS = 1000, 2000


def aligned(folder: Path, words: list[str], core: int) -> dict[str, Any]:
    """Run the job on one processor; what it measured, with its processor minutes. A finished run is used as it is."""
    command = ["taskset", "--cpu-list", str(core), sys.executable, str(ROOT / "jobs" / "align.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"jobs/align.py ended with {done.returncode}\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    timings = json.loads((folder / "timings.json").read_text())
    return found | {"minutes": sum(timings["work"].values()) / 60}


def interval(found: Any) -> list[float]:
    """Estimate, low, high."""
    return [round(float(each), 4) for each in (found.estimate, found.low, found.high)]


def main() -> None:
    from raymedlt.clustering import ClusterModel
    from raymedlt.evaluation.paired import difference, mean_score, randomisation_test
    from raymedlt.evaluation.scores import evaluate
    from raymedlt.resampling import Patients

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", help="folder of the runs, kept (default: a temporary one)")
    parser.add_argument("--runs", help="folder with original-0, original-1, ... as finetune_omissions.py leaves them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("job", nargs="*", help="arguments of jobs/align.py, after --")
    given = parser.parse_args()
    free: SimpleQueue[int] = SimpleQueue()
    for core in sorted(os.sched_getaffinity(0)):
        free.put(core)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(given.output or temporary)
        bases = Path(given.runs) if given.runs else folder

        def tune(seed: int) -> None:
            core = free.get()
            try:
                finetuned(bases / f"original-{seed}", [*WORDS, "--seed", str(seed)], [core])
            finally:
                free.put(core)

        def align(run: tuple[str, int]) -> dict[str, Any]:
            arm, seed = run
            own, core = folder / f"{arm}-{seed}", free.get()
            words = ["--finetuned", str(bases / f"original-{seed}"), "--output", str(own), "--seed", str(seed)]
            try:
                return aligned(own, [*words, "--rewards.use", json.dumps(ARMS[arm]), *given.job], core)
            finally:
                free.put(core)

        seeds = list(range(given.seeds))
        runs = [(arm, seed) for seed in seeds for arm in ARMS]
        with ThreadPoolExecutor(free.qsize()) as workers:
            list(workers.map(tune, seeds))
            measured = dict(zip(runs, workers.map(align, runs), strict=True))
        texts = {
            arm: [
                texts_of(bases / f"original-{seed}", seed, None if arm == "fine-tuned" else folder / f"{arm}-{seed}")
                for seed in seeds
            ]
            for arm in ("fine-tuned", *ARMS)
        }
        models = [ClusterModel.load(folder / f"default-{seed}" / "clusters" / "findings") for seed in seeds]
        systems = {arm: evaluate(**pooled(parts)) for arm, parts in texts.items()}
        own = {
            arm: [evaluate(**part, clusters=model).per_report for part, model in zip(parts, models, strict=True)]
            for arm, parts in texts.items()
        }
        clusters = {
            (arm, name): mean_score(np.concatenate([each[name] for each in found]))
            for arm, found in own.items()
            for name in CLUSTERS
        }
        patients = Patients.of(pooled(texts["fine-tuned"])["patient_ids"])
        mean = {(arm, seed): own[arm][seed]["cluster_f1_strict"].mean() for arm in own for seed in seeds}
    how, missed = {"resamples": RESAMPLES, "seed": 0}, []
    table = {
        arm: {name: interval(system.interval(name, **how)) for name in SCORES}
        | {name: round(float(np.concatenate([each[name] for each in own[arm]]).mean()), 4) for name in CLUSTERS}
        for arm, system in systems.items()
    }
    differences = {}
    for arm, other in PAIRS:
        found = {name: interval(systems[arm].difference(systems[other], name, **how)) for name in SCORES}
        for name in CLUSTERS:
            pair = clusters[arm, name], clusters[other, name]
            found[name] = interval(difference(*pair, patients, **how))
            found[f"p of {name}"] = randomisation_test(*pair, patients, permutations=PERMUTATIONS, seed=0)
        for name in ("complete_micro_f1", "micro_f1"):
            test = systems[arm].randomisation_test(systems[other], name, permutations=PERMUTATIONS, seed=0)
            found[f"p of {name}"] = test
        differences[f"{arm} - {other}"] = found
    for name in ("cluster_f1_strict", "complete_micro_f1"):
        if not differences["default - fine-tuned"][name][1] > 0:
            missed.append(f"{name}: difference {differences['default - fine-tuned'][name]}, not above 0")
    longest = max(each["minutes"] for each in measured.values())
    if longest > MINUTES:
        missed.append(f"{longest:.1f} minutes, at most {MINUTES}")
    report(
        "align_phantom",
        {
            "reports": len(pooled(texts["fine-tuned"])["completions"]), "scores": table, "differences": differences,
            "runs": {
                f"{arm} {seed}": {
                    "minutes on one processor": round(found["minutes"], 1), "kept step": found["best_step"],
                    "validation reward": [round(each["reward"], 3) for each in found["validation"]],
                    "cluster_f1_strict": [round(float(mean["fine-tuned", seed]), 4), round(float(mean[arm, seed]), 4)],
                    "alarms": found["alarms"],
                    "kl at the end": round(found["history"][-1].get("kl", 0.0), 4),
                }
                for (arm, seed), found in measured.items()
            },
            "missed": missed,
        },
    )  # fmt: skip
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
