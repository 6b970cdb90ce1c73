from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from decision_seq import config
from decision_seq.policies import DecisionTransformerConfig
from decision_seq.recipes import recipe_path, recipe_trees
from decision_seq.runs.resolve import Config
from decision_seq.sequences.conditioning import Conditioning, Unconditioned
from decision_seq.sequences.conditioning.features import FeatureToGo
from decision_seq.sequences.conditioning.histogram import Histogram
from decision_seq.types import UserError


def test_dump_is_read_back_equal(tmp_path: Path) -> None:
    made = config.load(
        Config, {"train": {"steps": 7}, "evaluation": {"targets": [1, 2.5]}, "seed": 3}
    )
    path = tmp_path / "config.yaml"
    path.write_text(config.dump(made))
    assert config.load(Config, config.read_yaml(path)) == made
    assert made.evaluation.targets == (1.0, 2.5)


def test_later_trees_win_and_leave_the_rest() -> None:
    made = config.load(
        Config,
        {"policy": {"name": "dt", "context_length": 5, "backbone": {"layers": 2}}},
        config.override("policy.backbone.width", "64"),
    )
    assert isinstance(made.policy, DecisionTransformerConfig)
    assert made.policy.context_length == 5
    assert made.policy.backbone.layers == 2
    assert made.policy.backbone.width == 64


def test_scientific_notation_without_a_dot_is_a_number() -> None:
    assert config.load(Config, config.override("train.learning_rate", "1e-4")).train == (
        config.load(Config).train
    )


def test_one_name_is_a_list_of_one() -> None:
    made = config.load(Config, config.override("train.trackers", "wandb"))
    assert made.train.trackers == ("wandb",)
    made = config.load(Config, config.override("train.tracking.tags", "[a, b]"))
    assert made.train.tracking.tags == ("a", "b")


@pytest.mark.parametrize(
    ("tree", "named"),
    [
        ({"train": {"stepz": 3}}, "train.stepz; did you mean train.steps?"),
        ({"polcy": {}}, "polcy; did you mean policy?"),
        ({"policy": {"name": "dtt"}}, "'dtt' is unknown; one of"),
        ({"policy": {"backbone": {"name": "mlp"}}}, "policy.backbone.name 'mlp'"),
        ({"policy": {"backbone": {"head": 1}}}, "did you mean policy.backbone.heads?"),
        ({"policy": {"context_length": 0}}, "context_length 0 must be at least 1"),
        ({"policy": {"backbone": {"heads": 3}}}, "width 128 does not divide into 3 heads"),
        ({"policy": {"backbone": {"dropout": 1.0}}}, "dropout 1.0 must be in [0, 1)"),
        ({"conditioning": {"scale": 0}}, "conditioning.scale 0"),
        ({"train": {"steps": "many"}}, "many"),
        ({"train": {"steps": None}}, "train.steps is empty"),
        ({"train": {"schedule": "exponential"}}, "one of constant, cosine, linear"),
        ({"train": 3}, "train must hold keys"),
        ({"dataset": {"name": 1}}, "dataset {'name': 1} is no text"),
        ({"method": ["x"]}, "method ['x'] is no text"),
        ({"train": {"learning_rate": float("nan")}}, "learning_rate nan"),
        ({"evaluation": {"targets": []}}, "evaluation.targets is empty"),
        ({"seed": -1}, "seed -1"),
        ({"train": {"batch_size": "1e3x"}}, "train.batch_size '1e3x' is no whole number"),
        ({"train": {"batch_size": 1.5}}, "train.batch_size 1.5 is no whole number"),
        ({"train": {"steps": float("inf")}}, "train.steps inf is no whole number"),
        ({"train": {"steps": [1]}}, "train.steps [1] is no whole number"),
        ({"train": {"learning_rate": "abc"}}, "train.learning_rate 'abc' is no number"),
        ({"evaluation": {"targets": "3600"}}, "targets '3600' is no list of numbers"),
        ({"evaluation": {"targets": 3600}}, "write [3600, 1800]"),
        ({"policy": {"name": ["dt"]}}, "name ['dt'] is unknown"),
        ({"policy": {"context_length": 10**12}}, "context_length 1000000000000 must be at most"),
        ({"evaluation": {"workers": "abc"}}, "evaluation.workers 'abc' is no whole number"),
        ({"evaluation": {"workers": True}}, "evaluation.workers True is no whole number"),
        ({"evaluation": {"workers": []}}, "evaluation.workers [] is no whole number"),
    ],
)
def test_a_bad_value_is_named(tree: dict, named: str) -> None:
    with pytest.raises(UserError) as caught:
        config.load(Config, tree)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_of_a_list_may_be_text_to_yaml() -> None:
    made = config.load(Conditioning, {"name": "goal", "goal": ["1e3", 2]})
    assert made.goal == (1000.0, 2.0)
    with pytest.raises(UserError, match="is no list of numbers"):
        config.load(Conditioning, {"name": "goal", "goal": ["1e3", True]})


@pytest.mark.parametrize("name", ["bc/gym", "bc/paper", "bc/transformer", "dt/gym", "dt/paper"])
def test_recipes_load(name: str) -> None:
    made = config.load(Config, *recipe_trees(name))
    assert made.policy.context_length == 20


@pytest.mark.parametrize("policy", ["cdt", "dtx", "bdt"])
def test_the_recipes_of_hindsight_matching_load(policy: str) -> None:
    """Recipes of a size, the paper's or small, differ only in policy and conditioning."""
    conditions = {"cdt": Histogram("x_velocity"), "dtx": FeatureToGo(feature="x_velocity")}
    paper = config.load(Config, *recipe_trees(f"gdt/{policy}"))
    assert paper.policy.context_length == 20
    assert paper.policy.backbone == config.load(Config, *recipe_trees("dt/paper")).policy.backbone
    if policy == "bdt":
        assert paper.policy.summary == paper.policy.backbone
    small = config.load(Config, *recipe_trees(f"gdt/{policy}-small"))
    gym = config.load(Config, *recipe_trees("dt/gym"))
    assert small.train == gym.train
    for made, other in ((paper, "cdt"), (small, "cdt-small")):
        assert made.conditioning == conditions.get(policy, Unconditioned())
        like = config.load(Config, *recipe_trees(f"gdt/{other}"))
        same = replace(like, policy=made.policy, conditioning=made.conditioning)
        assert made == same
    assert round(2000 * paper.held_out) == round(200 * small.held_out) == 10


PLANS = {  # horizon, beams, k_action, cdf_action (jannerm/trajectory-transformer config/offline.py)
    "hopper-medium": (15, 128, None, 0.6),
    "walker2d-medium-v2": (15, 128, None, 0.6),
    "walker2d-medium-expert": (5, 128, None, 0.6),
    "bundled/walker2d-medium-replay": (20, 32, 40, None),
    "halfcheetah-medium": (5, 32, None, 0.6),
    "halfcheetah-medium-replay-v2": (5, 32, None, 0.6),
    "bundled/halfcheetah-medium-expert": (15, 32, None, 0.6),
    "halfcheetah-random": (15, 32, None, 0.6),
    "ant-medium-v2": (5, 128, None, 0.6),
    "ant-random-v2": (5, 128, None, 0.6),
    "ant-medium-expert-v2": (15, 128, None, 0.6),
    "logs/halfcheetah_medium-v2.hdf5": (5, 32, None, 0.6),
    "giant-disk/ant-runs/hopper_medium-v2.hdf5": (15, 128, None, 0.6),
    "antmaze-medium-play-v0": (15, 128, None, 0.6),
}
EPOCHS = {"ant-medium-v2": 50, "hopper-medium-replay": 80, "walker2d-medium-replay-v2": 80}


@pytest.mark.parametrize("dataset", PLANS)
def test_plans_are_the_papers_for_every_dataset(dataset: str) -> None:
    planner = config.load(Config, *recipe_trees("tt/gym", dataset)).policy.planner
    found = (planner.horizon, planner.beams, planner.k_action, planner.cdf_action)
    assert found == PLANS[dataset]


@pytest.mark.parametrize("dataset", [*EPOCHS, "antmaze-umaze-v0", "hopper-medium"])
def test_the_papers_epochs_are_of_a_million_windows(dataset: str) -> None:
    train = config.load(Config, *recipe_trees("tt/gym", dataset)).train
    epochs = train.steps * train.batch_size / 1e6
    assert round(epochs, 2) == EPOCHS.get(dataset, 50)
    assert round(train.warmup_steps * train.batch_size / 1e6, 2) == 1
    assert train.batch_size == (128 if dataset.startswith("ant-") else 256)


def test_what_a_recipe_says_of_datasets_goes_over_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    tree = {"seed": 1, "held_out": 0.1, "for_datasets": {"a-*": {"seed": 2}, "a-b": {"seed": 3}}}
    path.write_text(yaml.safe_dump(tree))
    seeds = [
        config.load(Config, *recipe_trees(str(path), dataset)).seed
        for dataset in ("b", "a-c", "a-b", None)
    ]
    assert seeds == [1, 2, 3, 1]
    path.write_text(yaml.safe_dump({**tree, "dataset": "a-c"}))
    assert recipe_trees(str(path))[1:] == [{"seed": 2}]
    assert recipe_trees(str(path), "b")[1:] == []


@pytest.mark.parametrize(
    "special", [["a-*"], "a-*", {"a-*": 3}, {"a-*": None}, None, 0, {"a-*": {"dataset": "b"}}]
)
def test_what_a_recipe_says_of_datasets_is_checked(tmp_path: Path, special: object) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"for_datasets": special}))
    with pytest.raises(UserError, match=r"mine.yaml: for_datasets.* must "):
        recipe_trees(str(path), "a-b")


def test_the_paper_recipe_is_the_papers() -> None:
    """Values are the parser's defaults in kzl/decision-transformer gym/experiment.py."""
    made = config.load(Config, config.read_yaml(recipe_path("dt/paper")))
    train, backbone = made.train, made.policy.backbone
    assert (train.steps, train.batch_size, train.learning_rate) == (100_000, 64, 1e-4)
    assert (train.weight_decay, train.warmup_steps, train.clip) == (1e-4, 10_000, 0.25)
    assert (backbone.layers, backbone.heads, backbone.width, backbone.dropout) == (3, 1, 128, 0.1)
    assert train.rate(0) == pytest.approx(1e-4 / 10_000)
    assert train.rate(9_999) == train.rate(99_999) == 1e-4
    assert made.evaluation.episodes == 100


def test_the_paper_recipe_of_cloning_is_the_papers() -> None:
    """Values from kzl/decision-transformer gym/experiment.py and .../models/mlp_bc.py."""
    made = config.load(Config, config.read_yaml(recipe_path("bc/paper")))
    train, policy = made.train, made.policy
    assert (train.steps, train.batch_size, train.learning_rate) == (100_000, 64, 1e-4)
    assert (train.weight_decay, train.warmup_steps, train.clip) == (1e-4, 10_000, None)
    assert (policy.layers, policy.width, policy.dropout) == (3, 128, 0.1)
    assert made.conditioning.size == 0


def test_an_environment_id_with_keyword_arguments_stays_text() -> None:
    env_id = 'Ant-v4?{"use_contact_forces": true}'
    assert config.override("evaluation.env_id", env_id) == {"evaluation": {"env_id": env_id}}
    assert config.override("policy", "{context_length: 5}") == {"policy": {"context_length": 5}}


@pytest.mark.parametrize("values", ["&a {x: *a}", "&a [*a]"])
def test_a_file_that_contains_itself_is_refused(values: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"train: {values}")
    with pytest.raises(UserError, match="contains itself, or more than"):
        config.read_yaml(path)


def test_a_file_that_grows_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    doubled = [f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9)}]" for i in range(1, 9)]
    path.write_text("\n".join(["k0: &k0 [x]", *doubled]))
    with pytest.raises(UserError, match="more than 100,000 values"):
        config.read_yaml(path)
