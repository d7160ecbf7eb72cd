"""README.md from top to bottom: every command as printed, in a fresh clone and a fresh environment, with its time.

    python benchmarks/readme.py --folder newcomer                  # three hours on two cores
    python benchmarks/readme.py --folder newcomer --only enrich    # commands with this word
    python benchmarks/readme.py --folder newcomer --list           # what would be run; runs nothing

What a reader brings (reports.csv, images, labels.csv, a module with a reward, mine.yaml) is made from the phantom and
put beside the clone's files. Commands that need what is not here (weights, credentialed data, a cloud) are listed with
the reason. A command that ended well is not run again by the same folder, so a cut run goes on. It fails where a
command ends with another exit code than 0.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import report

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "/data/mimic-cxr": "credentialed data; its layout is read in tests/reports",
    "convnextv2.safetensors": "weights that are not packaged",
    "roentgen-v2": "weights that are not packaged",
    "qwen2_5_vl_3b": "weights that are not packaged, and a GPU",
    "s3://": "a store; benchmarks/s3_jobs.py and submitted_jobs.py have one on loopback",
    "ray up": "a cloud account",
}
REWARD = '''"""A reward of one's own."""


def no_tubes(completions, references, model):
    return [0.0 if "tube" in completion.lower() else 1.0 for completion in completions]
'''


def commands() -> list[str]:
    """The lines of README's bash blocks, without comments."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    lines = (line.split("  #")[0].strip() for block in blocks for line in block.splitlines())
    return [line for line in lines if line]


def why_not(command: str) -> str:
    """Why a command can't be run here; "" if it can."""
    return next((reason for word, reason in ELSEWHERE.items() if word in command), "")


def bring(clone: Path) -> None:
    """What a reader has: reports, images and labels of the same studies, a reward, a configuration."""
    import yaml
    from job_words import WORDS

    from raymedlt.images.phantom import draw
    from raymedlt.images.phantom_cohort import cohort, findings_of
    from raymedlt.synthesis.sampler import encode_png

    (clone / "images").mkdir(exist_ok=True)
    made = cohort(1500, seed=3, classes=8, test_images=200, test_positives=10).table.to_pylist()
    with (clone / "reports.csv").open("w", newline="") as one, (clone / "labels.csv").open("w", newline="") as other:
        reports, labels = csv.writer(one), csv.writer(other)
        reports.writerow(["report_id", "study_id", "patient_id", "split", "findings", "impression", "image_ids"])
        labels.writerow(["image", "patient_id", "labels"])
        for number, row in enumerate(made):
            name, found = f"image{number}", findings_of(row["findings"])
            split = row["split"] if row["split"] in ("train", "validation") else "test"
            reports.writerow([f"r{number}", f"s{number}", row["patient_id"], split, row["text_findings"], "", name])
            labels.writerow([f"{name}.png", row["patient_id"], "|".join(row["labels"]) or "No Finding"])
            (clone / "images" / f"{name}.png").write_bytes(
                encode_png(draw(found, seed=3, image_id=row["image_id"], size=64))
            )
    (clone / "my_package").mkdir(exist_ok=True)
    (clone / "my_package" / "__init__.py").touch()
    (clone / "my_package" / "rewards.py").write_text(REWARD)
    mine: dict[str, Any] = {}
    for word in WORDS["pipeline"]:  # a small way
        name, _, value = word.removeprefix("--").partition("=")
        if "{root}" not in value and name != "reports.format":
            *path, last = name.split(".")
            section = mine
            for each in path:
                section = section.setdefault(each, {})
            section[last] = yaml.safe_load(value)
    (clone / "mine.yaml").write_text(yaml.safe_dump(mine))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="clone, environment and results; the same goes on")
    parser.add_argument("--only", default="", help="commands with this word")
    parser.add_argument("--list", action="store_true", help="what would be run")
    given = parser.parse_args()
    wanted = [command for command in commands() if given.only in command]
    if given.list:
        print("\n".join(f"{'no: ' + why_not(each) if why_not(each) else 'yes':60.60} {each}" for each in wanted))
        return
    folder: Path = given.folder.absolute()
    clone, venv, kept = folder / "clone", folder / "venv", folder / "done.json"
    done: dict[str, dict[str, object]] = json.loads(kept.read_text()) if kept.exists() else {}
    if not clone.exists():
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        bring(clone)
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    own |= {"PATH": f"{venv / 'bin'}{os.pathsep}{own['PATH']}", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    for number, command in enumerate(commands()):  # a command's log has the same name whatever --only says
        if command not in wanted or why_not(command) or done.get(command, {}).get("exit code") == 0:
            continue
        began = time.monotonic()
        with (folder / f"log-{number:02d}").open("w") as log:
            code = subprocess.run(
                ["bash", "-c", command], cwd=clone, env=own, stdout=log, stderr=subprocess.STDOUT, check=False
            ).returncode
        done[command] = {"exit code": code, "seconds": round(time.monotonic() - began, 1), "log": log.name}
        kept.write_text(json.dumps(done, indent=1))
        print(f"{done[command]['seconds']:>8} s  {code}  {command}", file=sys.stderr, flush=True)
    failed = [command for command in wanted if done.get(command, {}).get("exit code", 0) != 0]
    left = {command: why_not(command) for command in wanted if why_not(command)}
    report("readme", {"commands": {each: done[each] for each in wanted if each in done}, "not run": left,
                      "failed": failed})  # fmt: skip
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
