"""Downloads of trajectories from the Hugging Face Hub: `REPO` or `REPO:CONFIG`.

The files are the Parquet files of the repository, else the Hub's own conversion (the branch
refs/convert/parquet), else JSON or Arrow files, which are converted to Parquet here. Code and
pickles of a repository are never run. Every split of a configuration is read.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decision_seq.datasets.fetching import remote
from decision_seq.datasets.hub.columns import FETCHED_FILE
from decision_seq.types import Reporter, UserError

NAME = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(:(?P<config>[A-Za-z0-9][\w.+-]*))?"
)
SPLITS = ("train", "test", "validation")
CONVERTED = "refs/convert/parquet"
READERS = {".json": "json", ".jsonl": "json", ".arrow": "arrow"}  # suffix -> reader of `datasets`
DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "state.json", "decision_seq.json")
DEFAULT = "default"  # the configuration if neither the card nor a path names one


@dataclass(frozen=True)
class _Files:
    """Files to download: paths in the repository at one commit, and their sizes."""

    commit: str
    config: str
    sizes: dict[str, int]


def open_remote(name: str, folder: Path, reporter: Reporter | None = None) -> Path:
    """A folder of Parquet files, downloaded into `folder` unless it is there already.

    UserError within seconds without a network, for an unknown dataset, or without access to it. A
    run after an interrupted one downloads only the missing files.
    """
    reporter = reporter or Reporter()
    parsed = NAME.fullmatch(name)
    if parsed is None:
        raise UserError(f"hub/{name}: names are like OWNER/NAME or OWNER/NAME:CONFIG")
    repo, config = parsed["repo"], parsed["config"]
    label = f"{repo.replace('/', '--')}--{config or DEFAULT}"
    final = folder / label
    if (final / FETCHED_FILE).is_file():
        return final
    remote.require_hub(f"hub/{name}")
    import huggingface_hub

    api = huggingface_hub.HfApi(endpoint=remote.hub_endpoint())
    with remote.told_of(f"hub/{name}", lambda: _nearest_names(repo, api)), remote.quiet():
        files = _choose(name, repo, config, api)
        total = sum(files.sizes.values())
        reporter.say(f"hub/{name}: fetching {total / 1e6:.1f} MB to {folder}")
        partial = _partial(folder, label, files.commit)
        with remote.watched(partial, f"fetch {name}", total, reporter):
            _fetch(name, repo, files, partial, api)
    _convert(name, files, partial)
    facts = {"repo": repo, "config": None if files.config == DEFAULT else files.config}
    facts |= {"commit": files.commit, "files": files.sizes}
    (partial / FETCHED_FILE).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return remote.settle(partial, final)


def _choose(name: str, repo: str, config: str | None, api: Any) -> _Files:
    """The files of the configuration; UserError if it is unknown or ambiguous."""
    candidates = list(_candidates(repo, api))
    if not candidates:
        raise UserError(
            f"hub/{name} has no Parquet, JSON or Arrow files; its own code is not run: turn it into"
            " Parquet first"
        )
    for commit, configs, sizes in candidates:
        chosen = config or (next(iter(configs)) if len(configs) == 1 else DEFAULT)
        if chosen in configs:
            return _Files(commit, chosen, {path: sizes[path] for path in configs[chosen]})
    known = sorted({label for _, configs, _ in candidates for label in configs})
    if config is None:
        raise UserError(
            f"hub/{name} has several configurations; say hub/{name}:CONFIG with one of"
            f" {', '.join(known[:20])}"
        )
    raise UserError(f"hub/{repo} has no configuration {config!r}; {remote.nearest(config, known)}")


def _candidates(repo: str, api: Any) -> Iterator[tuple[str, dict[str, list[str]], dict[str, int]]]:
    """(commit, configuration -> files, file -> size) of each kind of files, the preferred first."""
    import huggingface_hub.errors

    info = api.dataset_info(repo)
    main = _sizes(repo, info.sha, api)
    card = info.card_data.to_dict() if info.card_data else {}
    parquet = {path: size for path, size in main.items() if path.endswith(".parquet")}
    if parquet:
        yield info.sha, _configs(parquet, card), parquet
    try:
        converted = api.dataset_info(repo, revision=CONVERTED).sha
    except huggingface_hub.errors.RevisionNotFoundError:  # the Hub converts only some datasets
        converted = None
    if converted:
        sizes = _sizes(repo, converted, api)
        sizes = {path: size for path, size in sizes.items() if path.endswith(".parquet")}
        if sizes:
            yield converted, _configs(sizes, {}), sizes
    others = {
        path: size
        for path, size in main.items()
        if Path(path).suffix in READERS and Path(path).name not in DESCRIPTIONS
    }
    if others:
        yield info.sha, _configs(others, card), others


def _sizes(repo: str, commit: str, api: Any) -> dict[str, int]:
    tree = api.list_repo_tree(repo, recursive=True, revision=commit, repo_type="dataset")
    files = {entry.path: entry.size for entry in tree if hasattr(entry, "size")}
    for path in files:
        remote.require_within(f"hub/{repo}", path)
    return {path: size for path, size in sorted(files.items()) if not path.startswith(".")}


def _configs(sizes: dict[str, int], card: dict[str, Any]) -> dict[str, list[str]]:
    """Configuration -> its files, from the repository's card, else from the paths."""
    found: dict[str, list[str]] = {}
    for entry in card.get("configs") or []:
        if not isinstance(entry, dict) or not isinstance(entry.get("config_name"), str):
            continue  # a card is written by hand and may be wrong; the paths are used then
        patterns = list(_patterns(entry.get("data_files")))
        paths = [p for p in sizes if any(fnmatch.fnmatch(p, pattern) for pattern in patterns)]
        if paths:
            found[entry["config_name"]] = paths
    if not found:
        for path in sizes:
            found.setdefault(_label(Path(path)), []).append(path)
    return found


def _patterns(data_files: Any) -> Iterator[str]:
    """The patterns in a card's data_files: one, a list, or one per split."""
    if isinstance(data_files, str):
        yield data_files.removeprefix("./")
    elif isinstance(data_files, list):
        for entry in data_files:
            yield from _patterns(entry)
    elif isinstance(data_files, dict):
        entries = [data_files["path"]] if "path" in data_files else data_files.values()
        for entry in entries:
            yield from _patterns(entry)


def _label(path: Path) -> str:
    """The configuration that a path names.

    `hopper/train/0.parquet`, `data/hopper-train-00000-of-00001.parquet` -> `hopper`.
    """
    folders = [part for part in path.parts[:-1] if part not in ("data", *SPLITS)]
    if folders:
        return folders[0]
    stem = re.sub(r"-\d+-of-\d+$", "", path.stem)
    stem = re.sub(rf"[-_]?({'|'.join(SPLITS)})$", "", stem)
    return DEFAULT if not stem or stem.isdigit() else stem


def _fetch(name: str, repo: str, files: _Files, partial: Path, api: Any) -> None:
    for path, size in files.sizes.items():
        api.hf_hub_download(
            repo, path, repo_type="dataset", revision=files.commit, local_dir=partial
        )
        found = (partial / path).stat().st_size
        if found != size:
            (partial / path).unlink()
            raise UserError(f"hub/{name}: {path} came with {found} of {size} bytes; run again")
    shutil.rmtree(partial / ".cache", ignore_errors=True)  # metadata of the client


def _partial(folder: Path, label: str, commit: str) -> Path:
    """The download folder of one commit; folders of other commits are removed."""
    partial = folder / f".partial-{label}-{commit[:12]}"
    for other in folder.glob(f".partial-{label}-*"):
        if other != partial and other.name.rpartition("-")[0] == partial.name.rpartition("-")[0]:
            shutil.rmtree(other)
    partial.mkdir(parents=True, exist_ok=True)
    return partial


def _convert(name: str, files: _Files, partial: Path) -> None:
    """Convert files that are not Parquet to one Parquet file, in bounded memory."""
    suffixes = {Path(path).suffix for path in files.sizes}
    if suffixes == {".parquet"}:
        return
    if len(suffixes) > 1:
        raise UserError(f"hub/{name} mixes files of kinds {sorted(suffixes)}; name a configuration")
    import datasets

    cache = partial / ".converting"
    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(
            READERS[suffixes.pop()],
            data_files=[str(partial / path) for path in files.sizes],
            cache_dir=str(cache),
            split="train",
        )
        loaded.to_parquet(str(cache / "all.parquet"), batch_size=32)
    except Exception as error:
        if not type(error).__module__.startswith(("datasets", "pyarrow")):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"hub/{name}: its files cannot be read ({reason})") from error
    finally:
        datasets.enable_progress_bars()
    for path in files.sizes:
        (partial / path).unlink()
    (cache / "all.parquet").rename(partial / "all.parquet")
    shutil.rmtree(cache)


def _nearest_names(repo: str, api: Any) -> str:
    """A hint with the nearest repositories of the same owner, if they can be listed."""
    try:
        listed = [info.id for info in api.list_datasets(author=repo.partition("/")[0], limit=100)]
    except Exception as error:
        if not remote.is_failure(error):
            raise
        return "and its owner's listing cannot be had; check the name"
    return remote.nearest(repo, listed)
