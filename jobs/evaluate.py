"""Judge a finished run: how good is what it made, and is it better than another run's?

python jobs/evaluate.py --what enrichment --run runs/enrich            # an audit: can the additions be trusted?
python jobs/evaluate.py --what enrichment --run runs/enrich --labels.path labels.csv --output runs/evaluate-labels
python jobs/evaluate.py --what enrichment --run runs/enrich --sheet.read filled.csv   # the readers' verdicts
python jobs/evaluate.py --what generation --run runs/align --against runs/finetune --output runs/better
python jobs/evaluate.py --what classifier --run runs/classify --against runs/real-only --output runs/worth
python jobs/evaluate.py --what synthesis --run runs/synthesize --output runs/drawn
python jobs/evaluate.py --what generation --run runs/finetune --describe # what would be done; runs nothing
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from a checkout that isn't installed

from raymedlt.evaluation.config import EvaluateConfig
from raymedlt.job import main
from raymedlt.judging.running import describe, run

if __name__ == "__main__":
    sys.exit(main(EvaluateConfig, "python jobs/evaluate.py", describe, run))
