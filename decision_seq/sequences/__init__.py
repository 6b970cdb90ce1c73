"""From a store to a Batch.

conditioning/   the hindsight label of every step, the prompt of a rollout, and how it advances
windows.py      window ids, a function of (seed, step); windows gathered into a Batch
selection.py    the best X %, held-out episodes; transforms.py: delayed rewards
tokenizer.py    numbers as tokens: bins by quantiles or equal widths
device.py       windows from host memory, or from a copy of the columns on the device
"""
