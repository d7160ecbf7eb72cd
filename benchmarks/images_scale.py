"""How labels, prepare and arrange grow with the number of images: time, bytes and memory, and the exponents.

    python benchmarks/images_scale.py --folder images                     # 4,000 and 20,000 images; 4 GB of disk
    python benchmarks/images_scale.py --folder images --sizes 2000 8000 --pixels 256

The files are PNGs of as many pixels a side as --pixels says: DRAWN phantoms, each stored many times with another tail
behind its last chunk, so that no two files are the same and decoding is that of real ones. Each size is a fresh process
without Ray, one thread per CPU, as jobs/classify.py, synthesize.py and finetune.py begin. Written: seconds by the clock
and of the processor for each stage, bytes that remain per image, peak memory of the process beyond what it held before,
and the exponents between the smallest and the largest size. It fails where an image is lost or rejected.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import report

DRAWN = 200
PER_FOLDER = 1_000


def bring(folder: Path, count: int, pixels: int) -> Path:
    """Image files and a label table; made once."""
    from raymedlt.images.phantom import draw
    from raymedlt.images.phantom_cohort import cohort, findings_of
    from raymedlt.synthesis.sampler import encode_png

    table = folder / f"labels-{count}.csv"
    if table.exists():
        return table
    rows = cohort(DRAWN, seed=5, test_images=0, test_positives=0, texts=False).table.to_pylist()[:DRAWN]
    images = [
        encode_png(draw(findings_of(row["findings"]), seed=5, image_id=row["image_id"], size=pixels)) for row in rows
    ]
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "patient_id", "labels"])
        for number in range(count):
            name = f"{number // PER_FOLDER:04d}/{number:07d}.png"
            path = folder / "images" / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(images[number % DRAWN] + number.to_bytes(8, "big"))
            writer.writerow([name, f"p{number // 2}", "|".join(rows[number % DRAWN]["labels"]) or "No Finding"])
    return table


def run(folder: Path, table: Path, count: int, output: Path) -> dict[str, Any]:
    """The three stages in this process."""
    from raymedlt.cpus import cpus
    from raymedlt.images import stages
    from raymedlt.images.config import DataConfig, ImageLabelsConfig, ImagesConfig
    from raymedlt.ledger import Ledger
    from raymedlt.progress import Progress
    from raymedlt.storage import Storage

    config = DataConfig(
        images=ImagesConfig(path=str(folder / "images")), labels=ImageLabelsConfig(path=str(table)),
        workers=cpus(), ray_from=sys.maxsize,
    )  # fmt: skip
    times: dict[str, tuple[float, float]] = {}
    storage = Storage.of(str(output))
    with Ledger.open(storage, config_hash="c", config={}, data_hash="d") as ledger:
        made = stages.DataStages(config, storage, ledger, Progress(), lambda: None)
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        parts: list[tuple[str, Any]] = [
            ("labels", made._labels),
            ("prepare", lambda: made._prepare(storage.read_table(stages.LABELS_FILE))),
            ("arrange", lambda: made._arrange(storage.read_table(stages.LABELS_FILE), made._labels()["classes"])),
        ]
        for name, part in parts:
            began = time.monotonic(), time.process_time()
            part()
            times[name] = time.monotonic() - began[0], time.process_time() - began[1]
        kept = made.prepared_images()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    left = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    return {
        "images": count, "kept": kept,
        "seconds": {name: round(clock, 2) for name, (clock, _) in times.items()},
        "processor seconds": {name: round(used, 2) for name, (_, used) in times.items()},
        "bytes that remain": left, "megabytes of memory more": round((usage.ru_maxrss - held) / 1024, 1),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="images and outputs, kept")
    parser.add_argument("--sizes", type=int, nargs="+", default=[4_000, 20_000])
    parser.add_argument("--pixels", type=int, default=512, help="a side; NIH's files have 1,024")
    parser.add_argument("--inside", type=int, help=argparse.SUPPRESS)  # the process of one size
    given = parser.parse_args()
    folder = (given.folder / str(given.pixels)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if given.inside:
        output = folder / f"run-{given.inside}-{os.getpid()}"
        print(json.dumps(run(folder, bring(folder, given.inside, given.pixels), given.inside, output)))
        return 0
    if len(set(given.sizes)) < 2:
        parser.error("--sizes: two or more, or there is no growth to see")
    found = []
    for size in sorted(given.sizes):
        bring(folder, size, given.pixels)
        words = [sys.executable, __file__, "--folder", str(given.folder), "--pixels", str(given.pixels)]
        done = subprocess.run([*words, "--inside", str(size)], stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    first, last = found[0], found[-1]
    spread = math.log(last["images"] / first["images"])

    def exponent(value: Any) -> float:
        return round(math.log(max(value(last), 1e-9) / max(value(first), 1e-9)) / spread, 3)

    exponents = {
        f"{name}, processor time": exponent(lambda each, name=name: each["processor seconds"][name])
        for name in ("labels", "prepare", "arrange")
    }
    exponents |= {
        "all, by the clock": exponent(lambda each: sum(each["seconds"].values())),
        "bytes": exponent(lambda each: each["bytes that remain"]),
    }
    lost = [each["images"] for each in found if each["kept"] != each["images"]]
    a_file = next((folder / "images").rglob("*.png")).stat().st_size
    report(
        "images_scale",
        {
            "pixels": given.pixels, "bytes of a file": a_file, "sizes": found, "exponents": exponents,
            "images prepared a second and core": round(last["images"] / last["processor seconds"]["prepare"], 1),
            "bytes that remain an image": round(last["bytes that remain"] / last["images"]),
            "sizes that lost images": lost,
        },
    )  # fmt: skip
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main())
