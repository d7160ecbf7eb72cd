"""Judges of finished runs, alone or two of a kind against each other (jobs/evaluate.py).

finished.py    a finished run's tables, checked against its manifest
judged.py      what every judge finds: scores, tables, sections of the page; and the blocks that they share
generation.py  written reports
texts.py       what a run wrote, and what is known of the studies
readings.py    reports of two runs beside the original ones: those that differ most
classifier.py  predictions
synthesis.py   drawn images
additions.py   two enrichment runs (one alone is audited: enrichment/audit)
running.py     the job

A room above the capabilities: it may use their insides, and none of them uses it.
"""
