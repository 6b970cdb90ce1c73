"""Training: data -> windows -> loss -> update.

launch.py      how many processes train together, and how they speak
config.py      what the optimiser and the loop are told
source.py      windows, from host memory or from the device
update.py      one update; graph.py: the same as one CUDA graph
parallel.py    one model over several processes, whole or sharded
trainer.py     the loop: update, look, save, evaluate
signals.py, metrics.py, throughput.py
"""

from decision_seq.train.config import TrainConfig
from decision_seq.train.launch import Ranks, start_accelerator
from decision_seq.train.signals import Interrupted
from decision_seq.train.trainer import Job, Trainer
from decision_seq.train.update import masked_mean

__all__ = [
    "Interrupted",
    "Job",
    "Ranks",
    "TrainConfig",
    "Trainer",
    "masked_mean",
    "start_accelerator",
]
