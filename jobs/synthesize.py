"""Draw chest X-rays of rare classes with a diffusion model, and keep those that show their labels and copy no patient.

python jobs/synthesize.py                               # the procedural phantom and a small model, offline
python jobs/synthesize.py --images.path images --labels.path labels.csv --output runs/mine
python jobs/synthesize.py --config configs/roentgen_v2.yaml --images.path s3://bucket/images --labels.path s3://bucket/l.csv
python jobs/synthesize.py --describe                    # what would be done and what it costs; draws nothing
python jobs/classify.py --synthetic.path runs/synthesize    # what the images are for
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from a checkout that isn't installed

from raymedlt.job import main
from raymedlt.synthesis.config import SynthesizeConfig
from raymedlt.synthesis.running import describe, run

if __name__ == "__main__":
    sys.exit(main(SynthesizeConfig, "python jobs/synthesize.py", describe, run))
