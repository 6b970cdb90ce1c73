"""Tensor names and shapes of a Decision Transformer in other programs.

Sources of the names: transformers' DecisionTransformerModel; kzl/decision-transformer,
gym/decision_transformer/models; tinkoff-ai/CORL, algorithms/offline/dt.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from decision_seq.types import UserError


@dataclass(frozen=True)
class Layout:
    """The correspondence between our tensors and those of another program."""

    title: str
    """Name of the other program."""
    names: Mapping[str, str]
    """Our names -> theirs, outside the blocks."""
    blocks: str
    """Their prefix of a block's tensors; `{}` is the block's number."""
    block: Mapping[str, str]
    """Our names -> theirs, within a block."""
    transposed: bool
    """Whether matrices of a block are stored [in, out], as in GPT-2's Conv1D."""
    unused: re.Pattern[str]
    """Names of tensors that have no influence on an action."""
    activation: str
    """Activation of the MLP where no configuration gives one."""

    def pairs(self, layers: int) -> dict[str, str]:
        """Our names -> theirs, for a model of `layers` blocks."""
        found = dict(self.names)
        for index in range(layers):
            for mine, theirs in self.block.items():
                found[f"backbone.blocks.{index}.{mine}"] = self.blocks.format(index) + theirs
        return found

    def layers(self, names: set[str]) -> int:
        """The number of blocks in a set of names; 0 where they are not of this layout."""
        first = next(iter(self.block.values()))
        count = 0
        while self.blocks.format(count) + first in names:
            count += 1
        return count

    def swap(self, name: str, tensor: Tensor) -> Tensor:
        """Convert a tensor, given by our name, to the other program's shape, or back."""
        matrix = name.startswith("backbone.blocks.") and tensor.ndim == 2
        return tensor.T.contiguous() if self.transposed and matrix else tensor


def _modules(names: Mapping[str, str]) -> dict[str, str]:
    return {f"{a}.{kind}": f"{b}.{kind}" for a, b in names.items() for kind in ("weight", "bias")}


def _gpt2(title: str, prefix: str, unused: str) -> Layout:
    names = {
        "embed_condition": "embed_return",
        "encoder.embed": "embed_state",
        "actions.embed": "embed_action",
        "positions.norm": "embed_ln",
        "backbone.norm": f"{prefix}.ln_f",
        "actions.head": "predict_action.0",
    }
    block = {
        "attention_norm": "ln_1",
        "attention.query_key_value": "attn.c_attn",
        "attention.output": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp.0": "mlp.c_fc",
        "mlp.2": "mlp.c_proj",
    }
    heads = rf"predict_(state|return)\..*|{prefix}\.wte\.weight"
    masks = rf"{prefix}\.h\.\d+\.attn\.(masked_)?bias"  # older versions save the causal mask
    return Layout(
        title,
        {**_modules(names), "positions.embed.weight": "embed_timestep.weight"},
        f"{prefix}.h.{{}}.",
        _modules(block),
        True,
        re.compile("|".join((heads, masks, *filter(None, [unused])))),
        "relu",
    )


POSITIONS = "encoder.wpe.weight"  # [n_positions, D]; the first row is added to every token
TRANSFORMERS = _gpt2("transformers", "encoder", re.escape(POSITIONS))
ORIGINAL = _gpt2("kzl/decision-transformer", "transformer", "")
CORL = Layout(
    "CORL",
    {
        **_modules(
            {
                "embed_condition": "return_emb",
                "encoder.embed": "state_emb",
                "actions.embed": "action_emb",
                "positions.norm": "emb_norm",
                "backbone.norm": "out_norm",
                "actions.head": "action_head.0",
            }
        ),
        "positions.embed.weight": "timestep_emb.weight",
    },
    "blocks.{}.",
    {
        **_modules(
            {
                "attention_norm": "norm1",
                "attention.output": "attention.out_proj",
                "mlp_norm": "norm2",
                "mlp.0": "mlp.0",
                "mlp.2": "mlp.2",
            }
        ),
        "attention.query_key_value.weight": "attention.in_proj_weight",
        "attention.query_key_value.bias": "attention.in_proj_bias",
    },
    False,
    re.compile(r"blocks\.\d+\.causal_mask"),
    "gelu",
)
LAYOUTS = (TRANSFORMERS, ORIGINAL, CORL)


def recognise(names: set[str], source: str) -> Layout:
    """The layout of a set of tensor names; UserError when no layout has them."""
    for layout in LAYOUTS:
        if layout.layers(names):
            return layout
    known = ", ".join(layout.title for layout in LAYOUTS)
    raise UserError(f"{source} holds no Decision Transformer of {known}")


def take(tensors: Mapping[str, Tensor], layout: Layout, source: str) -> dict[str, Tensor]:
    """Their tensors by our names, in float32; UserError for a missing, unknown or NaN tensor."""
    pairs = layout.pairs(layout.layers(set(tensors)))
    missing = sorted(set(pairs.values()) - set(tensors))
    if missing:
        raise UserError(
            f"{source} lacks the tensor {missing[0]}: it is cut short, or another model"
        )
    known = set(pairs.values())
    extra = sorted(n for n in tensors if n not in known and not layout.unused.fullmatch(n))
    if extra:  # leaving it out could change every action
        raise UserError(f"{source} holds {extra[0]}, which a plain Decision Transformer has not")
    for name in known:
        if not tensors[name].is_floating_point() or not tensors[name].isfinite().all():
            raise UserError(f"{source}: {name} holds NaN or infinity, or no floating-point numbers")
    taken = {mine: layout.swap(mine, tensors[name]).float() for mine, name in pairs.items()}
    positions = tensors.get(POSITIONS)
    if layout is TRANSFORMERS and positions is not None:
        # Position 0 is added to every token after the LayerNorm; the LayerNorm's bias can hold it.
        width = taken["positions.norm.bias"].shape
        if positions.ndim != 2 or positions.shape[1:] != width or not positions[0].isfinite().all():
            raise UserError(f"{source}: {POSITIONS} is not of the width of the model, or holds NaN")
        taken["positions.norm.bias"] = taken["positions.norm.bias"] + positions[0].float()
    return taken
