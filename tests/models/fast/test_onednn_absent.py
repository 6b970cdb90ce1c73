"""The package imports and trains where torch has no oneDNN, or not its private operators."""

import json
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


REMOVALS = {"empty namespace": EMPTY, "no namespace": ABSENT, "unavailable": UNAVAILABLE}
# Imports torch once; each of the codes then runs in a child, which has not imported the package.
FORKED = """
import json, os, sys, traceback, types
import torch, numpy, accelerate, draccus, gymnasium, yaml

assert "decision_seq" not in sys.modules
for name, code in json.loads(sys.stdin.read()).items():
    child = os.fork()
    if not child:
        status = 1
        try:
            exec(code, {"torch": torch, "types": types})
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    print(json.dumps([name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes() -> tuple[dict[str, int], str]:
    """The exit code by removal, and what was said."""
    codes = {name: f"{removal}\n{TRAIN}" for name, removal in REMOVALS.items()}
    run = subprocess.run(
        [sys.executable, "-c", FORKED],
        input=json.dumps(codes),
        capture_output=True,
        text=True,
        check=False,
    )
    return dict(map(json.loads, run.stdout.splitlines())), run.stderr


@pytest.mark.parametrize("removal", REMOVALS)
def test_the_package_imports_and_trains_without_onednn(
    removal: str, outcomes: tuple[dict[str, int], str]
) -> None:
    codes, said = outcomes
    assert codes.get(removal) == 0, said
