"""Audit a finished run: how far can what it made be trusted?

python jobs/evaluate.py --what enrichment --run runs/enrich            # into runs/evaluate; a page, tables, a sheet
python jobs/evaluate.py --what enrichment --run runs/enrich --describe # what would be done; runs nothing
python jobs/evaluate.py --what enrichment --run runs/enrich --labels.path labels.csv --output runs/evaluate-labels
python jobs/evaluate.py --what enrichment --run runs/enrich --sheet.read filled.csv   # the readers' verdicts
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from a checkout that isn't installed

from raymedlt.config import EvaluateConfig
from raymedlt.enrichment.audit.evaluation import describe, run
from raymedlt.job import main

if __name__ == "__main__":
    sys.exit(main(EvaluateConfig, "python jobs/evaluate.py", describe, run))
