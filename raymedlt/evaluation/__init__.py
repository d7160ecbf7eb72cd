"""How good written reports are: agreement in words, sentences, clusters and findings, and what is known of a difference.

Pure functions, for `finetuning` and `alignment` alike.
"""
