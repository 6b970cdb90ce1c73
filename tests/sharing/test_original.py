"""Tests of imported state dicts of the original repository and of CORL: actions as in theirs.

Their forward passes are reimplemented here, independently of our layers and of their code.
"""

import math
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from decision_seq import checkpoint
from decision_seq.sharing.importing import Given, import_policy
from decision_seq.types import Batch, Reporter, UserError
from tests.conftest import Lines
from tests.sharing.conftest import K, compare

S, A, D, LAYERS, STEPS = 11, 3, 16, 2, 1000
MEAN, STD = np.arange(S) / 5, 1 + np.arange(S) / 7
Tensors = dict[str, Tensor]


def drawn(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    generator = torch.Generator().manual_seed(2)
    return {name: 0.25 * torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def both(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    """A weight [out, in] (or [n]) with its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def kzl_state() -> Tensors:
    shapes: dict[str, tuple[int, ...]] = {"embed_timestep.weight": (STEPS, D)}
    for name, size in (("embed_return", 1), ("embed_state", S), ("embed_action", A)):
        shapes |= both(name, D, size)
    for name, size in (("predict_state", S), ("predict_return", 1), ("predict_action.0", A)):
        shapes |= both(name, size, D)
    shapes |= {**both("embed_ln", D), **both("transformer.ln_f", D)}
    shapes["transformer.wte.weight"] = (1, D)
    for layer in range(LAYERS):
        at = f"transformer.h.{layer}."
        shapes |= {**both(f"{at}ln_1", D), **both(f"{at}ln_2", D)}
        matrices = {"attn.c_attn": 3 * D, "attn.c_proj": D, "mlp.c_fc": 4 * D, "mlp.c_proj": D}
        for name, out in matrices.items():  # GPT-2 stores matrices as [in, out]
            inner = 4 * D if name == "mlp.c_proj" else D
            shapes |= {f"{at}{name}.weight": (inner, out), f"{at}{name}.bias": (out,)}
    tensors = drawn(shapes)
    for layer in range(LAYERS):
        tensors[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 64, 64).tril().byte()
        tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return tensors


def corl_state() -> Tensors:
    shapes: dict[str, tuple[int, ...]] = {"timestep_emb.weight": (STEPS + K, D)}
    for name, size in (("return_emb", 1), ("state_emb", S), ("action_emb", A)):
        shapes |= both(name, D, size)
    shapes |= {**both("emb_norm", D), **both("out_norm", D), **both("action_head.0", A, D)}
    for layer in range(LAYERS):
        at = f"blocks.{layer}."
        shapes |= {f"{at}attention.in_proj_weight": (3 * D, D)}
        shapes |= {f"{at}attention.in_proj_bias": (3 * D,)}
        shapes |= {**both(f"{at}norm1", D), **both(f"{at}norm2", D)}
        shapes |= both(f"{at}attention.out_proj", D, D)
        shapes |= {**both(f"{at}mlp.0", 4 * D, D), **both(f"{at}mlp.2", D, 4 * D)}
    tensors = drawn(shapes)
    for layer in range(LAYERS):
        tensors[f"blocks.{layer}.causal_mask"] = ~torch.ones(3 * K, 3 * K).tril().bool()
    return tensors


def tokens(w: Tensors, batch: Batch, names: tuple[str, str, str, str, str]) -> Tensor:
    """Normalised tokens [1, 3T, D]: return, state and action of each step."""
    of_return, of_state, of_action, of_time, norm = names
    states = torch.as_tensor((batch.observations - MEAN) / STD).float()
    inputs = (torch.as_tensor(batch.conditions), states, torch.as_tensor(batch.actions))
    time = w[f"{of_time}.weight"][torch.as_tensor(batch.timesteps)]
    rows = []
    for step in range(states.shape[1]):
        for name, values in zip((of_return, of_state, of_action), inputs, strict=True):
            embedded = w[f"{name}.weight"] @ values[0, step] + w[f"{name}.bias"]
            rows.append(embedded + time[0, step])
    return F.layer_norm(torch.stack(rows)[None], (D,), w[f"{norm}.weight"], w[f"{norm}.bias"])


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Causal attention written out, head by head."""
    mixed, size = [], D // heads
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(size)
        hidden = torch.ones(scores.shape[-2:]).tril() == 0
        weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
        mixed.append(weights @ value[..., part])
    return torch.cat(mixed, -1)


def kzl_act(w: Tensors, heads: int) -> Callable[[Batch], np.ndarray]:
    def act(batch: Batch) -> np.ndarray:
        names = ("embed_return", "embed_state", "embed_action", "embed_timestep", "embed_ln")
        x = tokens(w, batch, names)
        for layer in range(LAYERS):

            def conv(name: str, y: Tensor, at: str = f"transformer.h.{layer}.") -> Tensor:
                return y @ w[f"{at}{name}.weight"] + w[f"{at}{name}.bias"]

            def norm(name: str, y: Tensor, at: str = f"transformer.h.{layer}.") -> Tensor:
                return F.layer_norm(y, (D,), w[f"{at}{name}.weight"], w[f"{at}{name}.bias"])

            projected = conv("attn.c_attn", norm("ln_1", x)).split(D, -1)
            x = x + conv("attn.c_proj", attend(*projected, heads))
            x = x + conv("mlp.c_proj", conv("mlp.c_fc", norm("ln_2", x)).clamp(min=0))
        x = F.layer_norm(x, (D,), w["transformer.ln_f.weight"], w["transformer.ln_f.bias"])
        newest = x[:, -2]  # the newest state, before its action
        return (newest @ w["predict_action.0.weight"].T + w["predict_action.0.bias"]).tanh().numpy()

    return act


def corl_act(w: Tensors, heads: int) -> Callable[[Batch], np.ndarray]:
    def act(batch: Batch) -> np.ndarray:
        names = ("return_emb", "state_emb", "action_emb", "timestep_emb", "emb_norm")
        x = tokens(w, batch, names)
        blind = w["blocks.0.causal_mask"][: x.shape[1], : x.shape[1]]
        for layer in range(LAYERS):
            at = f"blocks.{layer}."
            attention = torch.nn.MultiheadAttention(D, heads, batch_first=True).eval()
            attention.load_state_dict(
                {
                    name.removeprefix(f"{at}attention."): value
                    for name, value in w.items()
                    if name.startswith(f"{at}attention.")
                }
            )
            y = F.layer_norm(x, (D,), w[f"{at}norm1.weight"], w[f"{at}norm1.bias"])
            with torch.no_grad():
                x = x + attention(y, y, y, attn_mask=blind, need_weights=False)[0]
            y = F.layer_norm(x, (D,), w[f"{at}norm2.weight"], w[f"{at}norm2.bias"])
            inner = F.linear(y, w[f"{at}mlp.0.weight"], w[f"{at}mlp.0.bias"])
            inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
            x = x + F.linear(inner, w[f"{at}mlp.2.weight"], w[f"{at}mlp.2.bias"])
        x = F.layer_norm(x, (D,), w["out_norm.weight"], w["out_norm.bias"])
        newest = F.linear(x[:, -2], w["action_head.0.weight"], w["action_head.0.bias"])
        return newest.tanh().numpy()

    return act


@pytest.fixture
def statistics(tmp_path: Path) -> dict[str, Path]:
    np.save(tmp_path / "mean.npy", MEAN)
    (tmp_path / "std.txt").write_text("\n".join(map(str, STD)))
    return {"state_mean": tmp_path / "mean.npy", "state_std": tmp_path / "std.txt"}


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_originals_state_dict(
    tmp_path: Path, statistics: dict[str, Path], heads: int, suffix: str
) -> None:
    state, file = kzl_state(), tmp_path / f"hopper-medium{suffix}"
    torch.save(state, file) if suffix == ".pt" else save_file(state, file)
    given = Given(**statistics, context_length=K, heads=heads)
    loaded = checkpoint.load(import_policy(str(file), tmp_path / "mine", given, Reporter()))
    compare(loaded, kzl_act(state, heads))
    assert loaded.facts.env_id == "Hopper-v4"
    assert loaded.policy.spec.max_timestep == STEPS


@pytest.mark.parametrize("heads", [1, 4])
def test_corls_checkpoint_says_its_statistics(tmp_path: Path, heads: int) -> None:
    state, file = corl_state(), tmp_path / "dt_checkpoint.pt"
    arrays = {"state_mean": MEAN[None], "state_std": STD[None].astype(np.float32)}
    torch.save({"model_state": state, **arrays}, file)
    reporter = Lines()
    given = Given(env_id="Hopper-v4", heads=heads)
    loaded = checkpoint.load(import_policy(str(file), tmp_path / "mine", given, reporter))
    assert loaded.policy_config.context_length == K  # by the stored causal mask
    assert loaded.policy.spec.max_timestep == STEPS  # without the rows for padding
    compare(loaded, corl_act(state, heads))


class _Program:
    def __reduce__(self) -> tuple:
        return (print, ("a pickle ran a program",))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda s: {"model": _Program(), **s}, r"it names \S*print, so it is a program"),
        (lambda s: [s], "holds a list, no state dict"),
        (lambda s: {"a": torch.ones(2)}, "no Decision Transformer of transformers, kzl"),
        (
            lambda s: {k: v for k, v in s.items() if k != "embed_ln.bias"},
            "lacks the tensor embed_ln",
        ),
        (lambda s: {**s, "embed_goal.weight": torch.ones(2)}, "holds embed_goal.weight, which"),
        (lambda s: {**s, "embed_ln.bias": torch.full((D,), math.nan)}, "embed_ln.bias holds NaN"),
        (lambda s: {**s, "embed_ln.bias": torch.ones(D, dtype=int)}, "no floating-point"),
        (
            lambda s: {**s, "embed_ln.bias": torch.ones(D + 1)},
            "does not fit this policy: positions.norm",
        ),
        (lambda s: {**s, "embed_ln.bias": torch.ones(D).to_sparse()}, "no plain array"),
        (lambda s: {**s, "embed_ln.bias": torch.ones(D, device="meta")}, "no plain array"),
        (lambda s: {**s, "embed_ln.bias": torch.ones(D).to(torch.float8_e5m2)}, "no plain array"),
        (lambda s: {**s, "embed_timestep.weight": torch.ones(1, 1).expand(10**9, D)}, "no plain"),
        (lambda s: {**s, "embed_state.weight": torch.ones(D)}, "no matrices"),
        (lambda s: {**s, "embed_timestep.weight": torch.ones(3, D)}, "exceeds the 3 timesteps"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(
    tmp_path: Path,
    statistics: dict[str, Path],
    damage: Callable,
    named: str,
    capsys: pytest.CaptureFixture,
) -> None:
    file = tmp_path / "hopper-medium.pt"
    torch.save(damage(kzl_state()), file)
    given = Given(**statistics, context_length=K)
    with pytest.raises(UserError, match=named) as caught:
        import_policy(str(file), tmp_path / "mine", given, Reporter())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "mine").exists()
    assert "ran a program" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "plain pickle", "absent"])
def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "x.pt"
    torch.save(kzl_state(), file)
    whole = file.read_bytes()
    if kind == "absent":
        file.unlink()
    else:
        contents = {
            "cut": whole[: len(whole) // 2],
            "empty": b"",
            "text": b"hello",
            "plain pickle": pickle.dumps(_Program()),
        }
        file.write_bytes(contents[kind])
    with pytest.raises(UserError) as caught:
        import_policy(str(file), tmp_path / "mine", Given(), Reporter())
    assert "\n" not in str(caught.value)
    assert "x.pt" in str(caught.value)
