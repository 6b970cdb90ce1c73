"""The package imports and trains where torch has no oneDNN, or not its private operators."""

import subprocess
import sys

import pytest

EMPTY = "torch.ops.mkldnn = types.ModuleType('mkldnn')"
ABSENT = """
vars(torch.ops).pop("mkldnn", None)
found = type(torch.ops).__getattr__

def without(self, name):
    if name == "mkldnn":
        raise AttributeError(name)
    return found(self, name)

type(torch.ops).__getattr__ = without
"""
UNAVAILABLE = "torch.backends.mkldnn.is_available = lambda: False"

# One update and its FLOPs, on a processor where oneDNN would be chosen if it were there.
TRAIN = """
torch.backends.cpu.get_cpu_capability = lambda: "AVX512"
import decision_seq.policies
from decision_seq.bench.counting import counted
from decision_seq.models.layers import Linear
from decision_seq.types import Batch, Spec

torch.manual_seed(0)
config = decision_seq.policies.DecisionTransformerConfig(context_length=4)
policy = config.build(Spec((3,), 2, "continuous", 1, 10))
optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad])
batch = Batch(
    observations=torch.randn(32, 4, 3),
    actions=torch.randn(32, 4, 2),
    rewards=torch.randn(32, 4),
    conditions=torch.randn(32, 4, 1),
    timesteps=torch.arange(4).expand(32, 4),
    mask=torch.ones(32, 4, dtype=torch.bool),
)
before = policy.backbone.blocks[0].mlp[0].weight.detach().clone()

def update():
    policy(batch, torch.Generator()).losses["action"].mean().backward()
    optimizer.step()

assert counted(update).flops > 1e6
assert (policy.backbone.blocks[0].mlp[0].weight != before).any()
layer, inputs = Linear(8, 4), torch.randn(64, 8)
wanted = torch.nn.functional.linear(inputs, layer.weight, layer.bias)
assert torch.equal(layer(inputs), wanted)
"""


@pytest.mark.parametrize(
    "removal",
    [EMPTY, ABSENT, UNAVAILABLE],
    ids=["empty namespace", "no namespace", "unavailable"],
)
def test_the_package_imports_and_trains_without_onednn(removal: str) -> None:
    code = f"import types\nimport torch\n{removal}\n{TRAIN}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
