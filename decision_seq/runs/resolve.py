"""A run's configuration, and its problem: that configuration resolved by its data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from decision_seq.checkpoint import DataFacts
from decision_seq.config import component_classes, load, require
from decision_seq.datasets import Request, open_dataset
from decision_seq.datasets.collected.collection import Size
from decision_seq.datasets.dqn_replay.draw import ReplayConfig
from decision_seq.datasets.store import EpisodeStore
from decision_seq.datasets.store.frames import CACHE_MEBIBYTES
from decision_seq.envs import FACTS, facts_by_environment, obstacle
from decision_seq.envs.registrations import environment_module
from decision_seq.evaluation import EvaluationConfig
from decision_seq.evaluation.targets import equal_targets, percentiles, resolve
from decision_seq.plugins import modules_needed
from decision_seq.policies import DecisionTransformerConfig, PolicyConfig
from decision_seq.policies.base import check_labels
from decision_seq.recipes import DEFAULT_DATASET
from decision_seq.runs.actions import action_entries
from decision_seq.sequences.conditioning import Conditioning, ReturnToGo
from decision_seq.sequences.selection import held_out, trained_on
from decision_seq.sequences.transforms import delayed
from decision_seq.sequences.windows import SAMPLERS, Pool, Sampler
from decision_seq.training import TrainConfig
from decision_seq.types import Reporter, Spec
from decision_seq.user_choices import use_again


@dataclass(frozen=True)
class CollectionConfig:
    """Size and seed of a bundled collection; other datasets have their own."""

    steps: int | None = None
    """Transitions to collect; null for the collection's own size."""
    seed: int = 0
    """Seed of the collection."""

    def __post_init__(self) -> None:
        steps = self.steps
        require(steps is None or steps >= 1, f"config: collection.steps {steps} must be at least 1")
        require(self.seed >= 0, f"config: collection.seed {self.seed} must not be negative")


@dataclass(frozen=True)
class Config:
    """Configuration of one run: the contents of `config.yaml` in its folder."""

    dataset: str = DEFAULT_DATASET
    """Name of a dataset, several names joined by `+`, or a path."""
    method: str | None = None
    """Name of the run's method in reports, plots and trackers: that of `--name`, of a grid's entry
    or of a recipe. Null, or a recipe of `experiments/`, stands for the label of the policy (`DT`,
    `BC (transformer)`). It changes nothing else."""
    unfinished: Literal["keep", "exclude"] = "keep"
    """Use of episodes that neither terminate nor time out, so that their returns-to-go are lower
    bounds: `keep` trains on them unchanged, `exclude` draws no window from them."""
    best_fraction: float = 1.0
    """Train only on the episodes of the highest returns that make up this part of the steps (the
    X % of %BC)."""
    least_return: float | None = None
    """Train only on episodes of at least this raw return; null for all. In Key-to-Door, 1 selects
    the successes."""
    delayed: bool = False
    """Give rewards as one sum with the last step of an episode, in the data and to the policy in a
    rollout; scores count the environment's own rewards."""
    windows: Literal["any", "whole", "segments"] = "any"
    """Windows begin at `any` step; are `whole` episodes, drawn with equal probability at any
    length; or are `segments`, consecutive pieces of an episode in consecutive updates, over which a
    recurrent backbone carries its state."""
    held_out: float = 0.0
    """Part of the episodes that are not trained on, the same for every seed; `evaluate --offline`
    measures the policy on them without an environment."""
    seed: int = 0
    """Seed of the initial weights and of training."""
    init_from: str | None = None
    """Run or checkpoint from whose weights the run begins, with their fitted statistics and the
    range of their actions; null for new weights."""
    plugins: tuple[str, ...] = ()
    """Modules from outside this package that define components of the run; filled in by itself."""
    frame_memory: int = CACHE_MEBIBYTES
    """MiB of decoded frames that every process holds in memory."""
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    """Size and seed of a bundled collection."""
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    """Draw of transitions from the DQN replay logs."""
    policy: PolicyConfig = field(default_factory=DecisionTransformerConfig)
    """The policy and its hyper-parameters."""
    conditioning: Conditioning = field(default_factory=ReturnToGo)
    """Labels that the policy is conditioned on."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The optimizer and the training loop."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """The evaluation by rollouts."""

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, f"config: seed {self.seed} must be in [0, 2**63)")
        best, held = self.best_fraction, self.held_out
        require(0 < best <= 1, f"config: best_fraction {best} must be above 0, and 1 at most")
        least = self.least_return
        finite = least is None or bool(np.isfinite(least))
        require(finite, f"config: least_return {least} must be a finite number")
        require(0 <= held < 1, f"config: held_out {held} must be at least 0 and below 1")
        memory = self.frame_memory
        require(memory >= 1, f"config: frame_memory {memory} must be at least 1 (MiB)")
        check_labels(self.policy, self.conditioning)
        evaluated = self.evaluation.episodes > 0 and bool(self.evaluation.every)
        require(
            self.train.keep_best is None or evaluated,
            "config: train.keep_best chooses among the evaluations during training; ask for some by"
            " --evaluation.every",
        )


@dataclass(frozen=True)
class Problem:
    """A configuration resolved by its data, together with the data."""

    config: Config
    """The configuration, with every value that depends on the data written out."""
    store: EpisodeStore
    """The data."""
    spec: Spec
    """Shapes and sizes that the policy is built for."""
    facts: DataFacts
    """Facts of the data that evaluation needs."""


def config_of(tree: dict[str, Any]) -> Config:
    """The run's configuration from a checkpoint's `config.yaml`, without `spec` and `data`."""
    return load(Config, {key: value for key, value in tree.items() if key not in ("spec", "data")})


def open_data(config: Config, reporter: Reporter) -> EpisodeStore:
    """Open the config's dataset; fetch or collect it first where it is not stored locally."""
    steps = config.collection.steps
    size = None if steps is None else Size(steps)
    request = Request(size, config.collection.seed, reporter=reporter, replay=config.replay)
    store = open_dataset(config.dataset, request)
    store.limit_memory(config.frame_memory)
    return delayed(store) if config.delayed else store


def prepare(config: Config, reporter: Reporter) -> Problem:
    """Open the data and resolve the config by it; UserError when they do not fit together."""
    store = open_data(config, reporter)
    reporter.say(
        f"data: {store.source}: {store.num_episodes:,} episodes,"
        f" {store.num_transitions:,} transitions"
    )
    _report_data(config, store, reporter)
    short = config.train.short_of_warmup()
    if short is not None:
        reporter.say(
            f"train: {short}; shorten it by --train.warmup_steps {config.train.steps // 10}"
        )
    config = _within_episodes(config, store, reporter)
    conditioning = config.conditioning.resolved(store)
    family = store.header["family"]
    facts = FACTS.get(family or "")
    evaluation = config.evaluation
    env_id = evaluation.env_id or store.header["env_id"] or (facts.env_id if facts else None)
    use_again(store.path)  # its environment, where this user wrote the store
    reason = None
    if evaluation.episodes and not evaluation.env_id:  # the data's environment may not run here
        reason = obstacle(env_id, family)
    if reason:
        measured = "scored on the held-out episodes instead, in offline.json"
        if not config.held_out:
            measured = "hold out some episodes to have it scored on them, by --held_out 0.1"
        reporter.say(f"not rolled out: {reason}; {measured}")
        evaluation = dataclasses.replace(evaluation, episodes=0)
    require(
        env_id is not None or evaluation.episodes == 0,
        f"no environment is known for {config.dataset}; name one with --evaluation.env_id, or train"
        " without evaluation by --evaluation.episodes 0, with --held_out 0.1 to measure it on"
        " episodes held out",
    )
    returns = percentiles(store.returns)
    # Without published targets: the data's largest return and their median.
    asked = evaluation.targets or (facts.targets if facts else None) or ("max", "median")
    targets = resolve(asked, returns) if conditioning.asks else None
    equal = equal_targets(asked, returns) if targets else None
    if equal is not None:
        reporter.say(equal)
    resolved = dataclasses.replace(
        config,
        conditioning=conditioning,
        plugins=modules_needed(component_classes(config), environment_module(env_id)),
        evaluation=dataclasses.replace(evaluation, env_id=env_id, targets=targets),
    )
    return Problem(
        resolved,
        store,
        _spec(
            store,
            conditioning,
            action_entries(store, env_id, config.policy.action_scale, reporter),
        ),
        DataFacts(
            config.dataset,
            store.source,
            env_id,
            family,
            targets or (),
            _reference_scores(store, env_id),
            returns,
            store.checksum,
            store.delayed,
        ),
    )


def _reference_scores(store: EpisodeStore, env_id: str | None) -> tuple[float, float] | None:
    """Those of the dataset's author, else the environment's, else the data's task's."""
    known = facts_by_environment(env_id) if store.header["reference_scores"] is None else None
    return known.reference_scores if known else store.reference_scores


def _report_data(config: Config, store: EpisodeStore, reporter: Reporter) -> None:
    """Report the facts of the data that affect training.

    UserError when no episode is left to train on.
    """
    if store.delayed:
        reporter.say("data: rewards come as one sum with the last step of an episode (--delayed)")
    shape = store.header["columns"]["observations"]["shape"][1:]
    if store.stack == 1 and len(shape) > 1:
        reporter.say(
            f"data: observations of shape {shape} are read as vectors of {np.prod(shape):,} numbers"
        )
    unfinished = ~store.terminated & ~store.truncated
    if unfinished.any():
        does = "are left out" if config.unfinished == "exclude" else "are trained on"
        reporter.say(
            f"data: {int(unfinished.sum()):,} episodes stop without an end, so their returns-to-go"
            f" are lower bounds; they {does} (--unfinished)"
        )
    require(
        config.unfinished == "keep" or not unfinished.all(),
        f"{config.dataset}: no episode has an end; train with --unfinished keep",
    )
    trained = trained_episodes(config, store)
    if not trained.all():
        held = int(held_out(store.num_episodes, config.held_out).sum())
        reporter.say(
            f"data: trained on {int(trained.sum()):,} of the episodes,"
            f" {int(store.lengths[trained].sum()):,} transitions"
            + (f"; {held:,} episodes are held out" if held else "")
        )


def _within_episodes(config: Config, store: EpisodeStore, reporter: Reporter) -> Config:
    """The config with a context no longer than the longest episode, where the policy asks for it.

    The rest of a longer one would always be padding.
    """
    longest, length = _max_timestep(store), config.policy.context_length
    if length <= longest or not config.policy.fills_context:
        return config
    reporter.say(
        f"data: no episode is longer than {longest} steps, so policy.context_length is {longest},"
        f" not {length}"
    )
    return dataclasses.replace(
        config, policy=dataclasses.replace(config.policy, context_length=longest)
    )


def make_sampler(config: Config, store: EpisodeStore) -> Sampler:
    """The sampler of the configuration's windows."""
    trained = trained_episodes(config, store)
    pool = Pool(
        store.offsets,
        config.policy.context_length,
        None if trained.all() else trained,
        overlap=config.policy.burn_in,
    )
    return SAMPLERS[config.windows](pool, config.seed, config.train.batch_size)


def trained_episodes(config: Config, store: EpisodeStore) -> np.ndarray:
    """Mask of the episodes that windows are drawn from, [E] bool."""
    return trained_on(
        store, config.unfinished, config.best_fraction, config.held_out, config.least_return
    )


def _spec(store: EpisodeStore, conditioning: Conditioning, actions: dict[str, Any]) -> Spec:
    return Spec(
        observation_shape=store.observation_shape,
        condition_size=conditioning.size,
        max_timestep=_max_timestep(store),
        discount=conditioning.discount,
        **actions,
    )


def _max_timestep(store: EpisodeStore) -> int:
    """The steps of the longest episode, by the task's limit or by the data."""
    return max(store.header["max_episode_steps"] or 0, int(store.lengths.max()))
