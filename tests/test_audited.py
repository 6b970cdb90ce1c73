"""Files of other programs that name code: under an audit hook, nothing of it is imported or run."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from tests.audit import audited

EVIL = "evil_module"


class Named:
    """An object whose pickle calls a function, such as os.system, with arguments."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.reduced


def programs(folder: Path) -> dict[str, Any]:
    """Objects whose unpickling leaves a mark in the folder."""
    mark = str(folder / "ran")
    return {
        "system": Named(os.system, f"touch {mark}"),
        "open": Named(open, mark, "w"),
        "exec": Named(exec, f"open({mark!r}, 'w')"),
        "import": Named(__import__, EVIL),
        "rmtree": Named(shutil.rmtree, str(folder)),
    }


def columns(**more: Any) -> dict[str, Any]:
    """One trajectory of ten steps."""
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(10, 3)),
        "actions": rng.uniform(-1, 1, (10, 2)),
        "rewards": np.ones(10),
        "terminals": np.arange(10) == 9,
        **more,
    }


def data_files(folder: Path) -> list[Path]:
    """Data files that name code, each of which is refused or read without it."""
    made = []
    for name, evil in programs(folder).items():
        for place, tree in (
            ("key", [columns(infos=evil)]),
            ("column", [columns(rewards=evil)]),
            ("whole", evil),
        ):
            made.append(folder / f"{name}-{place}.pkl")
            made[-1].write_bytes(pickle.dumps(tree))
        made.append(folder / f"{name}.pt")
        torch.save([columns(infos=evil)], made[-1])
        made.append(folder / f"{name}.npz")
        np.savez(made[-1], **columns(infos=np.array([evil], object)))
        made.append(folder / f"{name}.npy")
        np.save(made[-1], np.array([evil], object), allow_pickle=True)
    made.append(folder / "extension.parquet")
    steps = {key: pa.array([np.asarray(v, float).tolist()]) for key, v in columns().items()}
    table = pa.table(steps).replace_schema_metadata(
        {"ARROW:extension:name": "arrow.py_extension_type", "pandas": '{"index": ["os.system"]}'}
    )
    pq.write_table(table, made[-1])
    return made


def models(folder: Path) -> list[Path]:
    """Models that name code: weights as pickles, a configuration with code of its own."""
    made = []
    for name, evil in programs(folder).items():
        made.append(folder / f"model-{name}.pt")
        torch.save({"embed_return.weight": torch.ones(2, 1), "extra": evil}, made[-1])
    theirs = folder / "theirs"
    theirs.mkdir()
    code = {"AutoModel": f"{EVIL}.Model", "AutoConfig": f"{EVIL}.Config"}
    config = {"model_type": "decision_transformer", "auto_map": code, "architectures": [EVIL]}
    (theirs / "config.json").write_text(json.dumps(config))
    (theirs / f"{EVIL}.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    save_file({"embed_return.weight": torch.ones(2, 1)}, theirs / "model.safetensors")
    legacy = folder / "legacy"
    legacy.mkdir()
    (legacy / "config.json").write_text(json.dumps(config))
    torch.save({"x": programs(folder)["system"]}, legacy / "pytorch_model.bin")
    return [*made, theirs, legacy]


def other_folders(folder: Path, store: Path) -> list[Path]:
    """A store with a column of objects, and DQN-replay logs of pickles."""
    forged = folder / "forged-store"
    shutil.copytree(store, forged)
    evil = np.array([programs(folder)["system"]], object)
    np.save(forged / "rewards.npy", evil, allow_pickle=True)
    logs = folder / "Breakout" / "1" / "replay_logs"
    logs.mkdir(parents=True)
    for name in ("observation", "action", "reward", "terminal"):
        with gzip.open(logs / f"$store$_{name}_ckpt.0.gz", "wb") as file:
            np.save(file, evil, allow_pickle=True)
    return [forged, logs]


def forged_checkpoint(folder: Path) -> Path:
    """A checkpoint folder whose YAML names Python objects."""
    made = folder / "step-00000001"
    (made / "trainer").mkdir(parents=True)
    text = "policy: !!python/object/apply:os.system ['touch ran']\n"
    (made / "config.yaml").write_text(text)
    (made / "trainer" / "state.json").write_text('{"step": 1}')
    save_file({"x": torch.ones(1)}, made / "model.safetensors")
    return made


def test_nothing_that_a_file_names_is_run(write_d4rl: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / f"{EVIL}.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    sound = write_d4rl((12, 9))
    first = audited(
        [["data", "convert", sound, "--to", "store", "--output", tmp_path / "store"]],
        [tmp_path],
        HOME=str(tmp_path),
    )
    assert first.codes == [0], first.output
    read = [*data_files(folder), *other_folders(folder, tmp_path / "store")]
    commands: list[list[Any]] = [["data", "inspect", path] for path in read]
    out = tmp_path / "imported"
    commands += [["import", path, "--output", out, "--heads", "1"] for path in models(folder)]
    commands += [
        ["evaluate", forged_checkpoint(folder)],
        ["export", forged_checkpoint(folder / "b"), "--to", "onnx"],
    ]
    commands[-1] += ["--output", tmp_path / "x.onnx"]
    found = audited(
        commands,
        [tmp_path],
        [EVIL],
        cwd=folder,
        PYTHONPATH=str(folder),
        HOME=str(tmp_path),
    )
    assert found.violations == [], found.output
    assert "ran" not in os.listdir(folder), found.output
    assert "Traceback" not in found.output, found.output
    assert set(found.codes) <= {0, 2}, found.output
    assert found.codes.count(2) > len(programs(folder)) * 3
