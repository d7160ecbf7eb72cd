"""Enrich radiology reports with the normal statements they leave out.

python jobs/enrich.py                                   # 3,955 real OpenI reports, offline, into runs/enrich
python jobs/enrich.py --reports.path reports.csv --reports.format csv --output runs/mine
python jobs/enrich.py --describe                        # what would be done; runs nothing
ray job submit --working-dir . -- python jobs/enrich.py --output s3://bucket/enriched
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from a checkout that isn't installed

from raymedlt.config import EnrichConfig
from raymedlt.enrichment.distributed import describe, run
from raymedlt.job import main

if __name__ == "__main__":
    sys.exit(main(EnrichConfig, "python jobs/enrich.py", describe, run))
