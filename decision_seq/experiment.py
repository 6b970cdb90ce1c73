"""One run, from its configuration to its scores: what `decision-seq train` does.

`run` opens the data, resolves the configuration by them, trains, evaluates the last checkpoint and
writes what a reader needs to believe it:

    config.yaml       the resolved configuration     metrics.jsonl, tensorboard/   on the way
    provenance.json   data, code, packages, machine  checkpoints/step-NNNNNNNN/    see checkpoint.py
    scores.json       every episode of every target
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from decision_seq import checkpoint
from decision_seq.config import dump, load, plain, read_yaml, require, save_text, to_tree
from decision_seq.data.conditioning import label
from decision_seq.data.sampler import WindowGatherer
from decision_seq.evaluate import check_environment, evaluate_checkpoint
from decision_seq.problem import Config, Problem, prepare, window_index
from decision_seq.provenance import provenance
from decision_seq.report import scores_json, write_json
from decision_seq.train import Trainer, start_accelerator
from decision_seq.types import Reporter, Scores, UserError

# Keys in which a resumed run may differ from the one it goes on from.
RESUMABLE = ("train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "evaluation.")


def open_run(output: Path, resume: bool) -> Path | None:
    """Make the run's folder -> the outermost folder that had to be made, None if it was there.

    UserError when it cannot be made, already holds a run, or holds none to resume.
    """
    if resume and not output.exists():
        raise UserError(f"nothing to resume: {output} does not exist")
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


def check_same_run(output: Path, problem: Problem) -> None:
    """UserError naming the keys in which a resumed run would differ in a way that matters."""
    config = problem.config
    for saved in checkpoint.checkpoints(output / "checkpoints")[-1:]:
        source = read_yaml(saved / "config.yaml").get("data", {}).get("source")
        require(
            source == problem.facts.source,
            f"cannot resume {output}: it was trained on {source}, now the data are"
            f" {problem.facts.source}",
        )
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
    command: Sequence[str] = (),
) -> Path | None:
    """Train a run in `output` -> its last checkpoint, None on all processes but the main one.

    processes: refuse to start with any other number; command: what was typed, for the record.
    Every process of a launch calls it. UserError on anything the user can mend; then nothing is
    left behind by a run that could not begin.
    """
    reporter = reporter or Reporter()
    accelerator = start_accelerator(config.train, processes)
    together = (
        "1 process trains"
        if accelerator.num_processes == 1
        else f"{accelerator.num_processes} processes train together"
    )
    reporter.say(
        f"{together} on {accelerator.device.type}, {torch.get_num_threads()} thread(s) each,"
        f" {config.train.precision}"
    )
    problem = _first_on_main(accelerator, lambda: _begin(config, output, resume, reporter, command))
    trainer = _trainer(problem, output, accelerator, reporter)
    if resume:
        trainer.resume()
    trainer.run()
    accelerator.wait_for_everyone()  # else gloo may abort at exit
    main = accelerator.is_main_process
    accelerator.end_training()
    return checkpoint.find(output) if main else None


def _trainer(
    problem: Problem, output: Path, accelerator: Accelerator, reporter: Reporter
) -> Trainer:
    config, store = problem.config, problem.store
    torch.manual_seed(config.seed)  # the same first weights on every process
    policy = config.policy.build(problem.spec)
    policy.fit(store)
    gatherer = WindowGatherer(
        store,
        label(store, config.conditioning),
        config.policy.context_length,
        problem.spec.max_timestep,
    )
    described = {**to_tree(config), "spec": plain(problem.spec), "data": plain(problem.facts)}
    return Trainer(
        config.train,
        config.seed,
        policy,
        window_index(config, store),
        gatherer,
        output,
        described,
        accelerator,
        reporter,
    )


def _begin(
    config: Config, output: Path, resume: bool, reporter: Reporter, command: Sequence[str]
) -> Problem:
    """Everything that may fail by the user's doing, before a run's first file is written."""
    made = open_run(output, resume)
    try:
        problem = prepare(config, reporter)
        record = provenance(to_tree(problem.config), problem.store, command)
        settled = dump(problem.config)
        config.policy.build(problem.spec)
        label(problem.store, problem.config.conditioning)
        if problem.config.evaluation.episodes:
            check_environment(str(problem.facts.env_id), problem.spec)
        if resume and (output / "config.yaml").is_file():
            check_same_run(output, problem)
    except BaseException:  # Ctrl-C too: what could not begin leaves nothing
        if made is not None:
            _remove_empty(output, made)
        raise
    save_text(output / "config.yaml", settled)
    write_json(output / "provenance.json", record)
    return problem


def _remove_empty(output: Path, made: Path) -> None:
    """Take away the folders from `output` up to `made`; another run may have moved in beside."""
    for folder in (output, *output.parents):
        try:
            folder.rmdir()
        except OSError:
            return  # not empty: somebody else's
        if folder == made:
            return


def _first_on_main(accelerator: Accelerator, begin: Callable[[], Problem]) -> Problem:
    """`begin` on the main process; if it failed everywhere fails, else the others open the data."""
    problem, failure = None, None
    if accelerator.is_main_process:
        try:
            problem = begin()
        except UserError as error:
            failure = str(error)
    found = (problem.config, str(problem.store.path)) if problem else (None, "")
    outcome = broadcast_object_list([failure, *found])
    if outcome[0] is not None:
        raise UserError(outcome[0])
    if problem is not None:
        return problem
    config, store = outcome[1:]
    if Path(store).is_dir():  # the very data, where the disk is shared
        config = dataclasses.replace(config, dataset=store)
    return prepare(config, Reporter())


def finish(path: Path, output: Path, reporter: Reporter | None = None) -> Scores | None:
    """Evaluate a run's last checkpoint by its own protocol and write scores.json."""
    evaluation = load(Config, read_yaml(output / "config.yaml")).evaluation
    if evaluation.episodes == 0:
        return None
    scores = evaluate_checkpoint(
        path,
        evaluation.targets,
        evaluation.episodes,
        evaluation.seed,
        evaluation.env_id,
        reporter=reporter,
    )
    write_json(output / "scores.json", scores_json(scores))
    return scores
