"""Auxiliary losses: what a policy learns beside its actions, one file each.

To add one: a file here with a frozen config that inherits `AuxiliaryConfig`, registers itself and
builds the module, and its import below. The contract tests find it in the registry.
"""

from decision_seq.models.auxiliary.base import Auxiliary, AuxiliaryConfig, Features
from decision_seq.models.auxiliary.inverse_dynamics import (
    InverseDynamics,
    InverseDynamicsConfig,
)

__all__ = [
    "Auxiliary",
    "AuxiliaryConfig",
    "Features",
    "InverseDynamics",
    "InverseDynamicsConfig",
]
