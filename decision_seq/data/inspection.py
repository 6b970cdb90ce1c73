"""`data inspect`: what is in a dataset, counted from its store."""

from __future__ import annotations

from typing import Any

import numpy as np

from decision_seq.data.store import EpisodeStore
from decision_seq.envs import normalized_score
from decision_seq.report import table

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
        "length": {"min": int(lengths.min()), "mean": float(lengths.mean()), "max": int(lengths.max())},
        "return": {"mean": float(returns.mean()), "std": float(returns.std())},
        "return_quantiles": {f"{q:g}": float(v) for q, v in zip(QUANTILES, quantiles, strict=True)},
        "first_returns": [float(value) for value in returns[:5]],
        "normalized": None if normalized is None else {"mean": float(np.mean(normalized)), "best": float(np.max(normalized))},
        "columns": columns,
        "bytes": sum(file.stat().st_size for file in store.path.iterdir()),
        "store": str(store.path),
    }


def inspection_text(facts: dict[str, Any]) -> str:
    """The facts of `inspect` as aligned text."""
    length, returns = facts["length"], facts["return"]
    normalized = facts["normalized"]
    rows = [
        ["source", facts["source"]["description"]],
        ["environment", facts["environment"] or "unknown: name one with --evaluation.env_id"],
        ["transitions", f"{facts['transitions_in']:,} in, {facts['transitions_out']:,} out"],
        [
            "episodes",
            f"{facts['episodes']:,}: {facts['terminated']:,} terminated, {facts['truncated']:,} truncated,"
            f" {facts['without_end']:,} without an end",
        ],
        ["length", f"{length['min']} to {length['max']}, mean {length['mean']:.1f}"],
        ["return", f"{returns['mean']:.1f} ± {returns['std']:.1f}"],
        ["first returns", ", ".join(f"{value:.1f}" for value in facts["first_returns"])],
    ]
    if normalized:
        rows.append(["normalized", f"mean {normalized['mean']:.1f}, best {normalized['best']:.1f}"])
    rows.append(["store", f"{facts['store']} ({facts['bytes'] / 1e6:.1f} MB)"])
    width = max(len(label) for label, _ in rows)
    text = "\n".join(f"{label.ljust(width)}  {value}" for label, value in rows)
    if facts["without_end"]:
        text += "\n(the return of an episode without an end is a lower bound)"
    quantiles = facts["return_quantiles"]
    columns = [[name, str(c["shape"]), c["dtype"]] for name, c in facts["columns"].items()]
    return "\n\n".join(
        [
            f"{facts['name']}\n{text}",
            table(
                ["return quantile", *quantiles],
                [["", *(f"{value:.1f}" for value in quantiles.values())]],
            ),
            table(["column", "shape", "dtype"], columns),
        ]
    )
