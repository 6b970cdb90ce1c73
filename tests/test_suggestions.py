"""Tests of the suggestions for unknown keys and options."""

from pathlib import Path

import pytest

from decision_seq.aliases import ALIASES, EXAMPLES
from decision_seq.cli import main
from decision_seq.commands import build_parser
from decision_seq.commands.parsing import option_names
from decision_seq.config import config_classes, flat, load, override, to_tree
from decision_seq.runs.resolve import Config
from decision_seq.suggestions import UnknownKey, meaning, option_meant
from decision_seq.types import UserError

KNOWN = list(flat(to_tree(Config())))
OPTIONS = option_names(build_parser().parse_args(["train"]).parser)

# What is written on the command line -> the end of the answer.
ANSWERS = {
    "--lr": "--train.learning_rate 1e-4?",
    "--learning-rate": "--train.learning_rate 1e-4?",
    "--learning_rat": "--train.learning_rate 1e-4?",
    "--train.lr": "--train.learning_rate 1e-4?",
    "--policy.lr": "--train.learning_rate 1e-4?",
    "--steps": "--train.steps 100000?",
    "--max_iters": "--train.steps 100000?",
    "--stepz": "--train.steps 100000?",
    "--trian.steps": "--train.steps 100000?",
    "--colection.steps": "--collection.steps 100000?",
    "--epochs": "--train.steps 100000? (a run is measured in updates, not epochs)",
    "--batch_size": "--train.batch_size 64?",
    "--bs": "--train.batch_size 64?",
    "--warmup_steps": "--train.warmup_steps 10000?",
    "--weight_decay": "--train.weight_decay 1e-4?",
    "--grad-norm-clip": "--train.clip 0.25?",
    "--betas": "--train.betas '[0.9, 0.999]'?",
    "--optimizer": "--train.optimizer.name adamw?",
    "--compile": "--train.compile true?",
    "--fp16": "--train.precision fp16?",
    "--precision": "--train.precision fp32 or --evaluation.precision fp32?",
    "--wandb": "--train.trackers '[tensorboard, wandb]'?",
    "-K": "--policy.context_length 20?",
    "--K": "--policy.context_length 20?",
    "--policy.K": "--policy.context_length 20?",
    "--context_length": "--policy.context_length 20?",
    "--layers": "--policy.backbone.layers 3?",
    "--n_layer": "--policy.backbone.layers 3?",
    "--policy.layers": "--policy.backbone.layers 3?",
    "--backbone.layers": "--policy.backbone.layers 3?",
    "--policy.n_head": "--policy.backbone.heads 1?",
    "--heads": "--policy.backbone.heads 1?",
    "--embed_dim": "--policy.backbone.width 128?",
    "--hidden_size": "--policy.backbone.width 128?",
    "--policy.backbone.widht": "--policy.backbone.width 128?",
    "--dropout": "--policy.backbone.dropout 0.1?",
    "--policy.dropot": "--policy.backbone.dropout 0.1?",
    "--polcy": "--policy.name dt?",
    "--trian": "--train.KEY VALUE?",
    "--eval_every": "--evaluation.every 500?",
    "--num_eval_episodes": "--evaluation.episodes 50?",
    "--evaluation.episode": "--evaluation.episodes 50?",
    "--rtg": "--evaluation.targets '[3600, 1800]'?",
    "--target_return": "--evaluation.targets '[3600, 1800]'?",
    "--env": "--evaluation.env_id Hopper-v4? (--dataset names the data and, for known ones, the"
    " environment too)",
    "--scale": "--conditioning.scale 1000?",
    "--sed": "--seed 0?",
    "-seed": "--seed 0?",
    "--out": "--output runs/mine?",
    "--outptu": "--output runs/mine?",
    "--train.output_dir": "--output runs/mine?",
    "--config_file": "--config dt/gym?",
    "--gpus": "--processes 2? (it is checked only; `accelerate launch` or `torchrun` starts them)",
    "--restore": "--resume?",
    "--exp_name": "--name mine?",
    "--ckpt": "--init-from runs/first? (--resume goes on with a run instead)",
}
# Words that no key is near to; some are spelled a little like one.
NOTHING = [
    *("zzz", "foo", "foo.bar", "mode", "verbose", "quiet", "log", "logo", "notes"),
    *("n", "s", "x", "render", "port", "host", "stage", "kind", "size", "test"),
]


@pytest.mark.parametrize("given", ANSWERS)
def test_an_unknown_option_gets_the_one_that_is_meant(
    given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", given, "1"]) == 2
    said = capsys.readouterr().err
    assert said == f"decision-seq: unknown option {given}; did you mean {ANSWERS[given]}\n"


@pytest.mark.parametrize("given", NOTHING)
def test_where_nothing_is_near_nothing_is_suggested(
    given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", f"--{given}", "1"]) == 2
    end = "`decision-seq train --help` lists all keys\n"
    assert capsys.readouterr().err == f"decision-seq: unknown option --{given}; {end}"


def test_an_option_that_nothing_sets_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--device", "cuda"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("decision-seq: unknown option --device; a GPU is used where there is")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("tree", "unknown", "answer"),
    [
        *[({"lr": 1e-4}, "lr", "train.learning_rate? For example: train: {learning_rate: 1e-4}")],
        (
            {"backbone": {"layers": 2}},
            "backbone.layers",
            "policy.backbone.layers? For example: policy: {backbone: {layers: 3}}",
        ),
        (
            {"train": {"stepz": 3}},
            "train.stepz",
            "train.steps? For example: train: {steps: 100000}",
        ),
        ({"polcy": {}}, "polcy", "policy?"),
        ({"precision": 1}, "precision", "train.precision or evaluation.precision?"),
        ({"output": "x"}, "output", "the option --output runs/mine?"),
        ({"seeds": 3}, "seeds", "seed? For example: seed: 0"),
    ],
)
def test_a_file_is_answered_in_yaml(tree: dict, unknown: str, answer: str) -> None:
    with pytest.raises(UnknownKey) as refused:
        load(Config, tree)
    assert str(refused.value) == f"config: unknown key {unknown}; did you mean {answer}"


def test_a_recipe_with_an_unknown_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("lr: 1e-4\n")
    assert main(["train", "--config", str(recipe), "--seed", "1"]) == 2
    assert capsys.readouterr().err == (
        "decision-seq: config: unknown key lr; did you mean train.learning_rate?"
        " For example: train: {learning_rate: 1e-4}\n"
    )


def test_the_keys_of_a_known_section_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--conditioning.zzz", "1"]) == 2
    assert capsys.readouterr().err == (
        "decision-seq: unknown option --conditioning.zzz; there are conditioning.name,"
        " conditioning.scale, conditioning.clip\n"
    )


def test_the_chosen_components_keys_are_suggested() -> None:
    with pytest.raises(UserError, match=r"did you mean policy\.layers\?"):
        load(Config, {"policy": {"name": "bc"}, "conditioning": {"name": "none"}, "layers": 1})
    with pytest.raises(UserError, match=r"did you mean policy\.planner\.horizon\?"):
        load(Config, {"policy": {"name": "tt"}, "conditioning": {"name": "outcome"}, "horizon": 1})


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (
            ["--delayed"],
            "--delayed needs a value; `decision-seq train --help delayed` describes it",
        ),
        (["--train.steps", "--seed", "1"], "--train.steps needs a value; "),
        (["--verbose"], "unknown option --verbose; `decision-seq train --help` lists all keys"),
        (["--seed", "1", "-K"], "unknown option -K; did you mean --policy.context_length 20?"),
        (["--train.clip", "-1", "--lr"], "unknown option --lr; did you mean"),
        (["--backbone", "{layers: 3}"], "unknown option --backbone; did you mean"),
    ],
)
def test_an_option_without_a_value(
    arguments: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"decision-seq: {answer}")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["evaluate", "x", "--rtg", "3"], "--target"),
        (["evaluate", "x", "--num_eval_episodes", "3"], "--episodes"),
        (["evaluate", "x", "--max_ep_len", "3"], "--max-episode-steps"),
        (["evaluate", "x", "--max_episode_steps", "3"], "--max-episode-steps"),
        (["evaluate", "x", "--calibarte"], "--calibrate"),
        (["report", "x", "--save_dir", "y"], "--output"),
        (["sweep", "x", "--n_jobs", "2"], "--jobs"),
    ],
)
def test_other_verbs_name_their_own_options(
    arguments: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert f"unrecognised argument {arguments[2]}; did you mean {meant}?; see" in said
    assert said.count("\n") == 1


def test_other_verbs_suggest_nothing_where_nothing_is_near() -> None:
    options = ["--target", "--episodes", "--env"]
    for given in ("--lr", "-K", "--layers", "--foo"):
        assert option_meant(given, options) is None


def test_the_table_names_keys_that_exist() -> None:
    fields = {key for cls in config_classes(Config) for key in cls.__dataclass_fields__} | {"name"}
    for name in (*(alias.means for alias in ALIASES), *EXAMPLES):
        if name.startswith("--"):
            assert name in OPTIONS
        elif name:
            assert set(name.split(".")) <= fields, name


def test_examples_are_accepted() -> None:
    """Each is a value of its key; those of other components' keys are tried by themselves."""
    examples = {**EXAMPLES, **{alias.means: alias.example for alias in ALIASES if alias.example}}
    for name, example in examples.items():
        if name in KNOWN:
            also = {"evaluation": {"every": 5}} if name == "train.keep_best" else {}
            load(Config, override(name, example), also)


def test_every_alias_of_the_table_is_answered() -> None:
    for alias in ALIASES:
        for name in alias.names.split():
            if name not in KNOWN:  # an alias of several keys has one that is known
                meant = meaning(name, [*KNOWN, alias.means.lstrip("-")])
                assert meant.names or (meant.alias and meant.alias.note), name
