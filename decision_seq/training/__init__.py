"""Training: data -> windows -> loss -> update.

launch.py       launch of one or several processes, and communication between them
config.py       settings of the optimizer and of the loop
optimizers.py   registry of optimizers; groups.py: their parameter groups
update.py       one update; graph.py: the same as one CUDA graph
parallel.py     one model over several processes, whole or sharded
trainer.py      the loop: update, log, save, evaluate
evaluations.py  evaluations during training; best.py: record of the best checkpoint
averages.py     moving average of the weights
signals.py, metrics.py, throughput.py
"""

from decision_seq.training.config import TrainConfig
from decision_seq.training.launch import Ranks, start_accelerator
from decision_seq.training.signals import Interrupted
from decision_seq.training.trainer import Job, Trainer
from decision_seq.training.update import masked_mean

__all__ = [
    "Interrupted",
    "Job",
    "Ranks",
    "TrainConfig",
    "Trainer",
    "masked_mean",
    "start_accelerator",
]
