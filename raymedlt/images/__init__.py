"""Chest X-rays, from files and label tables to examples that can be learnt from.

config.py        sections of configuration that jobs over images share
readers.py       PNG, JPEG and DICOM files
labels.py (with label_files.py, label_formats.py)    label tables
splits.py        splits by patient, leak check, folds, frequency groups
augment.py       random changes, keyed by image
sampling.py      how often each image is drawn
phantom*.py      chest X-rays drawn by code from label sets, with their reports
preparing.py     label table and image files (or the phantom) to prepared shards
arranging.py     classes, splits, leak check
examples.py      rows beside their images
lite0.py         pretrained weights that need no download
stages.py        these as the first stages of a job
"""
