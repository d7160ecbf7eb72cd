"""The whole way: enrich reports, draw rare X-rays, classify, fine-tune, align, evaluate; one page leads to all.

python jobs/pipeline.py                                 # real OpenI reports and the phantom, offline, 18 minutes
python jobs/pipeline.py --describe                      # what would be done
python jobs/pipeline.py --stages '[finetune,align]'     # only these; others stay as they are
python jobs/pipeline.py --reports.path reports.csv --reports.format csv --images.path images --labels.path labels.csv
python jobs/pipeline.py --config mine.yaml              # a section for each job: enrich, synthesize, classify, ...
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from a checkout that isn't installed

from raymedlt.job import main
from raymedlt.pipeline.config import PipelineConfig
from raymedlt.pipeline.running import describe, run

if __name__ == "__main__":
    sys.exit(main(PipelineConfig, "python jobs/pipeline.py", describe, run))
