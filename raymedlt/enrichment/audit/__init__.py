"""The audit of a finished enrichment run: four ways to find out how far its additions can be trusted.

evaluation.py      the job: reads a run, does the parts, leaves tables and a page
finished.py        a finished run, read back and learnt again from its own models
recovery.py        hidden sentences of unseen patients: are they offered back?
contradiction.py   additions against label tables that enrichment never saw
injection.py       known errors offered to the guard, and sentences known to be true (errors.py, denials_en.csv)
sheet.py           a blinded sample for two readers, and its key
readback.py        their verdicts
intervals.py       shares with Wilson's interval, Cohen's kappa
page.py            the page (parts.py)
inputs.py          CSV files that a person gives
"""
