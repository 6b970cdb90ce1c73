"""Import: a checkpoint made from a model that another program trained.

Facts that are not in the tensors come, in this order, from the options, the file's configuration,
its card, a dataset that the user names, and the published facts of the task. A fact that is a mere
convention is reported.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decision_seq import checkpoint, envs
from decision_seq.checkpoint import DataFacts
from decision_seq.config import plain, require, to_tree
from decision_seq.evaluation import EvaluationConfig
from decision_seq.machine.files import whole
from decision_seq.models.actions import Head
from decision_seq.models.backbones import GPTConfig
from decision_seq.models.encoders import Standardizer
from decision_seq.policies import DecisionTransformer, DecisionTransformerConfig
from decision_seq.runs.resolve import Config, Problem, prepare
from decision_seq.sequences.conditioning import ReturnToGo
from decision_seq.sharing import foreign, layouts
from decision_seq.sharing.foreign import Foreign
from decision_seq.types import Reporter, Spec, UserError

CONTEXT_LENGTH, HEADS = 20, 1  # of kzl/decision-transformer gym/experiment.py and of CORL
# Values that transformers' configuration must have, or leave unset, for ours to compute the same.
REQUIRED = {
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


@dataclass(frozen=True)
class Given:
    """Facts about a model from the user; None leaves a fact to the model's own files."""

    dataset: str | None = None
    """Data that the model was trained on, for its statistics, task and return scale."""
    env_id: str | None = None
    """Gymnasium id of the environment to evaluate in."""
    state_mean: Path | None = None
    """File of [S] numbers that are subtracted from states."""
    state_std: Path | None = None
    """File of [S] numbers that states are divided by."""
    return_scale: float | None = None
    """Number that returns-to-go are divided by."""
    targets: tuple[float, ...] | None = None
    """Target returns for evaluation, raw."""
    context_length: int | None = None
    """Steps K in a training window."""
    heads: int | None = None
    """Attention heads; no tensor's shape shows their number."""


def import_policy(source: str, output: Path, given: Given, reporter: Reporter) -> Path:
    """Make the checkpoint `output` from a file, a folder or a repository of the Hub -> `output`.

    UserError when `output` exists, and when the source is damaged, lacks a fact, or is not a plain
    Decision Transformer.
    """
    output = Path(os.path.abspath(output))
    require(not output.exists(), f"{output} exists; name another --output")
    with foreign.at_hand(source, reporter) as path, whole(output) as partial:
        if foreign.is_ours(path):
            require(given == Given(), f"{source} is a checkpoint and says everything itself")
            checkpoint.load(path)  # UserError when it is damaged
            foreign.copy_ours(path, partial)
        else:
            _write(*_build(foreign.read(path, source), source, given, reporter), partial)
    return output


def _write(
    policy: DecisionTransformer, scale: float, facts: DataFacts, origin: str, output: Path
) -> None:
    described = {
        "policy": {"name": "dt", **to_tree(policy.config)},
        "conditioning": {"name": "return", **to_tree(ReturnToGo(scale))},
        "spec": plain(policy.spec),
        "data": plain(facts),
        "imported": origin,
    }
    # The optimiser's moments and the number of updates are unknown: the checkpoint is of step 0.
    state: dict[str, Any] = {"topology": {}, "scaler": {}}
    saved = checkpoint.save(
        output.parent, 0, checkpoint.Tensors(policy.state_dict(), {}), described, state
    )
    os.replace(saved, output)


def _build(
    found: Foreign, source: str, given: Given, reporter: Reporter
) -> tuple[DecisionTransformer, float, DataFacts, str]:
    layout = layouts.recognise(set(found.tensors), source)
    weights = layouts.take(found.tensors, layout, source)
    _check_config(found.config, source)
    config, spec = _shape(found, layout, weights, given, source, reporter)
    policy = DecisionTransformer(config, spec)
    problem = _opened(given, spec, reporter)
    weights |= _statistics(found, spec.observation_shape[0], given, problem, source)
    checkpoint.check_fit(weights, policy, Path(source))
    policy.load_state_dict(weights)
    scale, facts = _task(found, spec, given, problem, source, reporter)
    origin = f"{layout.title}'s layout: {found.description}"
    return policy, scale, facts, origin


def _check_config(config: dict[str, Any], source: str) -> None:
    """UserError for a transformers configuration that is not the plain Decision Transformer."""
    wrong = [key for key, value in REQUIRED.items() if config.get(key, value) != value]
    inner, width = config.get("n_inner"), config.get("hidden_size")
    if inner is not None and isinstance(width, int) and inner != 4 * width:
        wrong.append("n_inner")
    require(
        not wrong,
        f"{source}: {wrong and wrong[0]} {wrong and config[wrong[0]]!r} is not supported; ours is"
        " the paper's Decision Transformer",
    )


def _shape(
    found: Foreign,
    layout: layouts.Layout,
    weights: dict[str, Tensor],
    given: Given,
    source: str,
    reporter: Reporter,
) -> tuple[DecisionTransformerConfig, Spec]:
    """The policy's configuration and spec: sizes from the tensors, the rest from the files."""
    theirs = found.config
    matrices = [
        weights[f"{n}.weight"] for n in ("encoder.embed", "actions.embed", "positions.embed")
    ]
    require(all(m.ndim == 2 for m in matrices), f"{source}: its embeddings are no matrices")
    (width, states), (_, actions), (timesteps, _) = (tuple(m.shape) for m in matrices)
    length = _first(given.context_length, theirs.get("context_length"), theirs.get("max_length"))
    if layout is layouts.CORL:
        mask = found.tensors.get("blocks.0.causal_mask")  # [3K, 3K]
        length = _first(length, len(mask) // 3 if mask is not None and mask.ndim == 2 else None)
    if length is None:
        length = CONTEXT_LENGTH
        reporter.say(f"context length {length}, as published; another by --context-length")
    heads = _first(given.heads, theirs.get("n_head"), theirs.get("num_attention_heads"))
    if heads is None:
        heads = HEADS
        reporter.say(f"{heads} attention head, as published; another number by --heads")
    for what, value in (("context length", length), ("n_head", heads)):
        require(type(value) is int, f"{source}: its {what} {value!r} is no whole number")
    activation = theirs.get("activation_function") or layout.activation
    named = isinstance(activation, str)
    require(named, f"{source}: its activation_function {activation!r} is no name")
    if layout is layouts.CORL:  # K more rows than steps in an episode, used only by padding
        timesteps -= length
        weights["positions.embed.weight"] = weights["positions.embed.weight"][: max(timesteps, 0)]
    layers = layout.layers(set(found.tensors))
    for key, value in {"n_layer": layers, "hidden_size": width}.items():
        said = theirs.get(key)
        require(
            said is None or said == value,
            f"{source}: its {key} is {said!r}, its tensors have {value}; fetch it again",
        )
    backbone = GPTConfig(
        layers=layers,
        heads=heads,
        width=width,
        activation=activation,
    )
    spec = Spec(
        (states,),
        actions,
        "continuous",
        1,
        timesteps,
        action_range=_action_range(theirs, actions, source),
    )
    squashed = theirs.get("action_tanh", True)
    require(type(squashed) is bool, f"{source}: its action_tanh {squashed!r} is no true or false")
    head: Head = "plain" if squashed else "linear"
    return DecisionTransformerConfig(length, backbone, head=head), spec


def _action_range(
    theirs: dict[str, Any], size: int, source: str
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The range of actions that is [-1, 1] in their model; None where it is [-1, 1] itself."""
    keys = ("action_low", "action_high")
    if all(theirs.get(key) is None for key in keys):
        return None
    low, high = (_vector(theirs.get(key), f"{source}: {key}") for key in keys)
    sound = low.shape == high.shape == (size,) and bool((low < high).all())
    require(
        sound and bool(np.isfinite([low, high]).all()),
        f"{source}: action_low and action_high are not the bounds of its {size} actions",
    )
    if (low == -1).all() and (high == 1).all():
        return None
    return tuple(low.tolist()), tuple(high.tolist())


def _first(*values: Any) -> Any:
    """The first value that is not None; 0 counts as a value and is validated later."""
    return next((value for value in values if value is not None), None)


def _opened(given: Given, spec: Spec, reporter: Reporter) -> Problem | None:
    """The dataset that the user named, prepared as for a run; None without one."""
    if given.dataset is None:
        return None
    config = Config(dataset=given.dataset, evaluation=EvaluationConfig(episodes=0))
    problem = prepare(config, reporter)
    sizes = (problem.spec.observation_shape, problem.spec.action_size)
    expected = (spec.observation_shape, spec.action_size)
    require(
        sizes == expected,
        f"{given.dataset} has observations and actions of sizes {sizes}, the model's are"
        f" {expected}; name the data it was trained on",
    )
    return problem


def _statistics(
    found: Foreign, size: int, given: Given, problem: Problem | None, source: str
) -> dict[str, Tensor]:
    """The encoder's buffers: mean and standard deviation of the states."""
    named = {"state_mean": given.state_mean, "state_std": given.state_std}
    vectors: dict[str, np.ndarray] = {}
    if problem is not None:
        standardizer = Standardizer(size)
        standardizer.fit(problem.store)
        vectors = {"state_mean": standardizer.mean.numpy(), "state_std": standardizer.std.numpy()}
    else:
        vectors |= foreign.card_statistics(found.card)
        for key in foreign.STATISTICS:
            if found.config.get(key) is not None:
                vectors[key] = _vector(found.config[key], f"{source}: {key}")
    vectors |= {key: foreign.read_vector(path) for key, path in named.items() if path is not None}
    for key in foreign.STATISTICS:
        require(
            key in vectors,
            f"{source} does not say its {key}; give --state-mean FILE and --state-std FILE, or"
            " --dataset NAME to take them from the data it was trained on",
        )
        vector = vectors[key]
        sound = vector.shape == (size,) and bool(np.isfinite(vector).all())
        positive = key == "state_mean" or bool((vector > 0).all())
        require(sound and positive, f"{source}: {key} must be {size} numbers, std above 0")
    names = {"state_mean": "encoder.mean", "state_std": "encoder.std"}
    return {names[key]: torch.as_tensor(vectors[key]).float() for key in names}


def _vector(value: Any, what: str) -> np.ndarray:
    try:
        return np.asarray(value, np.float64).reshape(-1)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{what} is no list of numbers") from error


def _task(
    found: Foreign,
    spec: Spec,
    given: Given,
    problem: Problem | None,
    source: str,
    reporter: Reporter,
) -> tuple[float, DataFacts]:
    """The return scale, and the facts that evaluation needs."""
    theirs = found.config
    env_id = _first(given.env_id, theirs.get("env_id"))
    family, known = _family(found.name, env_id, spec) or (None, None)
    data = problem.facts if problem else None
    if data is not None and given.env_id is None:
        env_id, family = data.env_id, data.family
        known = envs.FACTS.get(family or "")
    elif env_id is None and known is not None:
        env_id = known.env_id
        reporter.say(f"environment {env_id}, by the model's name and sizes; another by --env-id")
    scale = _first(given.return_scale, theirs.get("return_scale"))
    if scale is None and problem is not None:
        scale = getattr(problem.config.conditioning, "scale", None)
    if scale is None and known is not None and known.return_scale is not None:
        scale = known.return_scale
        reporter.say(f"returns divided by {scale:g}, as published; another by --return-scale")
    require(scale is not None, f"{source} does not say its return scale; give --return-scale")
    targets = given.targets or theirs.get("targets") or (data.targets if data else None)
    targets = targets or (known.targets if known else None)
    require(bool(targets), f"{source} names no target returns; give --target")
    numbers = _vector(targets, f"{source}: targets")
    require(bool(np.isfinite(numbers).all()), f"{source}: targets {targets} must be finite")
    origin = f"weights imported from {found.description}; data"
    origin += f" {data.source}" if data else f" {theirs.get('source') or 'not known'}"
    facts = DataFacts(
        str((data and data.dataset) or theirs.get("dataset") or Path(found.name).name),
        origin,
        None if env_id is None else str(env_id),
        family,
        tuple(numbers.tolist()),
        data.reference_scores if data else (known.reference_scores if known else None),
        data.return_percentiles if data else None,
        delayed=theirs.get("delayed") is True,
    )
    scales = _vector(scale, f"{source}: return_scale")
    require(scales.size == 1, f"{source}: return_scale {scale!r} must be one number")
    return float(scales[0]), facts


def _family(name: str, env_id: Any, spec: Spec) -> tuple[str, envs.EnvironmentFacts] | None:
    """The task: that of the environment, else the one that the model's name holds."""
    if env_id is not None:
        exact = [item for item in envs.FACTS.items() if item[1].env_id == env_id]
        return exact[0] if exact else envs.facts_by_name(str(env_id))
    sizes = (spec.observation_shape[0], spec.action_size)
    text = f"-{envs.canonical(Path(name).name)}-"
    named = [
        (key, facts)
        for key, facts in envs.FACTS.items()
        if f"-{key}-" in text and facts.sizes in (None, sizes)
    ]
    return max(named, key=lambda item: len(item[0]), default=None)
