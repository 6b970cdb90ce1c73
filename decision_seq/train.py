"""Training: data -> windows -> loss -> update, the same run whatever interrupts it.

Everything random in a step is a function of (seed, step, rank): the windows by the sampler, the
dropout by seeding torch's generator at the start of the step. So a run resumed from a checkpoint
repeats the uninterrupted one to the bit, and no generator state has to be saved.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from decision_seq import checkpoint
from decision_seq.checkpoint import DataFacts
from decision_seq.config import dump, load, read_yaml, require, to_tree
from decision_seq.data import Request, open_dataset
from decision_seq.data.bundled import DEFAULT_STEPS
from decision_seq.data.conditioning import Conditioning, ReturnToGo, label
from decision_seq.data.sampler import WindowGatherer, WindowIndex, rank_slice, window_ids
from decision_seq.data.store import EpisodeStore
from decision_seq.envs import FACTS
from decision_seq.evaluate import EvaluationConfig, evaluate_checkpoint
from decision_seq.policies import DecisionTransformerConfig, Policy, PolicyConfig
from decision_seq.report import scores_json, write_json
from decision_seq.types import Reporter, Scores, Spec, UserError

# Learning-rate multipliers after the warm-up, by the fraction of the remaining steps done.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done: 1.0 - done,
}
PRECISIONS = {"fp32": "no", "bf16": "bf16"}
# Keys in which a resumed run may differ from the one it goes on from.
RESUMABLE = ("train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "evaluation.")


@dataclass(frozen=True)
class TrainConfig:
    """The optimiser and the loop. Defaults: kzl/decision-transformer gym/experiment.py.

    batch_size: windows in a global batch, over all processes; warmup_steps: the learning rate
    rises linearly; schedule: what it does afterwards; clip: largest global gradient norm.
    """

    steps: int = 100_000
    batch_size: int = 64
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    warmup_steps: int = 10_000
    schedule: str = "constant"
    clip: float = 0.25
    precision: str = "fp32"
    log_every: int = 10
    checkpoint_every: int = 1_000
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for key in ("steps", "batch_size", "log_every", "checkpoint_every", "keep_checkpoints"):
            value = getattr(self, key)
            require(value >= 1, f"config: train.{key} {value} must be at least 1")
        for key in ("learning_rate", "clip"):
            value = getattr(self, key)
            positive = math.isfinite(value) and value > 0
            require(positive, f"config: train.{key} {value} must be above 0")
        for key in ("weight_decay", "warmup_steps"):
            value = getattr(self, key)
            require(0 <= value < math.inf, f"config: train.{key} {value} must not be negative")
        for key, known in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
            value = getattr(self, key)
            listed = ", ".join(known)
            require(value in known, f"config: train.{key} {value!r} is unknown; one of {listed}")

    def rate(self, step: int) -> float:
        """The learning rate of update `step`, counted from 0."""
        warm = min((step + 1) / max(self.warmup_steps, 1), 1.0)
        left = max(self.steps - self.warmup_steps, 1)
        done = min(max(step - self.warmup_steps, 0) / left, 1.0)
        return self.learning_rate * warm * SCHEDULES[self.schedule](done)


@dataclass(frozen=True)
class CollectionConfig:
    """Size and seed of a bundled collection; other datasets have their own."""

    steps: int = DEFAULT_STEPS
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.steps >= 1, f"config: collection.steps {self.steps} must be at least 1")
        require(self.seed >= 0, f"config: collection.seed {self.seed} must not be negative")


@dataclass(frozen=True)
class Config:
    """One run, whole: what `config.yaml` in its folder holds."""

    dataset: str = "hopper-medium"
    seed: int = 0
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    policy: PolicyConfig = field(default_factory=DecisionTransformerConfig)
    conditioning: Conditioning = field(default_factory=ReturnToGo)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"config: seed {self.seed} must not be negative")


class Interrupted(Exception):
    """A signal came; the run has been saved and can be resumed."""

    def __init__(self, number: int, path: Path) -> None:
        super().__init__(f"saved {path}")
        self.number, self.path = number, path


def masked_mean(values: Tensor, weights: Tensor, accelerator: Accelerator | None = None) -> Tensor:
    """This rank's share of the weighted mean over the global batch; the ranks' shares add up to it.

    The only place where a loss is reduced. Means of each rank's own windows would weight a step by
    how much padding happens to lie beside it.
    """
    weights = weights.to(values.dtype)
    total = weights.sum()
    if accelerator is not None and accelerator.num_processes > 1:
        total = accelerator.reduce(total, "sum")
    return (values * weights).sum() / total


def start_accelerator(config: TrainConfig, processes: int | None) -> Accelerator:
    """An Accelerator over as many processes as were launched; UserError where they are not one.

    On a CPU, `accelerate launch --cpu --num_processes N` starts a single process, and a plain
    Accelerator under torchrun trains N separate copies: neither is let pass.
    """
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(), mixed_precision=PRECISIONS[config.precision]
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    world = accelerator.num_processes
    if world != launched or (processes is not None and processes != world):
        raise UserError(
            f"{processes or launched} processes were asked for, but {world} train together; launch with"
            " `accelerate launch --multi_gpu --num_processes N -m decision_seq train --processes N`"
            " (on CPUs with ACCELERATE_USE_CPU=true; `--cpu` starts one process whatever N)"
        )
    require(
        config.batch_size % world == 0,
        f"config: train.batch_size {config.batch_size} does not divide among {world} processes",
    )
    return accelerator


@dataclass(frozen=True)
class Problem:
    """A run with everything that depends on the data written out."""

    config: Config
    store: EpisodeStore
    spec: Spec
    facts: DataFacts


def prepare(config: Config, reporter: Reporter) -> Problem:
    """Open the data and resolve the config by it; UserError when they do not fit together."""
    request = Request(
        env_id=config.evaluation.env_id,
        steps=config.collection.steps,
        seed=config.collection.seed,
        reporter=reporter,
    )
    store = open_dataset(config.dataset, request)
    reporter.say(
        f"data: {store.source}: {store.num_episodes:,} episodes, {store.num_transitions:,} transitions"
    )
    conditioning = config.conditioning.resolved(store)
    env_id = config.evaluation.env_id or store.header["env_id"]
    evaluated = config.evaluation.episodes > 0
    require(
        env_id is not None or not evaluated,
        f"no environment is known for {config.dataset}; name one with --evaluation.env_id, or train"
        " without evaluation by --evaluation.episodes 0",
    )
    family = store.header["family"]
    facts = FACTS.get(family or "")
    targets = config.evaluation.targets or (facts.targets if facts else None)
    if targets is None:  # nobody published any: the best the data hold, and half of it
        best = float(store.returns.max())
        targets = (best, best / 2)
    resolved = dataclasses.replace(
        config,
        conditioning=conditioning,
        evaluation=dataclasses.replace(config.evaluation, env_id=env_id, targets=targets),
    )
    return Problem(
        resolved,
        store,
        _spec(store, conditioning),
        DataFacts(config.dataset, store.source, env_id, family, tuple(targets)),
    )


def _spec(store: EpisodeStore, conditioning: Conditioning) -> Spec:
    actions = store.columns["actions"]
    discrete = actions.dtype.kind == "i"
    return Spec(
        observation_shape=tuple(store.columns["observations"].shape[1:]),
        action_size=int(actions.array.max()) + 1 if discrete else actions.shape[1],
        action_kind="discrete" if discrete else "continuous",
        condition_size=conditioning.size,
        max_timestep=max(store.header["max_episode_steps"] or 0, int(store.lengths.max())),
    )


class Trainer:
    """One training run in `output`, from its newest checkpoint when `resume`."""

    def __init__(
        self, problem: Problem, output: Path, accelerator: Accelerator, reporter: Reporter
    ) -> None:
        self.problem, self.output = problem, Path(output)
        self.config = problem.config
        self.accelerator, self.reporter = accelerator, reporter
        conditions = label(problem.store, self.config.conditioning)
        self.index = WindowIndex(problem.store.offsets)
        self.gatherer = WindowGatherer(
            problem.store, conditions, self.config.policy.context_length, problem.spec.max_timestep
        )
        torch.manual_seed(self.config.seed)  # the same first weights on every rank
        self.policy: Policy = self.config.policy.build(problem.spec)
        self.policy.fit(problem.store)
        self.model = accelerator.prepare(self.policy)
        trained = [weight for weight in self.policy.parameters() if weight.requires_grad]
        # Decay on all parameters, LayerNorms and biases too, as in the original's code.
        self.optimizer = torch.optim.AdamW(
            trained,
            self.config.train.learning_rate,
            weight_decay=self.config.train.weight_decay,
            fused=True,
        )
        self.step = 0
        self.signal: int | None = None

    def resume(self) -> None:
        """Go on from the newest checkpoint; from the beginning where there is none yet."""
        found = checkpoint.checkpoints(self.output / "checkpoints")
        if not found:
            self.reporter.say(f"no checkpoint yet in {self.output}: starts from the beginning")
            return
        tree = read_yaml(found[-1] / "config.yaml")
        source = tree.get("data", {}).get("source")
        require(
            source == self.problem.facts.source,
            f"cannot resume {self.output}: it was trained on {source}, now the data are"
            f" {self.problem.facts.source}",
        )
        checkpoint.load_weights(self.policy, found[-1])
        checkpoint.load_optimizer(self.optimizer, found[-1])
        self.step = checkpoint.read_trainer(found[-1])["step"]
        self.reporter.say(f"resumed from {found[-1]}")

    def run(self) -> None:
        """Train to the last step, saving on the way; Interrupted after a signal."""
        main = self.accelerator.is_main_process
        steps = self.config.train.steps
        metrics = _Metrics(self.output, self.step) if main else None
        with self._signals(), self.reporter.bar("train", "update", steps, self.step) as bar:
            started, since = time.perf_counter(), self.step
            while self.step < steps:
                logged = (self.step + 1) % self.config.train.log_every == 0
                record = self._update(logged or self.step + 1 == steps)
                self.step += 1
                bar.update()
                if record and metrics:
                    elapsed = time.perf_counter() - started
                    rate = (self.step - since) / elapsed
                    started, since = time.perf_counter(), self.step
                    metrics.write({"step": self.step, **record, "updates_per_second": rate})
                    bar.set_postfix_str(f"loss {record['loss']:.4f}")
                if self.signal is not None or self._due():
                    path = self._save()
                    if self.signal is not None:
                        raise Interrupted(self.signal, path)
        self._check_replicas()
        if metrics:
            metrics.close()

    def _due(self) -> bool:
        every = self.config.train.checkpoint_every
        return self.step % every == 0 or self.step == self.config.train.steps

    def _update(self, wanted: bool) -> dict[str, float] | None:
        """One optimiser step; its metrics when they are wanted (reading them waits for a GPU)."""
        config, accelerator = self.config, self.accelerator
        rank, world = accelerator.process_index, accelerator.num_processes
        ids = window_ids(config.seed, self.step, config.train.batch_size, self.index)
        batch = self.gatherer.gather(rank_slice(ids, rank, world)).tensors(accelerator.device)
        torch.manual_seed(_step_seed(config.seed, self.step, rank))
        rate = config.train.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        self.optimizer.zero_grad()
        losses = {
            name: masked_mean(values, weights, accelerator)
            for name, (values, weights) in self.model(batch).items()
        }
        share = torch.stack(list(losses.values())).sum()
        accelerator.backward(share * world)  # DDP averages the gradients of the shares
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), config.train.clip)
        self.optimizer.step()
        self.policy.after_step()
        if not wanted:
            return None
        totals = accelerator.reduce(torch.stack(list(losses.values())).detach(), "sum").tolist()
        record = {"loss": sum(totals), "gradient_norm": float(norm), "learning_rate": rate}
        if not math.isfinite(record["loss"]):
            raise UserError(
                f"the loss became {record['loss']} at update {self.step + 1}; the last checkpoint in"
                f" {self.output} is sound: lower train.learning_rate or look at the data"
            )
        return {
            **record,
            **{f"loss/{name}": value for name, value in zip(losses, totals, strict=True)},
        }

    def _save(self) -> Path:
        folder = self.output / "checkpoints"
        path = folder / f"{checkpoint.PREFIX}{self.step:08d}"
        if self.accelerator.is_main_process:
            path = checkpoint.save(
                folder,
                self.step,
                self.policy,
                self.optimizer,
                self.config,
                self.problem.facts,
                {"world_size": self.accelerator.num_processes},
                self.config.train.keep_checkpoints,
            )
        self.accelerator.wait_for_everyone()
        return path

    def _check_replicas(self) -> None:
        """Every process must hold the same parameters to the bit; anything else is our bug."""
        digest = hashlib.sha256()
        for weight in self.policy.state_dict().values():
            digest.update(weight.cpu().numpy().tobytes())
        own = torch.tensor(int.from_bytes(digest.digest()[:7]), device=self.accelerator.device)
        all_digests = self.accelerator.gather(own.reshape(1)).tolist()
        if len(set(all_digests)) != 1:
            raise RuntimeError(f"the processes ended with different parameters: {all_digests}")
        if len(all_digests) > 1:
            self.reporter.say(
                f"{len(all_digests)} processes ended with the same parameters ({all_digests[0]:x})"
            )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the run after the step at hand (one process; several just stop)."""
        if self.accelerator.num_processes > 1:
            yield
            return

        def remember(number: int, _: Any) -> None:
            self.signal = number

        former = {
            number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


class _Metrics:
    """metrics.jsonl and TensorBoard; what a killed run wrote past its checkpoint is cut off."""

    def __init__(self, output: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = output / "metrics.jsonl"
        kept = []
        if step and path.is_file():
            for line in path.read_text().splitlines(keepends=True):
                if not line.endswith("\n") or json.loads(line)["step"] > step:
                    break
                kept.append(line)
        path.write_text("".join(kept))
        self.file = open(path, "a", buffering=1)
        self.board = SummaryWriter(output / "tensorboard", purge_step=step + 1 if step else None)

    def write(self, record: dict[str, float]) -> None:
        self.file.write(json.dumps(record) + "\n")
        for key, value in record.items():
            if key != "step":
                self.board.add_scalar(key, value, int(record["step"]))

    def close(self) -> None:
        self.file.close()
        self.board.close()


def _step_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def open_run(output: Path, resume: bool) -> Path | None:
    """Make the run's folder -> the outermost folder that had to be made, None if it was there.

    UserError when it cannot be made, already holds a run, or holds none to resume.
    """
    missing = [path for path in (output, *output.parents) if not path.exists()]
    try:
        output.mkdir(parents=True, exist_ok=True)
        taken = any(output.iterdir())
    except OSError as error:
        raise UserError(f"cannot use the output folder {output}: {error.strerror}") from error
    if resume and taken and not (output / "config.yaml").is_file():
        raise UserError(f"nothing to resume in {output}: it holds no config.yaml")
    if taken and not resume:
        raise UserError(
            f"{output} is not empty; add --resume to go on with it, or name another --output"
        )
    return missing[-1] if missing else None


def check_same_run(output: Path, config: Config) -> None:
    """UserError naming the keys in which a resumed run would differ in a way that matters."""
    before = _flat(to_tree(load(Config, read_yaml(output / "config.yaml"))))
    now = _flat(to_tree(config))
    differing = [
        f"{key} ({before.get(key)} -> {now.get(key)})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(RESUMABLE)
    ]
    if config.train.schedule == "constant":  # then more steps leave the former ones as they were
        differing = [line for line in differing if not line.startswith("train.steps ")]
    require(not differing, f"cannot resume {output} with another {', '.join(differing)}")


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def train(
    config: Config,
    output: Path,
    resume: bool = False,
    processes: int | None = None,
    reporter: Reporter | None = None,
) -> Path | None:
    """Train a run in `output` -> its last checkpoint, None on all processes but the main one.

    Every process of a launch calls it. UserError on anything the user can mend; then nothing is
    left behind by a run that could not begin.
    """
    reporter = reporter or Reporter()
    accelerator = start_accelerator(config.train, processes)
    together = (
        "1 process trains"
        if accelerator.num_processes == 1
        else (f"{accelerator.num_processes} processes train together")
    )
    reporter.say(
        f"{together} on {accelerator.device.type}, {torch.get_num_threads()} thread(s) each,"
        f" {config.train.precision}"
    )
    problem = _first_on_main(accelerator, lambda: _begin(config, output, resume, reporter))
    trainer = Trainer(problem, output, accelerator, reporter)
    if resume:
        trainer.resume()
    trainer.run()
    accelerator.wait_for_everyone()  # else gloo may abort at exit
    main = accelerator.is_main_process
    accelerator.end_training()
    return checkpoint.find(output) if main else None


def _begin(config: Config, output: Path, resume: bool, reporter: Reporter) -> Problem:
    """Everything that may fail by the user's doing, before a run's first file is written."""
    made = open_run(output, resume)
    try:
        problem = prepare(config, reporter)
        config.policy.build(problem.spec)
        label(problem.store, problem.config.conditioning)
        if resume and (output / "config.yaml").is_file():
            check_same_run(output, problem.config)
    except UserError:
        if made is not None:
            shutil.rmtree(made)
        raise
    (output / "config.yaml").write_text(dump(problem.config))
    return problem


def _first_on_main(accelerator: Accelerator, begin: Callable[[], Problem]) -> Problem:
    """`begin` on the main process; if it failed everywhere fails, else the others open the data."""
    problem, failure = None, None
    if accelerator.is_main_process:
        try:
            problem = begin()
        except UserError as error:
            failure = str(error)
    outcome = broadcast_object_list([failure, problem.config if problem else None])
    if outcome[0] is not None:
        raise UserError(outcome[0])
    return problem or prepare(outcome[1], Reporter())


def finish(
    path: Path, output: Path, command: Sequence[str], reporter: Reporter | None = None
) -> Scores | None:
    """Evaluate a run's last checkpoint and write scores.json and provenance.json beside it."""
    config = load(Config, read_yaml(output / "config.yaml"))
    scores = None
    if config.evaluation.episodes:
        scores = evaluate_checkpoint(
            path, None, config.evaluation.episodes, config.evaluation.seed, reporter=reporter
        )
        write_json(output / "scores.json", scores_json(scores))
    store = open_dataset(
        config.dataset,
        Request(config.evaluation.env_id, config.collection.steps, config.collection.seed),
    )
    write_json(output / "provenance.json", provenance(config, store, command))
    return scores


def provenance(config: Config, store: EpisodeStore, command: Sequence[str]) -> dict[str, Any]:
    """What made a run: command, data, code, packages, machine."""
    packages = ("decision-seq", "torch", "numpy", "accelerate", "gymnasium", "mujoco")
    return {
        "command": ["decision-seq", *command],
        "config": to_tree(config),
        "data": {key: value for key, value in store.header.items() if key != "columns"},
        "commit": _commit(),
        "packages": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "machine": {
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        },
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """The checkout's commit, None where the package does not run from one."""
    folder = Path(__file__).parent
    git = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    if shutil.which("git") is None or not (folder.parent / ".git").exists():
        return None
    outcome = subprocess.run(git, capture_output=True, text=True, check=False)
    return outcome.stdout.strip() or None
