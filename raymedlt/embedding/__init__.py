"""Sentences to unit vectors. Nothing heavy is imported until an encoder is made."""
