"""One run, from its configuration to its scores.

resolve.py      the configuration, and the same resolved by its data
experiment.py   trains and evaluates it
offline.py      held-out scores of its checkpoint
folder.py       its folder; provenance.py: where its results come from
"""
