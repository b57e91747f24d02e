"""How good a model is: the synthetic world's judge, measures of any videos, VBench's sums, the paper's claim.

It may use everything that training does, and the trainers themselves; only the commands enter it.
"""
