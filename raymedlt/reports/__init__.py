"""Radiology text: readers, sections, sentence splitting, assertion and sign rules."""
