"""The training loop: update, log, save, evaluate, with exact resumption.

All random numbers of an update are a function of (seed, step, rank, micro-batch): the sampler draws
the windows from it, and it seeds torch's generator for dropout. A run resumed from a checkpoint
therefore repeats the uninterrupted one to the bit, and no generator state has to be saved. On
another number of processes the windows are the same, and without dropout the losses are equal up to
rounding.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from decision_seq import checkpoint
from decision_seq.config import save_text
from decision_seq.evaluation import Evaluation
from decision_seq.formatting import number_text
from decision_seq.policies import Policy
from decision_seq.sequences.device import DeviceSource, HostSource
from decision_seq.sequences.windows import Sampler, WindowGatherer
from decision_seq.training import best
from decision_seq.training.averages import Averages
from decision_seq.training.config import PRECISIONS, TrainConfig
from decision_seq.training.evaluations import Evaluations
from decision_seq.training.graph import GraphedUpdate
from decision_seq.training.groups import make_optimizer
from decision_seq.training.launch import Ranks
from decision_seq.training.metrics import Clock, Metrics, trim
from decision_seq.training.pace import Pace, Work, pace
from decision_seq.training.parallel import (
    digest,
    distribute,
    fill_moments,
    fill_weights,
    full_moments,
    full_rows,
    full_weights,
    group_counts,
    spread_rows,
)
from decision_seq.training.signals import Interrupted, Signals
from decision_seq.training.throughput import Throughput, cost_of_a_window, peak_tflops
from decision_seq.training.update import Update, UpdateResult
from decision_seq.types import Reporter, TargetScore, UserError


@dataclasses.dataclass(frozen=True)
class Job:
    """A training run: its policy, data, settings and evaluation."""

    config: TrainConfig
    """Settings of the optimizer and the loop."""
    seed: int
    """Seed of the updates."""
    build: Callable[[], Policy]
    """Makes the untrained policy without the data, with the same weights at every call."""
    fit: Callable[[Policy], None]
    """Fills in the policy's statistics of the data (means, bins), once per process."""
    sampler: Sampler
    """Sampler of the windows of every update."""
    gatherer: WindowGatherer
    """Reader of the windows."""
    output: Path
    """Folder of the run."""
    described: dict[str, Any]
    """Tree that is written to every checkpoint's config.yaml."""
    forwards: float = 0.5
    """Forward passes of a window that an action takes; see `PolicyConfig.forwards`."""
    evaluation: Evaluation | None = None
    """Evaluation by rollouts; None for no rollouts."""
    evaluate_every: int | None = 0
    """Updates between evaluations; 0 for a single one at the end, None for `pace` to decide."""
    episodes_during: int | None = None
    """Episodes of an evaluation during training; see `Evaluation.during`."""
    require_there: Callable[[], None] = lambda: None
    """Called before a file is written: UserError unless the folder is still in its place."""

    def with_pace(self, decided: Pace) -> Job:
        """The job with these evaluations during training, in its description too."""
        keys = {"every": decided.every, "episodes_during": decided.episodes}
        asked = {**self.described.get("evaluation", {}), **keys}
        return dataclasses.replace(
            self,
            evaluate_every=decided.every,
            episodes_during=decided.episodes,
            described={**self.described, "evaluation": asked},
        )


class Trainer:
    """The training loop. Every process of a launch has one."""

    def __init__(
        self, job: Job, accelerator: Accelerator, ranks: Ranks, reporter: Reporter
    ) -> None:
        config = job.config
        self.config = config
        self.accelerator, self.ranks, self.reporter = accelerator, ranks, reporter
        device, dtype = accelerator.device, PRECISIONS[config.precision][0]
        policy = job.build()
        job.fit(policy)
        self.policy = policy.to(device=device, dtype=dtype)
        source = HostSource(job.gatherer, device, dtype)
        cost = cost_of_a_window(self.policy, source)
        self.job = job = self._paced(job, cost.flops)
        resident = config.data_on_device or config.cuda_graph
        model = distribute(self.policy, config, accelerator)
        self.optimizer = make_optimizer(self.policy, config)
        self.averages = None if config.ema is None else Averages(self.policy, config.ema)
        self.update = (GraphedUpdate if config.cuda_graph else Update)(
            config,
            job.seed,
            self.policy,
            model,
            self.optimizer,
            job.sampler,
            DeviceSource(job.gatherer, device, dtype) if resident else source,
            accelerator,
        )
        peak = config.peak_tflops or peak_tflops(device, config.precision)
        self.throughput = Throughput(config.batch_size, cost, peak, ranks.world)
        self.checkpoints = job.output / "checkpoints"
        self.step = 0
        self.clock = Clock()
        self.signals = Signals()
        self.evaluations = (
            Evaluations(job.evaluation, job.output, ranks, reporter, job.require_there)
            if job.evaluation
            else None
        )
        self._unsound = torch.tensor(-1, device=device)  # the first update that was not finite

    def _paced(self, job: Job, flops: float) -> Job:
        """The job with its evaluations decided, as the main process decides them."""
        evaluation, ranks = job.evaluation, self.ranks
        if evaluation is None:
            return job.with_pace(Pace(job.evaluate_every or 0, job.episodes_during))
        if job.evaluate_every is not None:
            return job
        lengths = job.gatherer.store.lengths
        work = Work(
            steps=job.config.steps,
            batch_size=job.config.batch_size,
            flops=flops,
            forwards=job.forwards,
            episode_steps=float((lengths**2).sum() / lengths.sum()),
            layout=lambda count: evaluation.layout(self.policy, count, ranks.world == 1),
            device=self.accelerator.device.type,
            threads=torch.get_num_threads(),
            world=ranks.world,
        )
        decided = ranks.from_main(
            lambda: list(pace(evaluation, job.episodes_during, work, self.reporter))
        )
        return job.with_pace(Pace(*decided))

    def resume(self) -> None:
        """Load the newest sound checkpoint; do nothing where there is none yet."""
        held: list[dict[str, torch.Tensor]] = [{}, {}, {}, {}]

        def read() -> dict[str, Any] | None:
            checkpoint.require_own(self.checkpoints)
            checkpoint.sweep(self.checkpoints)
            path = checkpoint.newest_sound(self.checkpoints, self.reporter)
            if path is None:
                self.reporter.say(
                    f"no checkpoint yet in {self.job.output}: training starts from the beginning"
                )
                return None
            names = [checkpoint.WEIGHTS]
            if self.averages is not None:
                names.insert(0, checkpoint.TRAINED)
            for place, name in enumerate(names):
                held[place] = checkpoint.read_weights(path, name, checked=True)
                checkpoint.check_fit(held[place], self.policy, path)
            held[2] = checkpoint.read_moments(path, self.policy, self.config.optimizer)
            held[3] = checkpoint.read_carried(path)
            state = checkpoint.read_trainer(path)
            groups = len(self.optimizer.param_groups)
            checkpoint.check_counts(state, self.config.optimizer, groups, path)
            self.reporter.say(f"resumed from {path}")
            return state

        state = self.ranks.from_main(read)
        if state is None:
            return
        fill_weights(self.policy, held[0], self.accelerator)
        if self.averages is not None:
            fill_weights(self.averages, held[1], self.accelerator)
        counts = state.get("optimizer", [])
        fill_moments(self.optimizer, self.policy, held[2], counts, self.accelerator)
        carried = spread_rows(held[3], self.config.batch_size, self.accelerator)
        if carried:
            self.update.carry_on(carried)
        self.update.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self.clock.before = state.get("seconds") or 0.0  # older checkpoints have none
        before, now = state["topology"], self._topology()
        changed = [
            f"{key} {before.get(key)} -> {now[key]}" for key in now if before.get(key) != now[key]
        ]
        if changed:
            self.reporter.say(
                f"another topology ({', '.join(changed)}): the windows are the same; the losses are"
                " equal up to rounding without dropout, but not to the bit"
            )

    def run(self) -> dict[str, Any] | None:
        """Train to the last step -> the last evaluation's record, None without one.

        Checkpoints and metrics are saved during training. Raises Interrupted after a signal. Must
        be called inside `signals.caught()`.
        """
        config = self.config
        self.clock.start()
        opened: list[Metrics] = []  # on the main process
        self.ranks.from_main(lambda: opened.append(self._metrics()))
        with opened[0] if opened else nullcontext() as metrics:
            with self.reporter.bar("train", "update", config.steps, self.step) as bar:
                self._evaluate_when_due(final=False, metrics=metrics)
                self.throughput.begin()
                while self.step < config.steps:
                    outcome = self._update()
                    bar.update()
                    alone = self.ranks.world == 1
                    stop = outcome.signalled or (alone and self.signals.number is not None)
                    saved = stop or self._due(self.step)
                    record = self._record(outcome, saved)
                    if record and metrics:
                        metrics.write({"step": self.step, **self.clock.stamp(), **record})
                        loss = number_text(record["loss"] or 0.0, 4)
                        bar.set_postfix_str(f"loss {loss}", refresh=False)
                    if saved:
                        path = self._save()
                        if stop:
                            raise Interrupted(self.signals.number, path)
                        self._evaluate_when_due(final=False, metrics=metrics)
                        self.throughput.begin()
            self._check_replicas()
            return self._evaluate_when_due(final=True, metrics=metrics)

    def _metrics(self) -> Metrics:
        if self.evaluations is not None:
            trim(self.evaluations.path, self.step)
        self.job.require_there()
        checkpoint.require_own(self.checkpoints)
        job, trackers = self.job, self.config.trackers
        return Metrics(job.output, self.step, trackers, job.described, job.require_there)

    def _due(self, step: int) -> bool:
        """Whether a checkpoint is written after update `step`."""
        every = step % self.config.checkpoint_every == 0
        return every or step == self.config.steps or self._evaluated(step)

    def _evaluated(self, step: int) -> bool:
        """Whether the policy is rolled out after update `step`."""
        every = self.job.evaluate_every or 0
        due = step == self.config.steps or (every > 0 and step > 0 and step % every == 0)
        return self.job.evaluation is not None and due

    def _update(self) -> UpdateResult:
        outcome = self.update(self.step, self.signals.number is not None)
        if self.averages is not None:
            self.averages.update()
        self.throughput.add(outcome.data_seconds)
        # Stored on the device and read with the next record, so as not to wait for a GPU.
        sound = torch.stack(list(outcome.losses.values())).isfinite().all()
        if not self.update.scaler.is_enabled():  # the scaler skips overflows
            sound &= outcome.gradient_norm.isfinite()
        first = (self._unsound < 0) & ~sound
        self._unsound = torch.where(first, self.step, self._unsound)
        self.step += 1
        return outcome

    def _record(self, outcome: UpdateResult, saved: bool) -> dict[str, float | None] | None:
        """The record of the last update, or None where none is due; UserError for a loss or
        gradient that is not finite.

        saved: whether the update's weights will be saved; its losses are then always checked.
        """
        if self.step % self.config.log_every != 0 and not saved:
            return None
        named = {f"loss/{name}": value for name, value in outcome.losses.items()}
        named |= {f"metric/{name}": value for name, value in outcome.metrics.items()}
        totals = self.accelerator.reduce(torch.stack(list(named.values())), "sum").tolist()
        seen = dict(zip(named, totals, strict=True))
        factors = {n: self.policy.loss_weights.get(n, 1.0) for n in outcome.losses}
        loss = sum(seen[f"loss/{name}"] * factor for name, factor in factors.items())
        norm = float(outcome.gradient_norm)
        unsound = [
            step for step in self.accelerator.gather(self._unsound).flatten().tolist() if step >= 0
        ]
        if unsound:
            self._stop_unsound(min(unsound), loss, norm)
        return {
            "loss": loss,
            **{name: value if math.isfinite(value) else None for name, value in seen.items()},
            **{f"loss_weight/{name}": value for name, value in factors.items() if value != 1},
            "gradient_norm": norm if math.isfinite(norm) else None,
            "learning_rate": outcome.learning_rate,
            **self.throughput.read(self.accelerator.device),
        }

    def _stop_unsound(self, step: int, loss: float, norm: float) -> None:
        """Save the batch of the update `step` that was not finite, and raise UserError."""
        ids = self.job.sampler.ids(step)
        fault = self.job.output / "fault.json"
        seen = {"update": self.step, "loss": str(loss), "gradient_norm": str(norm)}
        if self.ranks.is_main:
            save_text(
                fault,
                json.dumps({"update": step + 1, "windows": ids.tolist(), "seen_at": seen}),
            )
        listed = ", ".join(map(str, ids[:6])) + (", ..." if len(ids) > 6 else "")
        raise UserError(
            f"the loss became {loss}, its gradient {norm}, at update {step + 1}, windows begin"
            f" at rows {listed} (all in {fault}); the checkpoints are from before. Lower"
            " train.learning_rate, or look for extreme numbers in those rows"
        )

    def _topology(self) -> dict[str, Any]:
        """Settings that must be equal for a resumed run to repeat the original to the bit."""
        device = self.accelerator.device
        return {
            "processes": self.ranks.world,
            "accumulation": self.config.accumulation,
            "sharded": self.config.parallel == "fsdp",
            "compile": self.config.compile,
            "cuda_graph": self.config.cuda_graph,
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "torch": torch.__version__,
        }

    def _save(self) -> Path:
        weights = full_weights(self.policy)
        averages = None if self.averages is None else full_weights(self.averages)
        moments = full_moments(self.optimizer, self.policy)
        carried = full_rows(self.update.carried_rows(), self.config.batch_size, self.accelerator)
        state: dict[str, Any] = {
            "topology": self._topology(),
            "scaler": self.update.scaler.state_dict(),
            "seconds": self.clock.seconds(),
        }
        counts = group_counts(self.optimizer)
        if any(counts):
            state["optimizer"] = counts

        def write() -> str:
            self.job.require_there()
            path = checkpoint.save(
                self.checkpoints,
                self.step,
                checkpoint.Tensors(weights, moments, averages, carried),
                self.job.described,
                state,
            )
            self._prune()
            return str(path)

        return Path(self.ranks.from_main(write))

    def _prune(self) -> None:
        noted = best.read(self.checkpoints)
        checkpoint.prune(
            self.checkpoints,
            self.step,
            self.config.keep_checkpoints,
            self.config.keep_every,
            noted["step"] if noted else None,
        )

    def _evaluate_when_due(self, final: bool, metrics: Metrics | None) -> dict[str, Any] | None:
        """Roll the policy out where an evaluation is due -> its record, None where none is.

        A signal ends it at once: the checkpoint of this step is already written, and a resumed run
        evaluates it first.
        """
        here = self._evaluated(self.step) and final == (self.step == self.config.steps)
        if self.evaluations is None or not here:
            return None
        evaluation = self.evaluations.whole.during(None if final else self.job.episodes_during)
        record = self.evaluations.record(
            evaluation, self.step, self._evaluation_copy, self.signals, self.clock, metrics
        )
        if record is None:
            name = f"{checkpoint.PREFIX}{self.step:08d}"
            raise Interrupted(self.signals.number, self.checkpoints / name)
        if self.config.keep_best == "return":
            score = TargetScore.of(record["targets"][0])

            def note() -> None:
                self.job.require_there()
                best.note(self.checkpoints, self.step, score)
                self._prune()

            self.ranks.from_main(note)
        return record

    def _evaluation_copy(self) -> Policy:
        """A copy of the whole policy in fp32, equal to the one in a checkpoint of this step."""
        whole = full_weights(self.averages or self.policy)
        copy = self.job.build()
        copy.load_state_dict(whole)
        return copy.to(self.accelerator.device)

    def _check_replicas(self) -> None:
        """Raise RuntimeError unless all processes have equal parameters, to the bit."""
        digests = self.ranks.gather(digest(self.policy))
        if len(set(digests)) != 1:
            raise RuntimeError(f"the processes ended with different parameters: {digests}")
        if len(digests) > 1:
            self.reporter.say(
                f"{len(digests)} processes ended with the same parameters ({digests[0]})"
            )
