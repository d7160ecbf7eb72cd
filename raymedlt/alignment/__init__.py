"""Reinforcement of models that write reports: GRPO with rewards that know what a report says.

rewards.py     what a completion is worth: clusters, sentences, findings, words
form.py        how it is written: tags, repetition, length
similarity.py  how near the vectors of sentences are
severity.py    how much a cluster weighs (severity.csv)
reading.py     completions and references as sections
contract.py    a reward of your own: how it is named, and what it must keep to
pool.py        rewards computed beside the rollouts, by threads or Ray actors
dispatch.py    tickets, equal pairs, deadlines and errors of a pool
scheduler.py   which worker of a pool gets what, and how many there are
scoring.py     a recipe for rewards that travels to workers, and what a worker answers
config.py      keys of jobs/align.py; running.py the job, distributed.py its training under Ray Train
policy.py      a fine-tuned model as TRL wants it
trainer.py     TRL's GRPO whose completions go to a pool as they end
learning.py    one training: rollouts, checkpoints, a line per step
monitors.py    signs of a collapse
finish.py      both models' reports compared; page.py the page, card.py the cards

Source: SemEnrich (arXiv 2604.09887); where raymedlt differs, the module says so.
"""
