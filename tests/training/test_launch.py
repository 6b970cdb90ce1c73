"""Tests of the checks of a launch before training."""

import pytest
import torch

from decision_seq.training.config import TrainConfig
from decision_seq.training.launch import start_accelerator, watched
from decision_seq.training.metrics import check_trackers
from decision_seq.types import UserError

BY_ACCELERATE = {"ACCELERATE_MIXED_PRECISION": "no"}


@pytest.mark.parametrize(
    ("env", "config", "processes", "named"),
    [
        ({**BY_ACCELERATE, "MASTER_ADDR": "127.0.0.1"}, {}, None, "started one"),
        ({"ACCELERATE_USE_FSDP": "true"}, {}, None, "--train.parallel fsdp"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, {}, None, "DeepSpeed"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, {}, None, "--train.precision bf16"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, {}, None, "--train.accumulation 4"),
        (
            {"TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_USE_AGENT_STORE": "True"},
            *({}, None, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"),
        ),
        ({}, {}, 2, "2 processes were asked for, but 1 train together"),
        ({"WORLD_SIZE": "2"}, {}, None, "but not RANK and MASTER_ADDR"),
        (
            {"WORLD_SIZE": "2", "RANK": "7", "MASTER_ADDR": "127.0.0.1"},
            {},
            None,
            "RANK 7 does not fit WORLD_SIZE 2",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "2", "MASTER_ADDR": "127.0.0.1"},
            {},
            None,
            "LOCAL_RANK 2 does not fit WORLD_SIZE 2",
        ),
        ({}, {"parallel": "fsdp"}, None, "shards over several processes"),
        ({}, {"cuda_graph": True}, None, "needs one process on CUDA"),
        ({}, {"cuda_graph": True, "precision": "fp16"}, None, "one plain update"),
        ({}, {"cuda_graph": True, "checkpoint_activations": True}, None, "one plain update"),
        ({}, {"compile": True, "parallel": "fsdp"}, None, "train.compile"),
        ({}, {"keep_every": 1500}, None, "multiple of train.checkpoint_every"),
        ({}, {"batch_size": 4, "accumulation": 5}, None, "does not fill"),
    ],
)
def test_a_launch_that_is_not_what_was_asked_for_is_refused(
    env: dict, config: dict, processes: int | None, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(UserError, match=named) as caught:
        start_accelerator(TrainConfig(**config), processes)
    assert "\n" not in str(caught.value)


def test_settings_of_the_launcher_that_agree_are_let_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # set by a scheduler for one process
    config = TrainConfig(precision="bf16", accumulation=4)
    assert start_accelerator(config, 1).num_processes == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("too much"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:47825"),
    ],
)
def test_what_is_no_bug_of_ours_is_one_line(error: Exception) -> None:
    with pytest.raises(UserError, match=r"memory does not hold|another process"), watched():
        raise error


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"), watched():
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_a_tracker_that_is_not_installed_is_refused() -> None:
    check_trackers(("tensorboard",))
    with pytest.raises(UserError, match="pip install surely_not_there"):
        check_trackers(("tensorboard", "surely_not_there"))
