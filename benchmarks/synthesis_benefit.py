"""What synthetic images are worth: tail average precision with them, without, and with copies of real images instead.

    python benchmarks/synthesis_benefit.py --synthetic runs/truth         # three seeds, twelve trainings; half an hour
    python benchmarks/synthesis_benefit.py --synthetic runs/truth -- --synthetic.weight 1

Takes a finished run of jobs/synthesize.py on the phantom, as benchmarks/synthesis_truth.py leaves one, and runs
`jobs/classify.py --synthetic.path ... --synthetic.compare` on the same phantoms with more test images: the generator
learnt from these training patients alone. Both ways of use (mixed in, pretrained on) beside the real images alone and
beside the fair control: real images of the same classes drawn as often as the synthetic ones. Differences are to the
first row, mixed in, so that a gain over a control is below 0; paired bootstrap over test patients.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from common import report

from raymedlt.storage import Storage

ROOT = Path(__file__).resolve().parents[1]
TEST_IMAGES, TEST_POSITIVES, EPOCHS, RATE = 3_000, 150, 8, 4e-3


def compared(synthetic: str, output: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the job on the images that the generator learnt from; what it says of the synthetic ones."""
    made = yaml.safe_load(Storage.of(synthetic).read_bytes("config.yaml"))
    phantom = made["phantom"] | {"test_images": TEST_IMAGES, "test_positives": TEST_POSITIVES}
    own = {
        "phantom": phantom, "images": made["images"], "labels": made["labels"], "seed": made["seed"],
        "synthetic": {"path": str(Path(synthetic).resolve()), "compare": True},
        "evaluation": {"members": arguments.seeds, "maps": 0},
        "training": {"stage2_epochs": EPOCHS, "rate": RATE, "backbone_rate": RATE},
    }  # fmt: skip
    Path(output).mkdir(parents=True, exist_ok=True)
    Path(f"{output}.yaml").write_text(yaml.safe_dump(own))
    command = [sys.executable, str(ROOT / "jobs" / "classify.py"), "--config", f"{output}.yaml", "--output", output]
    subprocess.run([*command, *arguments.job], check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(Storage.of(output).read_bytes("metrics.json"))["synthetic"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--synthetic", required=True, help="folder of a finished run of jobs/synthesize.py")
    parser.add_argument("--output", help="folder for the classifiers' runs, kept (default: a temporary one)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("job", nargs="*", help="arguments of jobs/classify.py, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.output or temporary
        found = compared(arguments.synthetic, f"{folder}/run", arguments)
    report("synthesis_benefit", {"seeds": arguments.seeds, "job": arguments.job, **found})


if __name__ == "__main__":
    main()
