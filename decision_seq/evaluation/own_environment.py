"""The environment of a user's own loop, as an `Agent` sees it: spaces, number and autoreset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from decision_seq.envs.action_space import ActionSpace
from decision_seq.envs.observations import Vectors
from decision_seq.types import Spec, UserError

# When an environment begins its next episode: by `reset` alone, in the step that ends the last one,
# or in the step after that one, whose action it ignores.
Autoreset = Literal["disabled", "same step", "next step"]
_AUTORESETS: dict[str, Autoreset] = {
    "DISABLED": "disabled",
    "SAME_STEP": "same step",
    "NEXT_STEP": "next step",
}


@dataclass(frozen=True)
class OwnEnvironment:
    """Facts about the environment that an agent acts in."""

    count: int | None = None
    """Number of environments; None for one, whose values have no leading axis."""
    vectors: Vectors | None = None
    """Layout of the observations; None for observations that the policy takes as they are."""
    actions: ActionSpace | None = None
    """Its actions; None for actions as the policy gives them."""
    autoreset: Autoreset = "disabled"
    """When it begins the next episode."""

    @classmethod
    def of(cls, env: Any, count: int | None, spec: Spec) -> OwnEnvironment:
        """The facts of a Gymnasium environment, of a vector of them, or of none (None).

        count: the number that the user named, None for the environment's own. UserError where the
        environment does not fit the policy's spec or the number.
        """
        if count is not None and (not isinstance(count, int | np.integer) or count < 1):
            raise UserError(f"an agent for {count!r} environments; at least 1 is needed")
        if env is None:
            return cls(count)
        seen = getattr(env, "single_observation_space", getattr(env, "observation_space", None))
        acted = getattr(env, "single_action_space", getattr(env, "action_space", None))
        name = type(env).__name__
        if seen is None or acted is None:
            raise UserError(f"env is of type {name}; give an environment that Gymnasium made")
        actions = ActionSpace.of(acted, name)
        if (actions.kind, actions.size) != (spec.action_kind, spec.action_size):
            raise UserError(
                f"{name} takes {actions.size} {actions.kind} actions, the policy gives"
                f" {spec.action_size} {spec.action_kind}"
            )
        vectors = None if spec.pixels else Vectors(seen)
        number = getattr(env, "num_envs", None)
        if number is None:
            return cls(count, vectors, actions)
        if count not in (None, number):
            raise UserError(f"{name} has {number} environments, not {count}")
        return cls(number, vectors, actions, _autoreset(env, name))

    def observations(self, given: Any, shape: tuple[int, ...]) -> np.ndarray:
        """Observations [N, ...] as the policy takes them; UserError unless they have `shape`."""
        batched = self.count is not None
        if self.vectors is not None:
            rows = self.vectors.rows(given) if batched else self.vectors.row(given)[None]
        else:
            rows = np.asarray(given) if batched else np.asarray(given)[None]
        expected = (self.count or 1, *shape)
        if rows.shape != expected:
            whole = slice(None) if batched else slice(1, None)
            raise UserError(
                f"observations of shape {rows.shape[whole]} were given to a policy that takes"
                f" {expected[whole]}"
            )
        if rows.dtype.kind not in "fiub" or not np.isfinite(rows).all():
            raise UserError("an observation holds NaN, infinity or no numbers")
        return rows

    def given(self, actions: np.ndarray) -> Any:
        """The policy's actions [N, ...] as the environment takes them."""
        own = [a if self.actions is None else self.actions.to_environment(a) for a in actions]
        return own[0] if self.count is None else np.stack(own)


def _autoreset(env: Any, name: str) -> Autoreset:
    """When a vector environment begins the next episodes; UserError if it does not say."""
    mode = (getattr(env, "metadata", None) or {}).get("autoreset_mode")
    found = _AUTORESETS.get(str(getattr(mode, "name", mode)))
    if found is None:
        raise UserError(
            f"{name} does not say when it begins the next episodes: set its"
            " metadata['autoreset_mode'] to a gymnasium.vector.AutoresetMode"
        )
    return found
