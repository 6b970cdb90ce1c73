"""One run, from its configuration to its scores: the command `decision-seq train`.

`train` opens the data, resolves the configuration by them, trains, evaluates the last checkpoint
and writes a record of all of it:

    config.yaml       the resolved configuration     metrics.jsonl, tensorboard/   during training
    provenance.json   data, code, packages, machine  checkpoints/step-NNNNNNNN/    see checkpoint.py
    scores.json       every episode of every target  evaluations.jsonl   scores of all evaluations
    offline.json      errors on held-out episodes, where some were held out
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator

from decision_seq import checkpoint
from decision_seq.config import dump, flat, load, plain, read_yaml, require, save_text, to_tree
from decision_seq.envs import environment_notes
from decision_seq.envs.named import is_trusted
from decision_seq.evaluation import (
    Evaluation,
    EvaluationConfig,
    check_environment,
    compute_device,
    limit_notes,
)
from decision_seq.evaluation.held_out import OfflineScores, held_out_scores
from decision_seq.policies import Policy
from decision_seq.report import scores_json, write_json
from decision_seq.runs.folder import Held, Resume, is_run, run_folder
from decision_seq.runs.initial import Source, frozen
from decision_seq.runs.provenance import Launched
from decision_seq.runs.resolve import Config, Problem, make_sampler, prepare
from decision_seq.sequences.conditioning import label
from decision_seq.sequences.windows import WindowGatherer
from decision_seq.training import Interrupted, Job, Ranks, Trainer, start_accelerator
from decision_seq.training.launch import watched
from decision_seq.training.metrics import check_trackers
from decision_seq.types import Reporter, Scores, Spec, TargetScore
from decision_seq.user_choices import Named, remember

# Keys in which a resumed run may differ from the original run. They change the saved files, and how
# an update of the same windows is computed.
RESUMABLE = (
    *("train.log_every", "train.checkpoint_every", "train.keep_", "train.track"),
    *("train.accumulation", "train.parallel", "train.checkpoint_activations", "train.compile"),
    *("train.data_on_device", "train.cuda_graph", "train.peak_tflops", "evaluation."),
    *("frame_memory", "method", "plugins"),
)


def check_same_run(output: Path, problem: Problem) -> Spec:
    """The spec of the resumed run: its newest checkpoint's, else the problem's.

    The range of a checkpoint's actions may come from an environment that is now another, or
    missing. UserError with the keys that make it another run, see `differing_keys`.
    """
    config, spec = problem.config, problem.spec
    saved = checkpoint.newest_sound(output / "checkpoints", Reporter())
    tree = read_yaml(output / "config.yaml")
    if saved is not None:
        # The checkpoint's copy has a checksum; the run's own file may have been edited or cut.
        tree = read_yaml(saved / "config.yaml")
        source = tree.pop("data", {}).get("source")
        spec = Spec.of(tree.pop("spec"))
        require(
            source == problem.facts.source,
            f"cannot resume {output}: it was trained on {source}, now the data are"
            f" {problem.facts.source}",
        )
        done = checkpoint.read_trainer(saved)["step"]
        require(
            config.train.steps >= done,
            f"cannot resume {output} with train.steps {config.train.steps}: {done} are done; score"
            " an earlier checkpoint by `decision-seq evaluate`, or begin another run",
        )
    found = differing_keys(load(Config, tree), config)
    differing = [f"{key} ({before} -> {now})" for key, (before, now) in found.items()]
    wayout = ""
    if "train.steps" in found:  # the learning rate of earlier updates depends on it
        wayout = (
            f"; under train.schedule {config.train.schedule} every update depends on train.steps:"
            f" go on from its weights by another run with --init-from {output}"
        )
    require(not differing, f"cannot resume {output} with another {', '.join(differing)}{wayout}")
    return spec


def differing_keys(before: Config, now: Config) -> dict[str, tuple[Any, Any]]:
    """The keys that make `now` another run than `before`, with both values."""
    old, new = flat(to_tree(before)), flat(to_tree(now))
    differing = {
        key: (old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(RESUMABLE)
    }
    if now.train.schedule == "constant":  # then more steps do not change the earlier ones
        differing.pop("train.steps", None)
    return differing


class Finished(NamedTuple):
    """Results of a finished run."""

    checkpoint: Path
    """The last checkpoint."""
    scores: Scores | None
    """Its scores; None without a rollout."""
    offline: OfflineScores | None
    """Its measures on held-out episodes; None where none were held out."""


def train(
    config: Config,
    output: Path,
    resume: Resume = "never",
    processes: int | None = None,
    reporter: Reporter | None = None,
    command: Sequence[str] = (),
) -> Finished | None:
    """Train and evaluate a run in `output`; None on all processes but the main one.

    Every process of a launch calls it. processes: the required number of processes, None for any;
    command: the command line, for the provenance. UserError on anything the user can mend; a run
    that could not begin leaves no files.
    """
    reporter = reporter or Reporter()
    with ExitStack() as held_by_main, watched():
        accelerator = start_accelerator(config.train, processes)
        ranks = Ranks(accelerator)
        reporter.say(describe_launch(config, ranks, accelerator.device))

        folders: list[Held] = []  # on the main process, which alone writes
        sources: list[Source] = []  # on the main process, whose weights all take

        def require_there() -> None:
            for folder in folders:
                folder.require_there()

        def begin() -> Problem:
            folders.append(held_by_main.enter_context(run_folder(output, resume)))
            problem = prepare_checked(config, output, reporter)
            if config.init_from and not has_checkpoint(output):  # else that one is resumed
                sources.append(Source.open(config.init_from, reporter))
                problem = begin_from(sources[0], problem, reporter)
            return problem

        problem = share_problem(ranks, begin)
        source = sources[0] if sources else None
        job = make_job(problem, output, require_there, source)
        trainer = Trainer(job, accelerator, ranks, reporter)
        problem = _with_pace(problem, trainer.job)
        launched = Launched.now(command, ranks.world, accelerator.device, source)
        ranks.from_main(lambda: _write_first_files(problem, output, launched, reporter))
        if resume != "never":
            trainer.resume()
        with trainer.signals.caught():
            try:
                record = trainer.run()
            except Interrupted:
                leave(accelerator)
                raise
            leave(accelerator)
        if not ranks.is_main:
            return None
        require_there()
        path = checkpoint.find(output)
        scores = _scores(problem, path, record) if record else None
        if scores is not None:
            write_json(output / "scores.json", scores_json(scores))
        offline = None
        if problem.config.held_out:
            device = str(accelerator.device)
            loaded = checkpoint.load(path, compute_device(device))
            offline = held_out_scores(loaded, problem.config.held_out, problem.store)
            write_json(output / "offline.json", dataclasses.asdict(offline))
        return Finished(path, scores, offline)


def leave(accelerator: Accelerator) -> None:
    """End the launch on all ranks together; when they exit at different times, gloo may abort."""
    accelerator.wait_for_everyone()
    accelerator.end_training()


def describe_launch(config: Config, ranks: Ranks, device: torch.device) -> str:
    """The first line of every launch: the number of processes, the device and the precision."""
    together = "1 process trains"
    if ranks.world > 1:
        how = "sharded (FSDP2)" if config.train.parallel == "fsdp" else "DDP"
        together = f"{ranks.world} processes train together, {how},"
    return (
        f"{together} on {device.type}, {torch.get_num_threads()} thread(s) each,"
        f" {config.train.precision}"
    )


def begin_from(source: Source, problem: Problem, reporter: Reporter) -> Problem:
    """The problem of a run that begins with the source's weights; UserError if they do not fit."""
    spec = source.fit_spec(problem.spec)
    source.report(problem.config.conditioning, reporter)
    source.fill(problem.config.policy.build(spec), reporter)
    return dataclasses.replace(problem, spec=spec)


def make_job(
    problem: Problem,
    output: Path,
    require_there: Callable[[], None] = lambda: None,
    source: Source | None = None,
) -> Job:
    """The trainer's job for a problem.

    require_there: see `Job`. source: of the first weights, on the main process, from which the
    others receive them.
    """
    config, store, facts = problem.config, problem.store, problem.facts
    conditions = label(store, config.conditioning)

    def build() -> Policy:
        torch.manual_seed(config.seed)  # the same first weights every time, on every process
        return frozen(config.policy.build(problem.spec), config.train.freeze)

    def fit(policy: Policy) -> None:
        policy.fit(store, conditions)
        if source is not None:
            source.fill(policy, Reporter())

    gatherer = WindowGatherer(
        store,
        conditions,
        config.policy.context_length,
        problem.spec.max_timestep,
        config.policy.futures,
    )
    evaluation = config.evaluation
    return Job(
        config.train,
        config.seed,
        build,
        fit,
        make_sampler(config, store),
        gatherer,
        output,
        {**to_tree(config), "spec": plain(problem.spec), "data": plain(facts)},
        config.policy.forwards,
        Evaluation.of(
            evaluation,
            config.conditioning,
            config.policy.context_length,
            facts,
        )
        if evaluation.episodes
        else None,
        evaluation.every,
        evaluation.episodes_during,
        require_there,
    )


def prepare_checked(config: Config, output: Path, reporter: Reporter) -> Problem:
    """Prepare the problem as `train` does; UserError where the run cannot begin or resume."""
    check_trackers(config.train.trackers)
    problem = prepare(config, reporter)
    label(problem.store, problem.config.conditioning)  # before the other ranks need it
    if is_run(output):
        problem = dataclasses.replace(problem, spec=check_same_run(output, problem))
    evaluation = _decided_before(output, problem.config.evaluation)
    if evaluation.episodes:
        asked = evaluation.max_episode_steps
        limit = check_environment(str(problem.facts.env_id), problem.spec, asked, reporter)
        evaluation = dataclasses.replace(evaluation, max_episode_steps=limit)
    return _with_evaluation(problem, evaluation)


def _with_evaluation(problem: Problem, evaluation: EvaluationConfig) -> Problem:
    config = dataclasses.replace(problem.config, evaluation=evaluation)
    return dataclasses.replace(problem, config=config)


def _decided_before(output: Path, evaluation: EvaluationConfig) -> EvaluationConfig:
    """The evaluations during training that an earlier launch decided on, where they are open."""
    if evaluation.every is not None or not is_run(output):
        return evaluation
    saved = read_yaml(output / "config.yaml").get("evaluation") or {}
    keys = ("every", "episodes_during")
    asked = {key: getattr(evaluation, key) for key in keys if getattr(evaluation, key) is not None}
    known = {key: saved[key] for key in keys if key in saved}
    decided = load(EvaluationConfig, known, asked)
    return dataclasses.replace(
        evaluation, every=decided.every, episodes_during=decided.episodes_during
    )


def _with_pace(problem: Problem, job: Job) -> Problem:
    """The problem with the evaluations that the trainer has decided on."""
    evaluation = dataclasses.replace(
        problem.config.evaluation, every=job.evaluate_every, episodes_during=job.episodes_during
    )
    return _with_evaluation(problem, evaluation)


def has_checkpoint(output: Path) -> bool:
    """Whether the run has a sound checkpoint."""
    return checkpoint.newest_sound(output / "checkpoints", Reporter()) is not None


def _write_first_files(
    problem: Problem, output: Path, launched: Launched, reporter: Reporter
) -> None:
    """Write a run's first files; after them it can be resumed."""
    config = problem.config
    named = Named(_named_environment(config), config.plugins)
    if named != Named(None):
        remember(output, named, reporter)
    save_text(output / "config.yaml", dump(config))
    launched.record(output / "provenance.json", to_tree(config), problem.store)


def _named_environment(config: Config) -> str | None:
    """The environment, if the user named it."""
    env_id = config.evaluation.env_id
    return env_id if env_id and is_trusted(env_id) else None


def share_problem(ranks: Ranks, begin: Callable[[], Problem]) -> Problem:
    """Call `begin` on the main process, then open the same data on the others.

    An error on one process is raised on all.
    """
    found: list[Problem] = []

    def on_main() -> dict[str, Any]:
        found.append(begin())
        problem = found[0]
        return {
            "config": to_tree(problem.config),
            "store": str(problem.store.path),
            "spec": plain(problem.spec),  # its actions may depend on an environment
        }

    said = ranks.from_main(on_main)

    def open_here() -> None:
        if not found:
            config = load(Config, said["config"])
            if Path(said["store"]).is_dir():  # the same store, where the disk is shared
                config = dataclasses.replace(config, dataset=said["store"])
            problem = prepare(config, Reporter())
            found.append(dataclasses.replace(problem, spec=Spec.of(said["spec"])))

    ranks.together(open_here)
    checksums = ranks.gather(found[0].store.checksum)
    other = [rank for rank, checksum in enumerate(checksums) if checksum != checksums[0]]
    require(
        not other,
        f"the data of rank {other[0] if other else 0} are not those of rank 0; copy the store"
        f" {said['store']} to every machine",
    )
    return found[0]


def _scores(problem: Problem, path: Path, record: dict[str, Any]) -> Scores:
    """The scores of the last evaluation, with the facts and notes of the data."""
    facts = problem.facts
    return Scores(
        dataset=facts.dataset,
        source=facts.source,
        env_id=str(facts.env_id),
        checkpoint=str(path),
        targets=[TargetScore.of(tree) for tree in record["targets"]],
        notes=[
            *environment_notes(str(facts.env_id)),
            *facts.notes,
            *limit_notes(problem.config.evaluation.max_episode_steps),
        ],
        env_steps_per_second=record["env_steps_per_second"],
    )
