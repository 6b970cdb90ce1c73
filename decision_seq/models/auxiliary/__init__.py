"""Auxiliary losses of a policy, in addition to its action losses; one file each.

To add one: write a file here with a frozen config that inherits `AuxiliaryConfig`, registers itself
and builds the module, and import it below. The contract tests find it in the registry.
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
