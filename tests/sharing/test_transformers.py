"""Tests of exchange with transformers: its model and ours act alike, in both directions."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import DecisionTransformerConfig as TheirConfig
from transformers import DecisionTransformerModel

from decision_seq import checkpoint
from decision_seq.config import read_yaml, save_text
from decision_seq.evaluation import evaluate_checkpoint
from decision_seq.models.backbones import GPTConfig
from decision_seq.policies import DecisionTransformerConfig
from decision_seq.sequences.conditioning import ReturnToGo, ShuffledReturnToGo
from decision_seq.sequences.conditioning.features import FeatureToGo
from decision_seq.sharing.exporting import export
from decision_seq.sharing.importing import Given, import_policy
from decision_seq.types import Batch, Reporter, UserError
from tests.conftest import Lines, seal
from tests.sharing.conftest import FACTS, K, compare

S, A = 11, 3


def their_act(model: DecisionTransformerModel, mean, std, length: int) -> Callable:
    """Act as users of transformers would: normalise, pad on the left, mask."""

    @torch.no_grad()
    def act(batch: Batch) -> np.ndarray:
        steps = batch.observations.shape[1]

        def left(array: np.ndarray) -> torch.Tensor:
            pad = [(0, 0), (length - steps, 0), *[(0, 0)] * (array.ndim - 2)]
            return torch.as_tensor(np.pad(array, pad))

        return (
            model(
                states=left(((batch.observations - mean) / std).astype(np.float32)),
                actions=left(batch.actions),
                returns_to_go=left(batch.conditions),
                timesteps=left(batch.timesteps),
                attention_mask=left(batch.mask.astype(np.int64)),
            )
            .action_preds[:, -1]
            .numpy()
        )

    return act


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_exported_actions_are_ours(
    make_checkpoint: Callable[..., Path], tmp_path: Path, activation: str
) -> None:
    path = make_checkpoint(DecisionTransformerConfig(K, GPTConfig(2, 2, 16, activation=activation)))
    folder = export(path, "transformers", tmp_path / "hf", Reporter())
    model, info = DecisionTransformerModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert not model.encoder.wpe.weight.any()
    config = model.config
    assert (config.context_length, config.return_scale, config.env_id) == (K, 1000.0, "Hopper-v4")
    assert tuple(config.targets) == FACTS.targets
    mean, std = np.array(config.state_mean), np.array(config.state_std)
    compare(checkpoint.load(path), their_act(model.eval(), mean, std, K))


def test_there_and_back(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    path = make_checkpoint()
    folder = export(path, "transformers", tmp_path / "hf", Reporter())
    reporter = Lines()
    back = checkpoint.load(import_policy(str(folder), tmp_path / "back", Given(), reporter))
    before = checkpoint.load(path)
    for name, tensor in before.policy.state_dict().items():
        assert torch.equal(back.policy.state_dict()[name], tensor), name
    assert back.policy_config.context_length == K
    assert back.conditioning == before.conditioning
    assert back.facts.targets == FACTS.targets
    assert back.facts.family == "hopper"
    assert back.facts.reference_scores == FACTS.reference_scores
    assert reporter.lines == []  # nothing was guessed


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder as published by others: statistics in the card's text, nothing else."""
    torch.manual_seed(1)
    config = TheirConfig(
        state_dim=S, act_dim=A, hidden_size=16, n_layer=2, n_head=1, max_ep_len=1000
    )
    model = DecisionTransformerModel(config)
    with torch.no_grad():
        for weight in model.parameters():  # including the positions' row 0
            weight += 0.15 * torch.randn_like(weight)
    folder = tmp_path / "decision-transformer-gym-hopper-medium"
    model.save_pretrained(folder)
    (folder / "README.md").write_text(
        "---\ntags:\n- decision-transformer\n---\nThese are needed:\n\n"
        f"mean = [ {', '.join(str(i / 4) for i in range(S))}] \n\n"
        f"std = [{',  '.join(str(1 + i / 8) for i in range(S))} ]\n"
    )
    return folder


def test_anothers_model_acts_as_it_did(theirs: Path, tmp_path: Path) -> None:
    reporter = Lines()
    path = import_policy(str(theirs), tmp_path / "mine", Given(context_length=K), reporter)
    loaded = checkpoint.load(path)
    model = DecisionTransformerModel.from_pretrained(theirs).eval()
    assert model.encoder.wpe.weight[0].abs().max() > 0.1
    compare(loaded, their_act(model, np.arange(S) / 4, 1 + np.arange(S) / 8, K))
    assert loaded.facts.env_id == "Hopper-v4"
    assert loaded.facts.targets == (3600.0, 1800.0)
    assert any("Hopper-v4" in line for line in reporter.lines)  # guesses are reported


@pytest.mark.parametrize("forgotten", ["state_mean", "state_std"])
def test_statistics_that_nobody_says_are_asked_for(
    theirs: Path, tmp_path: Path, forgotten: str
) -> None:
    card = theirs / "README.md"
    word = forgotten.removeprefix("state_")
    card.write_text(re.sub(rf"\n{word} = .*", "", card.read_text()))
    with pytest.raises(UserError, match=f"does not say its {forgotten}; give --state-mean"):
        import_policy(str(theirs), tmp_path / "mine", Given(), Reporter())
    file = tmp_path / "vector.txt"
    file.write_text("[" + ", ".join(["0.5"] * S) + "]")
    given = Given(**{forgotten: file})
    loaded = checkpoint.load(import_policy(str(theirs), tmp_path / "mine", given, Reporter()))
    assert (loaded.policy.state_dict()[f"encoder.{word}"] == 0.5).all()


def test_the_dataset_gives_statistics_and_task(
    theirs: Path, tmp_path: Path, write_d4rl: Callable[..., Path]
) -> None:
    (theirs / "README.md").unlink()
    file = write_d4rl()
    given = Given(dataset=str(file))
    loaded = checkpoint.load(import_policy(str(theirs), tmp_path / "mine", given, Reporter()))
    import h5py

    with h5py.File(file) as data:
        mean = data["observations"][:].astype(np.float64).mean(0)
    np.testing.assert_allclose(loaded.policy.state_dict()["encoder.mean"], mean, rtol=1e-5)
    assert loaded.facts.family == "hopper"
    assert len(loaded.facts.return_percentiles or ()) == 101  # targets may be words
    assert "hopper_medium-v2.hdf5" in loaded.facts.source


def _config(**entries: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))

    return change


def _short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_config(n_inner=17), "n_inner 17"),
        (_config(layer_norm_epsilon=1e-3), "layer_norm_epsilon"),
        (_config(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx"),
        (_config(activation_function="gelu_new"), "activation 'gelu_new' is unknown"),
        (_config(n_head=3), "does not divide into 3 heads"),
        (_config(n_head="x"), "no whole number"),
        (_config(context_length=0), "context_length 0"),
        (_config(state_mean=[1, 2]), "state_mean must be 11 numbers"),
        (_config(state_std=[0] * S), "std above 0"),
        (_config(state_std=["a"] * S), "no list of numbers"),
        (_config(targets=["a"]), "no list of numbers"),
        (_config(targets=[10**400]), "a number of 401 digits"),
        (_config(return_scale=0), "scale 0"),
        (_config(return_scale=[]), "must be one number"),
        (_config(activation_function=["relu"]), "is no name"),
        (_short, "model.safetensors is damaged"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is damaged"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has neither"),
    ],
)
def test_what_is_not_ours_is_refused(
    theirs: Path, tmp_path: Path, change: Callable[[Path], None], named: str
) -> None:
    change(theirs)
    with pytest.raises(UserError) as caught:
        import_policy(str(theirs), tmp_path / "mine", Given(), Reporter())
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir() if "mine" in path.name] == []
    assert not list(tmp_path.glob(".partial*"))


def test_what_transformers_cannot_express_is_refused(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_checkpoint(conditioning=ShuffledReturnToGo(10.0))  # still a return-to-go
    export(path, "transformers", tmp_path / "fine", Reporter())
    from decision_seq.sharing import exporting

    other = make_checkpoint(conditioning=FeatureToGo(target=1.0), name="feature")
    with pytest.raises(UserError, match="has no FeatureToGo conditioning, only a return-to-go"):
        export(other, "transformers", tmp_path / "not", Reporter())
    monkeypatch.setitem(exporting.ACTIVATIONS, "relu", None)
    with pytest.raises(UserError, match=r"has no activation 'relu'; try --to onnx"):
        export(path, "transformers", tmp_path / "not", Reporter())
    monkeypatch.setattr(exporting, "ReturnToGo", int)
    with pytest.raises(UserError, match="has no ShuffledReturnToGo conditioning"):
        export(path, "transformers", tmp_path / "not", Reporter())
    with pytest.raises(UserError, match="fine exists; name another"):
        export(path, "transformers", tmp_path / "fine", Reporter())
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize("delayed", [False, True])
def test_the_cards_snippet_runs(
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    delayed: bool,
) -> None:
    """It gives the return of our own rollout; a delayed policy receives no rewards in it."""
    path = make_checkpoint(conditioning=ReturnToGo(10.0))
    tree = read_yaml(path / "config.yaml")
    tree["data"]["delayed"] = delayed
    save_text(path / "config.yaml", yaml.safe_dump(tree))
    seal(path)
    folder = export(path, "transformers", tmp_path / "hf", Reporter())
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    capsys.readouterr()
    exec(code.replace("PATH", str(folder)), {})
    printed = capsys.readouterr().out
    ours = evaluate_checkpoint(path, targets=[3600.0], episodes=1, seed=0).targets[0].return_mean
    assert float(printed.split()[-1]) == pytest.approx(ours, abs=1e-2)
    back = import_policy(str(folder), tmp_path / "back", Given(), Reporter())
    assert checkpoint.load(back).facts.delayed is delayed
