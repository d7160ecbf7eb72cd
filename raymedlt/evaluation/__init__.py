"""How good written reports are: agreement in words, sentences, clusters and findings, and how sure a difference is.

Pure functions, for `finetuning` and `alignment` alike.
"""
