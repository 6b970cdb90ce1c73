"""Names of methods: the label of a policy and its conditioning, and the name that a user gives.

Reports, plots, cards and trackers take a method's name from here, so that it is the same in all of
them. Names come from users and files: escape them where they are shown.
"""

from __future__ import annotations

import re
from typing import Any

from decision_seq.types import UserError

# Labels by policy and conditioning; `*` stands for every other conditioning. A policy that is not
# here is called by its own name.
LABELS = {
    ("dt", "*"): "DT",
    ("dt", "none"): "BC (transformer)",
    ("dt", "histogram"): "CDT",
    ("dt", "feature"): "DT-X",
    ("dt", "shuffled_return"): "DT (shuffled returns)",
    ("bdt", "*"): "BDT",
    ("bc", "*"): "BC (MLP)",
    ("tt", "*"): "TT",
    ("return_predictor", "*"): "return predictor",
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def method_label(config: dict[str, Any]) -> str:
    """The label of a configuration's method, by its policy and its conditioning: BC (transformer).

    config: the tree of a run's or a checkpoint's config.yaml.
    """
    policy, conditioning = (
        str(_table(config, key).get("name", default))
        for key, default in (("policy", "dt"), ("conditioning", "return"))
    )
    return LABELS.get((policy, conditioning)) or LABELS.get((policy, "*")) or policy


def own_name(config: dict[str, Any]) -> str | None:
    """The name that a user, a grid or a recipe of one's own gives to the run's method: `k5`.

    None where there is none, or where it only repeats the policy: the recipe `dt/gym`, the entry
    `dt` of a grid.
    """
    name = config.get("method")
    if not isinstance(name, str) or not name or "/" in name:  # a recipe of experiments/
        return None
    known = {str(_table(config, "policy").get("name")), method_label(config).split()[0].lower()}
    return None if name.lower() in known else name


def run_name(config: dict[str, Any]) -> str:
    """The name of a run's method: its own, else the label of its policy."""
    return own_name(config) or method_label(config)


def check_name(name: str, where: str) -> None:
    """UserError unless the name can be a part of a folder's name; where: begins the message."""
    if not NAME.fullmatch(name):
        raise UserError(f"{where} names a folder; use letters, digits and . _ -")


def _table(config: dict[str, Any], key: str) -> dict[str, Any]:
    found = config.get(key)
    return found if isinstance(found, dict) else {}
