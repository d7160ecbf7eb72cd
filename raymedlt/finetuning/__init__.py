"""Vision-language models that write the report of a chest X-ray: fine-tuning, generation, export.

config.py        what can be set
"""
