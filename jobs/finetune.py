"""Teach a vision-language model to write the report of a chest X-ray, and score what it writes.

python jobs/finetune.py                                 # the procedural phantom and a small model, offline
python jobs/finetune.py --text.use enriched --output runs/enriched
python jobs/finetune.py --blind true --output runs/blind    # the control: the model sees no image
python jobs/finetune.py --text.enriched runs/enrich --images.path images --images.size 224 --model.path models/qwen
python jobs/finetune.py --config configs/qwen2_5_vl_3b.yaml --text.enriched s3://b/enrich --images.path s3://b/images
python jobs/finetune.py --describe                      # what would be done, and how much memory it takes
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from a checkout that isn't installed

from raymedlt.finetuning.config import FinetuneConfig
from raymedlt.finetuning.running import describe, run
from raymedlt.job import main

if __name__ == "__main__":
    sys.exit(main(FinetuneConfig, "python jobs/finetune.py", describe, run))
