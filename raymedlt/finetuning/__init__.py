"""Vision-language models that write the report of a chest X-ray: fine-tuning, generation, export.

config.py        what can be set
texts.py         what is written, and how it is read back
studies.py       reports joined with their images
report_runs.py   reports out of a run of jobs/enrich.py, and their image files
controls.py      what training reports teach: enriched, random, paraphrased, complete texts
arranging.py     the studies of a run, made and checked once
lengths.py       steps of texts of similar length
feed.py          micro-batches, and the tensors made of them
"""
