"""Reward a fine-tuned vision-language model for what its reports say (GRPO), while it is writing the next ones.

python jobs/align.py                                    # of runs/finetune, which is made first if it isn't there
python jobs/align.py --finetuned runs/my-writer --output runs/aligned  # of another finished run of jobs/finetune.py
python jobs/align.py --rewards.use '[exact_f1]' --output runs/exact
python jobs/align.py --finetuned s3://b/finetune --training.replicas 4 --rewards.pool actors --output s3://b/align
python jobs/align.py --describe                         # what would be done
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from a checkout that isn't installed

from raymedlt.alignment.config import AlignConfig
from raymedlt.alignment.running import describe, run
from raymedlt.job import main

if __name__ == "__main__":
    sys.exit(main(AlignConfig, "python jobs/align.py", describe, run))
