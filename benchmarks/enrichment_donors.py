"""Are the sentences that enrichment donates fit for another patient's report?

    python benchmarks/enrichment_donors.py [any key of jobs/enrich.py]

OpenI findings sentences were read one by one, by their text alone: all donors of policy "safe" among some 250 that it
doesn't donate. One reader, no radiologist. Verdicts: fit (only denies, or states what is normal), dull (harmless, but a
word is missing), unfit (leans on its own report), abnormal. gold/openi_donors.csv names a sentence by its rank among
all sentence keys and the hash of its key. Fails when a sentence read as abnormal is donated.
"""

from __future__ import annotations

import collections
import sys

from common import labelled_keys, openi_reports, remembering, report, share

from raymedlt.config import EnrichConfig
from raymedlt.enrichment.audit.intervals import Share
from raymedlt.enrichment.memory import fit
from raymedlt.parsing import parse


def main() -> int:
    config = parse(EnrichConfig, sys.argv[1:], "python benchmarks/enrichment_donors.py")
    reports = openi_reports()
    knowledge, _ = fit(reports, config, remembering(config))
    donors = {knowledge.keys[number] for groups in knowledge.donors for each in groups for number in each.members}
    verdicts = labelled_keys(reports, "openi_donors.csv", "verdict")
    given = collections.Counter(verdict for key, verdict in verdicts.items() if key in donors)
    kept_back = collections.Counter(verdict for key, verdict in verdicts.items() if key not in donors)
    read = sum(given.values())
    report(
        "enrichment_donors",
        {
            "donors": len(donors),
            "read_of_them": read,
            "donated": dict(given),
            "abnormal": Share(given["abnormal"], read).to_json(),
            "unfit": Share(given["unfit"], read).to_json(),
            "kept_back": dict(kept_back),
            "fit_sentences_kept_back": share(kept_back["fit"], given["fit"] + kept_back["fit"]),
        },
    )
    return 1 if given["abnormal"] else 0


if __name__ == "__main__":
    sys.exit(main())
