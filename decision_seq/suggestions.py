"""Suggestions for unknown keys of a configuration."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

# Other names of our keys, in papers and in other programs, in small letters and with spaces between
# words -> our names, whole or from their last part on.
SYNONYMS = {
    **dict.fromkeys(("lr", "rate", "alpha", "step size"), "train.learning_rate"),
    **dict.fromkeys(
        (
            *("steps", "max steps", "num steps", "train steps", "updates", "num updates", "epochs"),
            *("iterations", "max iters", "num iters", "gradient steps", "total steps"),
        ),
        "train.steps",
    ),
    **dict.fromkeys(("batch", "bs", "minibatch size", "train batch size"), "train.batch_size"),
    **dict.fromkeys(("warmup", "warmup updates", "lr warmup"), "train.warmup_steps"),
    **dict.fromkeys(("wd", "l2"), "train.weight_decay"),
    **dict.fromkeys(("grad clip", "clip grad", "max grad norm", "grad norm clip"), "train.clip"),
    **dict.fromkeys(("dtype", "mixed precision", "amp", "fp16", "bf16"), "train.precision"),
    **dict.fromkeys(("optim", "optimizer"), "train.optimizer.name"),
    **dict.fromkeys(("grad accumulation", "gradient accumulation steps"), "train.accumulation"),
    **dict.fromkeys(
        ("save every", "save interval", "checkpoint interval"), "train.checkpoint_every"
    ),
    **dict.fromkeys(("tracker", "logger", "log with", "report to", "wandb"), "train.trackers"),
    **dict.fromkeys(
        (
            *("k", "context", "context len", "max length", "max len", "seq len", "horizon"),
            *("sequence length", "block size", "window", "window size"),
        ),
        "policy.context_length",
    ),
    **dict.fromkeys(("layer", "n layer", "n layers", "num layers", "depth"), "layers"),
    **dict.fromkeys(("n head", "n heads", "num heads", "nhead"), "heads"),
    **dict.fromkeys(
        ("embed dim", "n embd", "d model", "hidden", "hidden size", "hidden dim", "dim"), "width"
    ),
    **dict.fromkeys(("resid dropout", "attn dropout", "p drop"), "dropout"),
    **dict.fromkeys(("model", "algo", "agent", "policy type", "model type"), "policy.name"),
    **dict.fromkeys(("env", "env name", "environment", "gym id", "task"), "evaluation.env_id"),
    **dict.fromkeys(
        ("target", "target return", "target returns", "rtg", "desired return"), "evaluation.targets"
    ),
    **dict.fromkeys(("eval episodes", "num eval episodes", "n eval"), "evaluation.episodes"),
    **dict.fromkeys(("eval every", "eval freq", "eval interval"), "evaluation.every"),
    **dict.fromkeys(("num workers", "n workers"), "evaluation.workers"),
    **dict.fromkeys(("num envs", "n envs", "envs"), "evaluation.environments"),
    **dict.fromkeys(("return scale", "reward scale", "rtg scale"), "conditioning.scale"),
    **dict.fromkeys(("gamma", "discount factor"), "discount"),
    **dict.fromkeys(("data", "path", "dataset name", "data path", "dataset path"), "dataset"),
    **dict.fromkeys(("pct traj", "percent", "top fraction"), "best_fraction"),
    **dict.fromkeys(("validation", "val split", "test split", "holdout"), "held_out"),
    **dict.fromkeys(("random seed", "rng"), "seed"),
}
MOST = 3  # names in a suggestion


def suggestion(unknown: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown key: the keys that may be meant.

    unknown, known: names with dots, such as `policy.backbone.layers`.
    """
    section, _, key = unknown.rpartition(".")
    within = [name for name in known if section and name.startswith(f"{section}.")]
    near = (
        _meant(key, within)
        or _spelled_alike(key, within, section)
        or _meant(key, known)
        or _spelled_alike(key, known)
    )
    if near:
        return f"did you mean {' or '.join(near[:MOST])}?"
    if within:
        return f"there are {', '.join(within)}"
    return f"there are {', '.join(dict.fromkeys(name.split('.')[0] for name in known))}"


def _plain(key: str) -> str:
    return key.replace("_", " ").replace("-", " ").lower()


def _meant(key: str, known: Sequence[str]) -> list[str]:
    """The known names that end with the key, or with the name that it is a synonym of."""
    same = _named(key, known)
    if len(same) == 1:
        return same
    # `steps` is the last part of several names, and one of them is usually meant.
    return _named(SYNONYMS.get(_plain(key), ""), known) or same


def _named(name: str, known: Sequence[str]) -> list[str]:
    return [one for one in known if name and (one == name or one.endswith(f".{name}"))]


def _spelled_alike(key: str, known: Sequence[str], section: str = "") -> list[str]:
    """The known names with a part after the section that is spelled like the key."""
    inner = [name.removeprefix(f"{section}.") for name in known]
    parts = dict.fromkeys(part for name in inner for part in (name.split(".")[0], _last(name)))
    close = difflib.get_close_matches(key, parts, 1)
    if not close:
        return []
    if close[0] in {name.split(".")[0] for name in inner}:
        return [f"{section}.{close[0]}" if section else close[0]]
    return _meant(close[0], known)


def _last(name: str) -> str:
    return name.rpartition(".")[2]
