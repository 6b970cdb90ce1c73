"""`data inspect`: what is in a dataset, counted from its store."""

from __future__ import annotations

from typing import Any

import numpy as np

from decision_seq.data.store import EpisodeStore
from decision_seq.envs import normalized_score

QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)


def inspect(store: EpisodeStore) -> dict[str, Any]:
    """Counts, lengths, returns and endings of a store, as plain values."""
    family = store.header["family"]
    returns, lengths = store.returns, store.lengths
    normalized = normalized_score(family, returns) if family else None
    columns = {
        name: {"shape": list(column.shape), "dtype": str(column.dtype)}
        for name, column in store.columns.items()
    }
    quantiles = np.quantile(returns, QUANTILES)
    return {
        "name": store.name,
        "source": store.header["source"],
        "environment": store.header["env_id"],
        "transitions_in": store.header["transitions_in"],
        "transitions_out": store.num_transitions,
        "episodes": store.num_episodes,
        "terminated": int(store.terminated.sum()),
        "truncated": int(store.truncated.sum()),
        "without_end": int((~store.terminated & ~store.truncated).sum()),
        "length": {
            "min": int(lengths.min()),
            "mean": float(lengths.mean()),
            "max": int(lengths.max()),
        },
        "return": {"mean": float(returns.mean()), "std": float(returns.std())},
        "return_quantiles": {f"{q:g}": float(v) for q, v in zip(QUANTILES, quantiles, strict=True)},
        "first_returns": [float(value) for value in returns[:5]],
        "normalized": None
        if normalized is None
        else {"mean": float(np.mean(normalized)), "best": float(np.max(normalized))},
        "columns": columns,
        "bytes": sum(file.stat().st_size for file in store.path.iterdir()),
        "store": str(store.path),
    }
