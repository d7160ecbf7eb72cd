"""Do accepted images show what they were drawn for? Phantoms have the truth; another classifier is asked.

    python benchmarks/synthesis_truth.py --run runs/truth                 # default run of the job, then the judge
    python benchmarks/synthesis_truth.py --run runs/truth -- --seed 1     # the same with other arguments of the job

Runs jobs/synthesize.py on the phantom (a finished run is used as it is) and asks the judge (synthesis_judge.py: a
classifier of other phantoms, with other ids and another seed) whether each drawn image shows the class that it is for:
among all that were drawn, among those that the gate accepted, among those that it refused. Beside them: what the judge
says of real phantoms of the class (its sensitivity) and of others (1 - specificity). With Wilson's 95 % intervals.
Fails below the bars: of the accepted images 80 % show their class, a fifth is accepted, 50 per class are, and the share
is higher than before the gate.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import report
from synthesis_judge import Judge, judge_of

from raymedlt.intervals import wilson
from raymedlt.storage import Storage
from raymedlt.synthesis.measuring import pixels_of

ROOT = Path(__file__).resolve().parents[1]
SHOWN, ACCEPTANCE, ACCEPTED = 0.8, 0.2, 50
Mask = npt.NDArray[np.bool_]


def synthesized(folder: str, arguments: list[str]) -> None:
    """Run the job, or go on with it."""
    command = [sys.executable, str(ROOT / "jobs" / "synthesize.py"), "--output", folder, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def share(part: Mask) -> list[float] | None:
    """Share of True with its interval; None of nothing."""
    if not len(part):
        return None
    return [round(each, 3) for each in (float(part.mean()), *wilson(int(part.sum()), len(part)))]


def asked(folder: str, judge: Judge) -> tuple[dict[str, Any], list[str]]:
    """Figures of a finished run, per class and of all planned images, and the bars that are missed."""
    storage = Storage.of(folder)
    plan, images = storage.read_folder("plan", ["row_id", "target"]), storage.read_folder("images")
    if plan["row_id"].to_pylist() != images["row_id"].to_pylist():
        raise SystemExit("plan and images differ in their rows")
    targets = np.array(plan["target"].to_pylist())
    accepted = np.array(images["accepted"].to_pylist())
    shown_BC = judge.shows(np.stack([pixels_of(cell["bytes"]) for cell in images["image"].to_pylist()]))
    column = np.array([judge.classes.index(name) for name in targets])
    shown = shown_BC[np.arange(len(targets)), column]
    names = list(dict.fromkeys(targets.tolist()))
    found: dict[str, Any] = {name: _figures(targets == name, shown, accepted) for name in names}
    for name in names:
        number = judge.classes.index(name)
        found[name]["judge"] = {
            "real ones": round(float(judge.sensitivity_C[number]), 3),
            "others": round(float(1 - judge.specificity_C[number]), 3),
        }
    found["all"] = whole = _figures(np.ones(len(targets), bool), shown, accepted)
    missed = [f"{name}: {found[name]['accepted']} accepted" for name in names if found[name]["accepted"] < ACCEPTED]
    missed += [
        f"{name}: {found[name]['shown by accepted'][0]:.0%} of the accepted show it"
        for name in names
        if found[name]["shown by accepted"] is not None and found[name]["shown by accepted"][0] < SHOWN
    ]
    if whole["acceptance"] < ACCEPTANCE:
        missed.append(f"{whole['acceptance']:.0%} accepted")
    if not accepted.any() or whole["shown by accepted"][0] <= whole["shown by drawn"][0]:
        missed.append("the gate does not raise the share")
    return found, missed


def _figures(own: Mask, shown: Mask, accepted: Mask) -> dict[str, Any]:
    return {
        "drawn": int(own.sum()),
        "accepted": int(accepted[own].sum()),
        "acceptance": round(float(accepted[own].mean()), 3),
        "shown by drawn": share(shown[own]),
        "shown by accepted": share(shown[own & accepted]),
        "shown by refused": share(shown[own & ~accepted]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="folder of the job's run, kept (default: a temporary one)")
    parser.add_argument("--judge", help="folder of the judge's run, kept (default: beside the job's)")
    parser.add_argument("job", nargs="*", help="arguments of jobs/synthesize.py, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.run or f"{temporary}/run"
        synthesized(folder, arguments.job)
        judge = judge_of(arguments.judge or f"{folder}-judge")
        found, missed = asked(folder, judge)
    report("synthesis_truth", {"classes": found, "judge": judge.told(), "missed": missed})
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
