"""Train, evaluate and explain a long-tailed multi-label classifier of chest X-rays (TRCGL-Net).

python jobs/classify.py                                 # the procedural phantom, offline, into runs/classify
python jobs/classify.py --images.path images --labels.path labels.csv --output runs/mine
python jobs/classify.py --config configs/trcgl_net.yaml --images.path s3://bucket/images --labels.path s3://bucket/l.csv
python jobs/classify.py --ablate --output runs/ablate  # which part helps: trains each variant, with intervals
python jobs/classify.py --describe                      # what would be done; runs nothing
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from a checkout that isn't installed

from raymedlt.classifier.config import ClassifyConfig
from raymedlt.classifier.running import describe, run
from raymedlt.job import main

if __name__ == "__main__":
    sys.exit(main(ClassifyConfig, "python jobs/classify.py", describe, run))
