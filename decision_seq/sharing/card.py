"""The model card in Markdown: a policy's description, its scores and its use.

The YAML head is for the Hub: tags, and the results as a model index.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from decision_seq.checkpoint import Loaded
from decision_seq.envs import environment_notes, score_name
from decision_seq.escaping import block, code, markdown
from decision_seq.formatting import interval_text, number_text, spread_text, target_text
from decision_seq.methods import method_label, own_name
from decision_seq.reading import Kinds, Unreadable, fault_of, read_json
from decision_seq.report import markdown_table
from decision_seq.types import TargetScore, UserError

SCORES: Kinds = {"checkpoint": str, "env_id": str, "notes": list, "targets": list}
RULE = "the last one of the run, not the best"


def card(loaded: Loaded, form: str) -> str:
    """The card of a checkpoint that is shared as `form`: transformers or checkpoint.

    Scores are those of the run's scores.json, if that file is about this checkpoint.
    """
    facts, tree = loaded.facts, loaded.config
    scores = _scores(loaded.path)
    own = own_name(tree)
    title = f"{method_label(tree)}{f' ({own})' if own else ''} on {facts.dataset}"
    head = {
        "library_name": "transformers" if form == "transformers" else "decision-seq",
        "pipeline_tag": "reinforcement-learning",
        "tags": _tags(loaded, tree),
        **({"model-index": [_index(title, loaded, scores)]} if scores else {}),
    }
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---",
        f"# {markdown(title)}",
        "A policy for offline reinforcement learning by sequence modelling, trained with"
        " `decision-seq`."
        if "imported" not in tree
        else f"Imported from {markdown(str(tree['imported']))}.",
        "## Scores",
        _score_text(scores, loaded),
        "## Data and training",
        _list(_training(loaded, tree, scored=scores is not None)),
        "## Use",
        (_TRANSFORMERS if form == "transformers" else _CHECKPOINT).strip(),
    ]
    if "train" in tree:
        settings = {k: tree[k] for k in ("policy", "conditioning", "train") if k in tree}
        parts += [
            "## Configuration",
            block(yaml.safe_dump(settings, sort_keys=False).strip(), "yaml"),
        ]
    return "\n\n".join(parts) + "\n"


def _tags(loaded: Loaded, tree: dict[str, Any]) -> list[str]:
    tags = ["reinforcement-learning", "deep-reinforcement-learning", "offline-rl", "decision-seq"]
    label = method_label(tree)
    known = "decision-transformer" if label == "DT" else re.sub(r"[^a-z0-9]+", "-", label.lower())
    tags.append(known.strip("-"))
    return tags + ([loaded.facts.env_id.partition("?")[0]] if loaded.facts.env_id else [])


def _scores(path: Path) -> dict[str, Any] | None:
    """The run's scores if they are of this checkpoint, else None."""
    file = path.parent.parent / "scores.json"
    if path.parent.name != "checkpoints" or not file.exists():
        return None
    try:
        scores = read_json(file)
        fault = fault_of(scores, SCORES)
        if fault or not all(isinstance(note, str) for note in scores["notes"]):
            raise ValueError(fault or "a note is no text")
        if Path(scores["checkpoint"]).name != path.name:
            return None
        return {**scores, "targets": [TargetScore.of(target) for target in scores["targets"]]}
    except (Unreadable, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged; move it away, or evaluate the run again") from error


def _index(title: str, loaded: Loaded, scores: dict[str, Any]) -> dict[str, Any]:
    task = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
    data = {"type": scores["env_id"], "name": scores["env_id"]}
    metrics = []
    for score in scores["targets"]:
        condition = "" if score.target is None else f" at target {score.target:g}"
        mean, deviation = (
            number_text(value, 2, group="") for value in (score.return_mean, score.return_std)
        )
        value = f"{mean} +/- {deviation}"
        metrics.append({"type": "mean_reward", "value": value, "name": f"return{condition}"})
        if score.normalized_score is not None:
            kind = score_name(scores["env_id"])
            name = f"{'D4RL ' if kind == 'normalized' else ''}{kind} score{condition}"
            value = round(score.normalized_score, 2)
            metrics.append({"type": "normalized_score", "value": value, "name": name})
    return {"name": title, "results": [{"task": task, "dataset": data, "metrics": metrics}]}


def _score_text(scores: dict[str, Any] | None, loaded: Loaded) -> str:
    if scores is None:
        return (
            "This checkpoint was not scored by the run that made it: see `decision-seq evaluate`."
        )
    rows = [_row(score) for score in scores["targets"]]
    header = [
        "target",
        "return (mean ± std)",
        score_name(scores["env_id"]),
        "95 % interval",
        "episodes",
    ]
    seed = scores["targets"][0].seed
    facts = [
        f"environment: {code(scores['env_id'])}",
        f"checkpoint: {RULE} ({code(loaded.path.name)})",
        f"{_when(scores, loaded)}every episode counts, seeds from {seed}",
        "normalized: 100 * (return - random) / (expert - random); the interval is of the mean over"
        " episodes of this one policy (Student's t), not over training seeds",
        *map(markdown, scores["notes"]),
    ]
    return f"{markdown_table(header, rows)}\n\n{_list(facts)}"


def _when(scores: dict[str, Any], loaded: Loaded) -> str:
    """Whether targets were declared before training; a resumed run may have changed them after."""
    targets = tuple(score.target for score in scores["targets"] if score.target is not None)
    if not targets:
        return ""
    before = targets == loaded.facts.targets
    return f"targets were {'declared before' if before else 'chosen after'} training; "


def _row(score: TargetScore) -> list[str]:
    return [
        target_text(score.target),
        spread_text(score.return_mean, score.return_std),
        "-" if score.normalized_score is None else number_text(score.normalized_score, group=""),
        interval_text(score.interval_95),
        str(score.episodes),
    ]


def _training(loaded: Loaded, tree: dict[str, Any], scored: bool) -> list[str]:
    facts = loaded.facts
    lines = [f"dataset: {markdown(facts.dataset)}", f"source: {markdown(facts.source)}"]
    if "train" in tree:
        lines.append(f"trained for {loaded.step:,} updates, seed {markdown(str(tree.get('seed')))}")
    targets = ", ".join(f"{target:g}" for target in facts.targets)
    lines.append(f"targets: {targets or 'none, as the policy takes no target'}")
    if facts.env_id and not scored:  # else the list of the scores has these lines
        lines += [
            f"environment: {code(facts.env_id)}",
            *environment_notes(facts.env_id),
            *facts.notes,
        ]
    return lines


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


_CHECKPOINT = """
```sh
decision-seq import OWNER/NAME --output policy   # or copy this folder
decision-seq evaluate policy
```

`model.safetensors` holds the weights and the fitted statistics. `config.yaml` holds everything else
that a rollout needs.
"""

_TRANSFORMERS = """
`config.json` holds the facts that are not in the weights: `state_mean` and `state_std` (the model
takes states as `(state - state_mean) / state_std`), `return_scale` (returns-to-go are divided by
it), `action_low` and `action_high` (the range of actions that is -1 to 1 in the model),
`context_length` (the steps of a training window: pass at most as many, the last ones),
`env_id`, `targets` (target returns, raw) and `delayed` (whether rewards came as one sum at the end:
then the return-to-go stays equal to the target). Shorter histories are padded on the left with
zeros, and the padding is masked. The newest action is not known yet and is 0. Timesteps count from
0 in the episode and stay below `max_ep_len`.

```python
import gymnasium, numpy as np, torch
from transformers import DecisionTransformerModel

model = DecisionTransformerModel.from_pretrained("PATH").eval()
config = model.config
mean, std = np.array(config.state_mean), np.array(config.state_std)
low, high = np.array(config.action_low), np.array(config.action_high)
K = config.context_length


def tail(rows, width):  # [1, K, width]: the last K rows, zeros on their left
    rows = np.asarray(rows[-K:], np.float32).reshape(-1, width)
    return torch.from_numpy(np.pad(rows, ((K - len(rows), 0), (0, 0))))[None]


env = gymnasium.make(config.env_id)
state, _ = env.reset(seed=0)
states, actions, returns, done = [(state - mean) / std], [], [config.targets[0]], False
total = 0.0
while not done:
    steps = np.arange(len(states)).clip(max=config.max_ep_len - 1)
    with torch.no_grad():
        action = model(
            states=tail(states, config.state_dim),
            actions=tail([*actions, np.zeros(config.act_dim)], config.act_dim),
            returns_to_go=tail(np.array(returns) / config.return_scale, 1),
            timesteps=tail(steps, 1)[..., 0].long(),
            attention_mask=tail(np.ones(len(states)), 1)[..., 0].long(),
        ).action_preds[0, -1].numpy()
    state, reward, terminated, truncated, _ = env.step(low + (action + 1) / 2 * (high - low))
    states.append((state - mean) / std)
    actions.append(action)
    returns.append(returns[-1] - (0 if config.delayed else reward))
    total, done = total + reward, terminated or truncated
print("return", total)
```
"""
