"""Synthesis under kill -9: a large plan that is cut off in the middle, and one whole run that is killed ten times.

    python benchmarks/synthesis_kills.py --scale                   # 10, 30 and 100 thousand rows; --workers 2
    python benchmarks/synthesis_kills.py --kills 10                # the whole job; --ray: killed while Ray draws
    python benchmarks/synthesis_kills.py --scale 600 1600 --workers 0    # tries
    python benchmarks/synthesis_kills.py --kills 2

--scale: the job's stages plan and draw in a fresh process, with a generator that is as small as one can be (random
weights, 32 pixels, one step, no guidance): drawing costs little, so that what else grows with the rows is seen. Time
is that of the plan, and of drawing from the moment when the first worker has loaded the generator; the exponent is the
slope of log(time) over log(rows), by the clock and by processor time (of the plan and in the workers). Memory is the
most that the driver had. The largest plan is drawn once more, with a kill -9 of all processes when half of its shards
are done. Fails if the exponent is above EXPONENT, if the driver's memory grows by more than BYTES_A_ROW (a row of the
plan takes about twice that, an image four times), if a row is missing, doubled or other than in the undisturbed run, or
if a finished shard was done again.

--kills: `python jobs/synthesize.py` with the arguments of its test, once undisturbed; then once more with so many
kill -9 of its process group, and the same command after each. The moments are drawn with a key, one in each
stage (ten of them, without two that only write a marker); with fewer kills in so many of them, and more are spread over
the time. A moment is as long after a marker of the ledger as it is in the undisturbed run. Fails unless images, plan,
gate, generator, classifier, metrics and all markers but the page's are the same to the byte, no row is there twice, and
nothing unfinished is left.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from common import report

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "jobs"))  # the tests' arguments and environment
from runs import ROOT, descendants, digests, environment

if TYPE_CHECKING:
    from raymedlt.synthesis.plan import Plan

SCALE = (10_000, 30_000, 100_000)
EXPONENT, BYTES_A_ROW, LEAST_SPREAD = 1.1, 256, 20_000
BATCH, SHARD_BATCHES = 64, 8
SEED = 0
SHORTEST = 0.03
"""Seconds of a stage that a kill can be aimed at."""
COMPARED = ("images", "plan", "gate", "generator", "classifier/model")
LOCK = "_ledger/driver.json"


# A large plan


def smallest() -> Any:
    """The smallest generator: 32 pixels, one block of the U-Net."""
    from raymedlt.synthesis.settings import SmallSizes

    return SmallSizes(
        size=32, vae_channels=(16, 16, 16), unet_channels=(16,), unet_plain_blocks=0, head_width=16, text_width=16,
        text_layers=1, prompt_tokens=16,
    )  # fmt: skip


def plan_and_draw(plan: Plan, generator: str, output: Path, workers: int) -> dict[str, Any]:
    """The two stages as running.py does them; resumes."""
    import torch
    from synthesis_speed import Clocked, clocks, opened, resident

    from raymedlt.machine import Settings
    from raymedlt.progress import Progress
    from raymedlt.runtime import connect, run_shards, run_shards_locally
    from raymedlt.synthesis.drawing import DRAW, MakeDrawer, write_plan
    from raymedlt.synthesis.settings import SamplerSettings

    torch.set_num_threads(1)
    sampling = SamplerSettings(batch=BATCH, shard_batches=SHARD_BATCHES, steps=1, guidance=1.0, precision="float32")
    clock = output.with_name(f"{output.name}.clock-{os.getpid()}")
    with contextlib.ExitStack() as stack:
        ledger = stack.enter_context(opened(output))
        before = resident()
        began, used = time.time(), time.process_time()
        shards = write_plan(plan, BATCH * SHARD_BATCHES, ledger)
        seconds = {"plan": time.time() - began}
        plan_cpu = time.process_time() - used
        make = MakeDrawer(ledger.worker(), generator, None, sampling, Settings("cpu", "float32", 1), 1)
        common: dict[str, Any] = {
            "progress": Progress(), "ledger": ledger, "actor_factory": Clocked(make, str(clock)), "unit": "images",
            "units": shards.__getitem__,
        }  # fmt: skip
        began = time.time()
        if workers:
            stack.enter_context(connect(workers))
            run_shards(DRAW, list(shards), None, workers=workers, cpus_per_worker=1.0, **common)
        else:
            run_shards_locally(DRAW, list(shards), None, workers=1, **common)
        ended = time.time()
        processes = clocks(clock)
        ready = min(lines[0]["at"] for lines in processes)
        seconds |= {"start-up": ready - began, "draw": ended - ready}
        own = sum(lines[-1]["cpu"] - lines[0]["cpu"] for lines in processes)
        return {
            "rows": len(plan),
            "shards": len(shards),
            "drawn now": sum(line["rows"] for lines in processes for line in lines),
            "seconds": {name: round(value, 2) for name, value in seconds.items()},
            "work": seconds["plan"] + seconds["draw"],
            "cpu": plan_cpu + own,
            "driver MB": {"before the plan": round(before / 1e6, 1), "at most": round(resident() / 1e6, 1)},
            "driver bytes": resident(),
            "worker MB at most": [round(lines[-1]["bytes"] / 1e6, 1) for lines in processes],
            "ms of a processor an image": round(1000 * own / max(1, sum(x["rows"] for y in processes for x in y)), 3),
        }


def scale(sizes: Sequence[int], workers: int) -> dict[str, Any]:
    """Time and memory of plans of these sizes, and a kill in the middle of the largest."""
    from synthesis_speed import planned, save_random

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generator = str(folder / "generator")
        checkpoint = save_random(generator, smallest())
        for rows in sizes:  # made here, so that the label table it comes from is no part of the driver's memory
            (folder / f"plan{rows}").write_bytes(pickle.dumps(planned(rows, checkpoint)))

        def command(rows: int, output: Path) -> list[str]:
            words = ["--draw", str(folder / f"plan{rows}"), "--output", str(output), "--generator", generator]
            return [sys.executable, __file__, *words, "--workers", str(workers)]

        found = [said(command(rows, folder / f"run{rows}")) for rows in sizes]
        undisturbed, output = folder / f"run{sizes[-1]}", folder / "killed"
        wrong = rows_wrong(undisturbed, sizes[-1])
        kill = killed_in_the_middle(command(sizes[-1], output), output, found[-1]["shards"])
        resumed = said(command(sizes[-1], output))
        wrong += rows_wrong(output, sizes[-1])
        again = [file for file, at in kill["finished"].items() if (output / file).stat().st_mtime_ns != at]
        if again:
            wrong.append(f"{len(again)} files of finished shards were written again")
        if tables(output) != tables(undisturbed):
            wrong.append("other bytes than in the undisturbed run")
    first, last = found[0], found[-1]
    growth = (last["driver bytes"] - first["driver bytes"]) / max(1, last["rows"] - first["rows"])
    exponents = {what: slope([each["rows"] for each in found], [each[key] for each in found])
                 for what, key in (("by the clock", "work"), ("by processor time", "cpu"))}  # fmt: skip
    missed = []
    if exponents["by the clock"] > EXPONENT:
        missed.append(f"exponent {exponents['by the clock']}, not {EXPONENT}")
    if growth > BYTES_A_ROW and last["rows"] - first["rows"] >= LEAST_SPREAD:
        missed.append(f"{growth:.0f} bytes of the driver's memory a row, not {BYTES_A_ROW}")
    hidden = ("driver bytes", "work", "cpu")
    return {
        "workers": workers,
        "runs": [
            {key: value for key, value in each.items() if key not in hidden}
            | {"work seconds": round(each["work"], 2), "cpu seconds": round(each["cpu"], 2)}
            for each in found
        ],
        "exponents": exponents,
        "driver's bytes a row": round(growth, 1),
        "killed": {
            "shards done at the kill": f"{kill['done']} of {last['shards']}",
            "images drawn after it": resumed["drawn now"],
            "seconds to resume": resumed["seconds"],
        },
        "wrong": wrong,
        "bars missed": missed,
    }


def said(command: Sequence[str]) -> dict[str, Any]:
    """What a process prints last."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr[-3000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def slope(rows: Sequence[int], values: Sequence[float]) -> float:
    """Exponent of values ~ rows^exponent, by least squares of the logarithms."""
    return round(float(np.polyfit(np.log(rows), np.log(values), 1)[0]), 3)


def killed_in_the_middle(command: Sequence[str], output: Path, shards: int) -> dict[str, Any]:
    """Start it, kill it and all that it started at half of its shards; what was finished, with the time of writing."""
    process = begin(command, output.with_name("killed.log"))
    markers = output / "_ledger" / "draw"
    while process.poll() is None and count(markers) < shards // 2:
        time.sleep(0.02)
    kill(process)
    finished: dict[str, int] = {}
    for marker in markers.glob("*.json"):
        names = [str(marker.relative_to(output)), *(file["name"] for file in json.loads(marker.read_text())["files"])]
        finished |= {name: (output / name).stat().st_mtime_ns for name in names}
    if not 0 < count(markers) < shards:
        sys.exit(f"killed at {count(markers)} of {shards} shards: not in the middle")
    return {"done": count(markers), "finished": finished}


def count(markers: Path) -> int:
    """Finished shards."""
    return len(list(markers.glob("*.json"))) if markers.is_dir() else 0


def rows_wrong(output: Path, rows: int) -> list[str]:
    """What is wrong with the drawn rows: each of the plan's must be there once, in its place."""
    wrong, names = [], Counter[str]()
    for plan in sorted((output / "plan").glob("*.parquet")):
        planned_rows = pq.read_table(plan, columns=["row_id"])["row_id"].to_pylist()
        drawn = pq.read_table(output / "_work" / "drawn" / plan.name, columns=["row_id"])["row_id"].to_pylist()
        if drawn != planned_rows:
            wrong.append(f"{plan.name} holds other rows than were planned")
        names.update(drawn)
    if len(names) != rows or set(names.values()) != {1}:
        wrong.append(f"{names.total()} rows of {len(names)} names, not {rows}")
    return wrong


def tables(output: Path) -> dict[str, str]:
    """sha256 of what was planned and drawn."""
    return {
        f"{folder}/{name}": of for folder in ("plan", "_work/drawn") for name, of in digests(output / folder).items()
    }


# Processes


def begin(command: Sequence[str], log: Path, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start it in a process group of its own."""
    with log.open("ab") as file:
        return subprocess.Popen(
            command, cwd=ROOT, env=env or environment(), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    """kill -9 of the process group, and of what it started in other groups (Ray's servers)."""
    others = descendants(process.pid) if process.poll() is None else {}
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pid in others:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# The whole job


class Moment(NamedTuple):
    """When to kill."""

    at: float
    """Seconds after the start of the undisturbed run."""
    after: str
    """The last marker that was there by then; "" for none."""
    delay: float
    """Seconds since that marker."""


def marker_times(output: Path, began: float) -> list[tuple[float, str]]:
    """Seconds from `began` to each marker, and its name; the classifier's ledger is one of its own."""
    paths = [path for path in output.rglob("_ledger/*/*.json") if not path.name.startswith((".", "_tmp"))]
    return sorted((path.stat().st_mtime - began, path.relative_to(output).as_posix()) for path in paths)


def stage_of(marker: str) -> str:
    """ "draw" of "_ledger/draw/x.json", "classifier" of "classifier/_ledger/train/x.json"."""
    return marker.removeprefix("_ledger/").partition("/")[0]


def stages(times: Sequence[tuple[float, str]]) -> dict[str, tuple[float, float]]:
    """Begin and end of each stage; it begins when the one before ends."""
    ends: dict[str, float] = {}
    for at, marker in times:
        ends[stage_of(marker)] = at
    found, before = {}, 0.0
    for name, end in sorted(ends.items(), key=lambda item: item[1]):
        found[name] = (before, end)
        before = end
    return found


def moments(times: Sequence[tuple[float, str]], kills: int, *key: str | int) -> list[Moment]:
    """So many moments: one in each stage that can be aimed at, or in so many of them; any more evenly over the time."""
    from raymedlt.seeds import generator

    rng = generator(SEED, "benchmark", "kills", kills, *key)
    spans, whole = [(start, end) for start, end in stages(times).values() if end - start >= SHORTEST], times[-1][0]
    staged = min(kills, len(spans))
    timed = kills - staged
    by_time = [whole * (k + rng.random()) / timed for k in range(timed)]
    drawn = [spans[int(len(spans) * (k + rng.random()) / staged)] for k in range(staged)]
    by_stage = [start + (end - start) * rng.random() for start, end in drawn]
    chosen = []
    for at in sorted([*by_time, *by_stage]):
        before = [(when, marker) for when, marker in times if when <= at]
        when, marker = before[-1] if before else (0.0, "")
        chosen.append(Moment(at, marker, at - when))
    return chosen


def at_work(process: subprocess.Popen[bytes], output: Path, after: str) -> bool:
    """Whether the marker is there and the process has come so far as to hold the output folder."""
    if not after:
        return True
    try:
        holder = json.loads((output / LOCK).read_bytes())["pid"]
    except (FileNotFoundError, ValueError):
        return False
    return bool(holder == process.pid and (output / after).exists())


def disturbed(command: Sequence[str], output: Path, times: Sequence[tuple[float, str]], kills: int) -> dict[str, Any]:
    """Run it to the end with so many kills."""
    log, told = output.with_name("killed.log"), []
    for moment in moments(times, kills):
        process, began = begin(command, log), time.time()
        while process.poll() is None and not at_work(process, output, moment.after):
            time.sleep(0.002)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment.delay)
        if process.poll() is not None:
            check_ended(process, log)
            break  # it was quicker than the undisturbed run, and has ended
        kill(process)
        last = [stage_of(marker) for _, marker in marker_times(output, began)][-1:] or ["nothing"]
        told.append(
            {
                "moment": f"{moment.at:.2f} of {times[-1][0]:.2f} s", "last marker of": last[0],
                "ran seconds": round(time.time() - began, 2),
            }
        )  # fmt: skip
    process = begin(command, log)
    process.wait()
    check_ended(process, log)
    return {"killed": told, "kills": len(told)}


def check_ended(process: subprocess.Popen[bytes], log: Path) -> None:
    """Nothing but a clean end will do."""
    if process.returncode:
        sys.exit(f"a run ended with {process.returncode}\n{log.read_text(errors='replace')[-3000:]}")


def whole_job(kills: int, ray: bool) -> dict[str, Any]:
    """The job undisturbed and disturbed, and what differs."""
    from test_synthesize_job import QUICK

    with tempfile.TemporaryDirectory() as name:
        calm, killed = Path(name) / "calm" / "run", Path(name) / "killed" / "run"
        for folder in (calm, killed):
            folder.parent.mkdir()
        command = [sys.executable, "jobs/synthesize.py", *QUICK]
        more = ["--ray_from=1", "--workers=2"] if ray else []  # where the work is done is no part of the result
        began, log = time.time(), calm.with_name("calm.log")
        process = begin([*command, "--output", str(calm)], log)
        process.wait()
        check_ended(process, log)
        seconds = time.time() - began
        times = marker_times(calm, began)
        found = disturbed([*command, *more, "--output", str(killed)], killed, times, kills)
        wrong, compared = differences(calm, killed)
        if found["kills"] < kills:
            wrong.append(f"{found['kills']} kills, not {kills}: a run was quicker than the undisturbed one")
        images = pq.read_table(killed / "images", columns=["row_id"])["row_id"].to_pylist()
    return {
        "undisturbed seconds": round(seconds, 2),
        "stages": {stage: round(end - start, 2) for stage, (start, end) in stages(times).items()},
        **found,
        "images": len(images),
        "files compared": compared,
        "wrong": wrong,
    }


def differences(calm: Path, killed: Path) -> tuple[list[str], int]:
    """What differs between the two runs, and how many files were compared."""
    wrong = []
    ours, theirs = result(killed), result(calm)
    wrong += [f"{name} differs" for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    for folder in ("plan", "images"):
        ids = pq.read_table(killed / folder, columns=["row_id"])["row_id"].to_pylist()
        if len(set(ids)) != len(ids):
            wrong.append(f"{len(ids) - len(set(ids))} rows of {folder} are there twice")
    wrong += [f"{path.name} is left over" for path in killed.rglob("_tmp*")]
    return wrong, len(theirs)


def result(output: Path) -> dict[str, str]:
    """sha256 of every file that must not depend on kills, by name."""
    found = {f"{folder}/{name}": of for folder in COMPARED for name, of in digests(output / folder).items()}
    markers = digests(output / "_ledger")
    found |= {f"_ledger/{name}": of for name, of in markers.items() if "/" in name and not name.startswith("finish/")}
    return found | {name: of for name, of in digests(output).items() if name == "metrics.json"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, nargs="*", help="rows of the plans, rising; multiples of 4")
    parser.add_argument("--workers", type=int, default=2, help="Ray actors that draw; 0: the driver does")
    parser.add_argument("--kills", type=int, default=0, help="of the whole job")
    parser.add_argument("--ray", action="store_true", help="the killed job works on Ray, the undisturbed one doesn't")
    for hidden in ("--draw", "--output", "--generator"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.draw:
        with contextlib.redirect_stdout(io.StringIO()):
            plan = pickle.loads(Path(given.draw).read_bytes())
            told = plan_and_draw(plan, given.generator, Path(given.output), given.workers)
        print(json.dumps(told))
        return
    if given.scale is None and not given.kills:
        parser.error("give --scale or --kills")
    found: dict[str, Any] = {}
    if given.scale is not None:
        found["scale"] = scale(given.scale or SCALE, given.workers)
    if given.kills:
        found["kills"] = whole_job(given.kills, given.ray)
    report("synthesis_kills", found)
    if any(part["wrong"] or part.get("bars missed") for part in found.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
