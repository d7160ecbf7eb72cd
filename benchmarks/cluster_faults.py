"""The jobs on a cluster of three nodes whose workers, actors, nodes and drivers are killed at random moments.

    python benchmarks/cluster_faults.py --folder faults --kills 60 --jobs enrich synthesize      # hours on 2 cores
    python benchmarks/cluster_faults.py --folder faults --kills 12 --jobs classify finetune align
    python benchmarks/cluster_faults.py --folder faults --kills 0                                # what there is

The cluster is Ray's own for tests: three raylets on this machine, a head without CPUs and two nodes with two each. A
job is `python jobs/<job>.py` with the arguments of its test, as a driver of this cluster: once undisturbed, then run
after run with some kills each, until so many of this job are spent. Trainings run with one replica and with two, by
turns. All that was found is kept in --folder: the same command goes on from there, and with more kills adds to it.

A kill's moment is drawn with a key, over the stages of the undisturbed run (see synthesis_kills.py), and so is its
kind:

    worker    a process that computes a shard (SIGKILL)
    actor     one that searches, draws, writes, rewards or trains
    node      a raylet with all its workers; after some seconds another node joins
    driver    the process that was started, and the same command again; or Ray Train's controller beside it

Where there is no worker or actor for some seconds after that moment, a node or the driver is killed instead. Fails
unless every run ends with exit code 0 and the bytes of the undisturbed one in all tables, models, metrics (without
times) and markers; no finished shard was computed again, and of the others only what was in the hands of a killed
process; and a training that begins again goes on from its last checkpoint. With two replicas the losses may differ by
TOLERANCE, relatively.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from common import report

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "jobs"))  # the tests' arguments and environment
from faults_account import apart, recomputed, result, steps_again
from nodes import Nodes
from runs import QUICK_FINETUNE, ROOT, arguments_of, small_reports
from synthesis_kills import Moment, at_work, begin, marker_times, moments, stage_of, stages

JOBS = ("enrich", "synthesize", "classify", "finetune", "align")
TRAININGS = ("classify", "finetune", "align")
TOLERANCE = 1e-3
CHECKPOINT_SECONDS = 4
"""Rare enough that a kill loses optimizer steps."""
CPUS = 2
"""Of each node; a job has as many workers."""
KINDS = ("worker", "actor", "node", "driver")
CONTROLLER, REPLICA = "ray::TrainController", "ray::RayTrainWorker"
ACTORS = ("ray::_Searcher", "ray::MapWorker", "ray::_Actor", REPLICA)
LONGEST = 1800.0
"""Seconds without an end after which a run counts as hung."""
PATIENCE = 15.0
"""Seconds to wait for a process of the kind that was drawn."""
UNTIL_JOINED = (0.0, 5.0)
"""Seconds until another node is started in a killed one's stead."""


class Case(NamedTuple):
    """A job and how many replicas its training has."""

    job: str
    replicas: int

    @property
    def name(self) -> str:
        return f"{self.job}-{self.replicas}" if self.job in TRAININGS else self.job


BASE = Case("finetune", 1)
"""Its undisturbed run is what jobs/align.py goes on from."""


def command_of(case: Case, folder: Path, output: Path) -> list[str]:
    """The job's command line."""
    words, own = ["--output", str(output)], [f"--training.replicas={case.replicas}"]
    workers, checkpoints = f"--workers={CPUS}", f"--training.checkpoint_seconds={CHECKPOINT_SECONDS}"
    match case.job:  # the tests of jobs import a lot
        case "enrich":
            words = arguments_of(reports_in(folder), output, workers, "--clustering.shard_points=20")
        case "synthesize":
            from test_synthesize_job import QUICK

            words += [*QUICK, workers]
        case "classify":
            from test_classify_job import PHANTOM

            words += [*PHANTOM, *own, workers, checkpoints]
        case "finetune":
            words += [*QUICK_FINETUNE, *own, workers, checkpoints]
        case "align":
            from test_align_job import SHORT

            words += [*SHORT, *own, "--rewards.deadline=900", "--finetuned", str(calm_folder(folder, BASE))]
    return [sys.executable, f"jobs/{case.job}.py", *words]


def reports_in(folder: Path) -> Path:
    """The source of jobs/enrich.py."""
    path = folder / "reports.csv"
    return path if path.exists() else small_reports(path)


def calm_folder(folder: Path, case: Case) -> Path:
    """Output of the undisturbed run."""
    return folder / "calm" / case.name / "run"


# One run


class Runner:
    """Runs commands as drivers of one cluster, and kills."""

    def __init__(self, nodes: Nodes, trace: Path) -> None:
        self.nodes, self.trace = nodes, trace
        self.joining: list[threading.Thread] = []
        self.process: subprocess.Popen[bytes] | None = None

    def begin(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a driver."""
        self.process = begin(command, log, self.nodes.environment())
        return self.process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the driver that is left, if any."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def calm(self, command: Sequence[str], log: Path) -> tuple[float, float]:
        """When an undisturbed run began, and the seconds it took."""
        began = time.time()
        process = self.begin(command, log)
        if process.wait():
            sys.exit(f"{' '.join(command)} ended with {process.returncode}\n{log.read_text(errors='replace')[-3000:]}")
        self.events()
        return began, time.time() - began

    def disturbed(
        self, command: Sequence[str], output: Path, planned: Sequence[tuple[Moment, str]], rng: random.Random
    ) -> dict[str, Any]:
        """A run with these kills, to its end."""
        log, told, failures = output.with_name("log"), [], 0
        began = started = time.time()
        process = self.begin(command, log)
        for moment, kind in planned:
            while process.poll() is None and not at_work(process, output, moment.after):
                if time.time() - started > LONGEST:
                    return self._hung(process, told, began, log)
                time.sleep(0.005)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment.delay)
            if process.poll() is not None:
                break
            last = [stage_of(marker) for _, marker in marker_times(output, began)][-1:] or ["nothing"]
            struck = self.strike(kind, process, rng)
            told.append({"kind": struck, "drawn": kind, "last marker of": last[0], "at": time.time() - began})
            if struck == "driver":
                process = self.begin(command, log)
                started = time.time()
        while True:
            try:
                process.wait(LONGEST)
            except subprocess.TimeoutExpired:
                return self._hung(process, told, began, log)
            if process.returncode == 0 or failures == 3:
                break
            failures += 1
            process = self.begin(command, log)
        for thread in self.joining:
            thread.join()
        return {"kills": told, "gave up": failures, "code": process.returncode, "seconds": time.time() - began}

    def strike(self, kind: str, process: subprocess.Popen[bytes], rng: random.Random) -> str:
        """One kill of this kind, or of another that is possible; says which it was."""
        ends = time.monotonic() + PATIENCE
        while kind in ("worker", "actor"):
            found = sorted(pid for pid, name in self.nodes.workers().items() if kind_of(name) == kind)
            if found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(found), signal.SIGKILL)
                    return kind
            elif time.monotonic() > ends or process.poll() is not None:
                kind = rng.choice(("node", "driver"))
            time.sleep(0.02)
        if kind == "node":
            for thread in self.joining:  # one node at a time: the job must have somewhere to go on
                thread.join()
            self.nodes.kill(rng.choice(self.nodes.raylets()))
            self.joining = [threading.Thread(target=self._join, args=(rng.uniform(*UNTIL_JOINED),))]
            self.joining[0].start()
            return kind
        names = self.nodes.workers()
        controllers = [pid for pid, name in names.items() if name.startswith(CONTROLLER)]
        if controllers and any(name.startswith(REPLICA) for name in names.values()) and rng.random() < 0.5:
            latest = max(controllers, key=lambda pid: Path(f"/proc/{pid}").stat().st_mtime)  # others have ended
            with contextlib.suppress(ProcessLookupError):
                os.kill(latest, signal.SIGKILL)
                return "controller"
        process.kill()
        process.wait()
        return "driver"

    def _join(self, seconds: float) -> None:
        time.sleep(seconds)
        self.nodes.add(CPUS)

    def _hung(self, process: subprocess.Popen[bytes], told: list[Any], began: float, log: Path) -> dict[str, Any]:
        process.kill()
        process.wait()
        return {"kills": told, "gave up": 0, "code": f"hung, see {log}", "seconds": time.time() - began}

    def events(self) -> list[dict[str, Any]]:
        """What the processes noted since the last call (see tracing/sitecustomize.py), in the order of time."""
        found = []
        for path in self.trace.iterdir():
            found += [json.loads(line) | {"pid": path.name} for line in path.read_text().splitlines()]
            path.unlink()
        return sorted(found, key=lambda event: float(event["at"]))


def kind_of(name: str) -> str:
    """Of a process, by the name that Ray gives it; "" for Ray's own actors."""
    if name.startswith("ray::Map("):
        return "worker"
    return "actor" if name.startswith(ACTORS) else ""


# All runs of a case


def wrong_of(case: Case, run: dict[str, Any]) -> list[str]:
    """What is wrong with a disturbed run."""
    found = list(run["differing"]) if case.replicas == 1 or run["losses apart"] > TOLERANCE else []
    if run["code"] != 0 or run["gave up"]:
        found.append(f"ended with {run['code']}, gave up {run['gave up']} times")
    found += [f"{name} was done and computed again" for name in run["shards"]["finished and again"]]
    if run["shards"]["rows again"] > run["shards"]["rows in killed hands"]:
        found.append("rows computed again that no killed process had in its hands")
    return found + [f"too many steps again, {each}" for each in run["steps"]["too many"]]


def kept_of(case: Case, folder: Path) -> dict[str, Any]:
    """What is known of a case."""
    file = folder / f"{case.name}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"runs": []}
    return found


def keep(case: Case, folder: Path, kept: dict[str, Any]) -> None:
    (folder / f"{case.name}.json").write_text(json.dumps(kept, indent=1))


def undisturbed(case: Case, folder: Path, runner: Runner) -> dict[str, Any]:
    """What is known of the case, after an undisturbed run if there was none."""
    kept, calm = kept_of(case, folder), calm_folder(folder, case)
    if "calm" not in kept:
        calm.parent.mkdir(parents=True, exist_ok=True)
        began, seconds = runner.calm(command_of(case, folder, calm), calm.with_name("log"))
        kept["calm"] = {"seconds": round(seconds, 1), "times": marker_times(calm, began)}
        keep(case, folder, kept)
        print(f"{case.name}: {seconds:.0f} s undisturbed", file=sys.stderr)
    return kept


def prove(case: Case, folder: Path, runner: Runner, kills: int, each: int, seed: int) -> None:
    """One more disturbed run of the case; adds to what is kept."""
    kept, calm = undisturbed(case, folder, runner), calm_folder(folder, case)
    times, number = [tuple(each) for each in kept["calm"]["times"]], len(kept["runs"])
    rng = random.Random(f"{seed}:{case.name}:{number}")
    kinds = list(KINDS) * (each // len(KINDS) + 1)
    rng.shuffle(kinds)
    planned = list(zip(moments(times, min(each, kills), seed, case.name, number), kinds, strict=False))
    output = folder / "killed" / case.name / str(number) / "run"
    shutil.rmtree(output.parent, ignore_errors=True)  # of an attempt that was cut off
    output.parent.mkdir(parents=True)
    run = runner.disturbed(command_of(case, folder, output), output, planned, rng)
    events = runner.events()
    ours, theirs = (result(one) for one in (output, calm))
    run |= {
        "shards": recomputed(events), "steps": steps_again(events), "files": len(theirs),
        "differing": sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)),
        "losses apart": apart(output, calm) if case.job in TRAININGS and run["code"] == 0 else 0.0,
    }  # fmt: skip
    run["wrong"] = wrong_of(case, run)
    kept["runs"].append(run)
    keep(case, folder, kept)
    print(f"{case.name} {number}: {len(run['kills'])} kills, {run['seconds']:.0f} s, {run['wrong']}", file=sys.stderr)


def told(case: Case, kept: dict[str, Any]) -> dict[str, Any]:
    """The figures of a case."""
    runs = kept["runs"]
    kills = [each for run in runs for each in run["kills"]]
    shards, steps = Counter[str](), Counter[str]()
    for run in runs:
        shards.update({key: value for key, value in run["shards"].items() if isinstance(value, int)})
        steps.update({key: value for key, value in run["steps"].items() if isinstance(value, int)})
    found = {
        "runs": len(runs), "kills": len(kills),
        "by kind": dict(Counter(each["kind"] for each in kills)),
        "by stage": dict(Counter(each["last marker of"] for each in kills)),
        "stages aimed at": sorted(stages([tuple(each) for each in kept["calm"]["times"]])),
        "files compared": max((run["files"] for run in runs), default=0),
        "runs with identical bytes": sum(not run["differing"] for run in runs),
        "computed again": dict(shards), "steps": dict(steps),
        "seconds undisturbed": kept["calm"]["seconds"],
        "seconds a kill more": round(sum(run["seconds"] - kept["calm"]["seconds"] for run in runs) / len(kills), 1)
        if kills else None,
        "wrong": [f"run {number}: {each}" for number, run in enumerate(runs) for each in run["wrong"]],
    }  # fmt: skip
    if case.replicas > 1:
        found |= {"losses apart": max((run["losses apart"] for run in runs), default=0.0), "tolerance": TOLERANCE}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="keeps runs and figures; the same one goes on")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS)
    parser.add_argument("--kills", type=int, default=20, help="of each job, those in --folder counted in")
    parser.add_argument("--each", type=int, default=8, help="kills in one run, at most")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2], help="of trainings, by turns")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder: Path = given.folder.absolute()
    trace = folder / "trace"
    trace.mkdir(parents=True, exist_ok=True)
    for left in trace.iterdir():
        left.unlink()

    def spent(cases: Sequence[Case]) -> int:
        return sum(len(run["kills"]) for case in cases for run in kept_of(case, folder)["runs"])

    cases = {
        job: [Case(job, replicas) for replicas in (given.replicas if job in TRAININGS else [1])] for job in given.jobs
    }
    if any(spent(own) < given.kills for own in cases.values()):
        path = f"{Path(__file__).parent / 'tracing'}{os.pathsep}{ROOT}"
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster ends too
        with Nodes((CPUS, CPUS), PYTHONPATH=path, RAYMEDLT_TRACE=str(trace)) as nodes, Runner(nodes, trace) as runner:
            if "align" in cases:
                undisturbed(BASE, folder, runner)
            for own in cases.values():
                while (done := spent(own)) < given.kills:
                    case = min(own, key=lambda each: len(kept_of(each, folder)["runs"]))
                    prove(case, folder, runner, given.kills - done, given.each, given.seed)
    every = {case: kept_of(case, folder) for own in cases.values() for case in own}
    found = {case.name: told(case, kept) for case, kept in every.items() if kept["runs"]}
    report("cluster_faults", {"kills": sum(each["kills"] for each in found.values()), "jobs": found})
    if any(each["wrong"] for each in found.values()) or any(spent(own) < given.kills for own in cases.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
