"""Training: runners, hooks, strategies, optimizer constructors and checks before a run.

A config imports each module by naming it.
"""
