"""The whole way in one run: every job in its turn, each a process of its own, and one page that leads to theirs.

config.py     a section per job, with sizes for a demonstration
steps.py      which jobs that makes, in which folders, and what each one needs
running.py    one after the other, resumable
headlines.py  what a finished job's card says
page.py       the page
"""
