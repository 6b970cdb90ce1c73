"""Compare Decision Transformers of other libraries with ours, at the paper's size (fp32, on a CPU).

Run by `make bench-peers`. Each peer has its own environment and one long-lived worker
(`*_worker.py`, driven as in `protocol.py`). All workers take a turn in every round, so that other
load on the machine affects them alike. The times depend on the machine and the run; the ratio to
ours, taken round by round, is the figure to quote.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from protocol import ACTION, BATCH, CONTEXT, DROPOUT, LAYERS, LENGTH, OBSERVATION, PARTS, WIDTH
from workers import Peer, PeerError, Worker, environment

from decision_seq.report import table, write_json

OURS = Peer("decision_seq")  # runs in the current environment
EPISODES, WARMUP_ROUNDS = 200, 2
WHAT = {
    "update": "one update, repeated on the same batch",
    "step": "a whole training step, with a batch from the peer's own data pipeline",
}


PEERS = {
    peer.name: peer
    for peer in (
        Peer("d3rlpy"),
        # It requires Python 3.12 but uses none of its features.
        Peer("nanodt", anyway="nanodt==0.1.0"),
        Peer("torchrl"),
    )
}


def write_episodes(path: Path) -> None:
    """Write random episodes of Hopper's sizes, the data of all workers."""
    rng = np.random.default_rng(0)
    np.savez(
        path,
        observations=rng.normal(3, 2, (EPISODES, LENGTH + 1, OBSERVATION)).astype(np.float32),
        actions=rng.uniform(-1, 1, (EPISODES, LENGTH, ACTION)).astype(np.float32),
        rewards=rng.normal(3, 1, (EPISODES, LENGTH)),
    )


def start(
    peers: list[Peer], options: argparse.Namespace, episodes: Path, left_out: dict[str, str]
) -> dict[str, Worker]:
    """Start the workers -> those that started, by name; reasons for the others go to `left_out`.

    They start one after the other, so that no import delays another.
    """
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
    workers: dict[str, Worker] = {}
    options.folder.mkdir(parents=True, exist_ok=True)
    for peer in peers:
        try:
            own = peer.requirements.is_file()
            python = environment(peer, options.folder, options.pip_args) if own else sys.executable
            worker = Worker(
                [str(python), str(peer.script), str(episodes), str(options.threads or 0)],
                options.folder / f"{peer.name}.log",
                env,
                options.timeout,
            )
            worker.about = worker.answer()
        except PeerError as error:
            left_out[peer.name] = str(error)
        else:
            workers[peer.name] = worker
    return workers


def measure(
    workers: dict[str, Worker], rounds: int, updates: int, left_out: dict[str, str]
) -> dict[str, dict[str, list[float]]]:
    """Seconds per update, by part, peer and round. A peer that fails is left out of the result."""
    seconds: dict[str, dict[str, list[float]]] = {}
    for part in PARTS:
        taking_part = [name for name, worker in workers.items() if part in worker.about["parts"]]
        seconds[part] = {name: [] for name in taking_part}
        for number in range(WARMUP_ROUNDS + rounds):
            for name in [name for name in taking_part if name not in left_out]:
                try:
                    took = workers[name].turn(part, updates)
                except PeerError as error:
                    left_out[name] = str(error)
                    continue
                if number >= WARMUP_ROUNDS:
                    seconds[part][name].append(took)
    return {
        part: {name: took for name, took in by_name.items() if name not in left_out}
        for part, by_name in seconds.items()
    }


def row(name: str, about: dict[str, Any], took: list[float], ours: list[float] | None) -> dict:
    """A peer's row of the result; `ratio`: its time divided by ours, median over the rounds."""
    times = np.array(took) * 1e3
    return {
        "name": name,
        "version": about["version"],
        "torch": about["torch"],
        "parameters": about["parameters"],
        "median_ms": float(np.median(times)),
        "min_ms": float(times.min()),
        "max_ms": float(times.max()),
        "ratio": float(np.median(times / 1e3 / np.array(ours))) if ours else None,
    }


def text(result: dict[str, Any]) -> str:
    """The result as tables, with notes on differences between the peers."""
    header = ["", "version", "torch", "parameters", "median ms", "min", "max", "times ours"]
    blocks = [
        f"batch {BATCH}, K {CONTEXT}, {LAYERS} layers, {WIDTH} wide, dropout {DROPOUT}, fp32;"
        f" {result['rounds']} interleaved rounds of {result['updates']} updates,"
        f" {result['threads']} threads, {result['processor']}"
    ]
    for part, rows in result["parts"].items():
        cells = [
            [
                row["name"],
                row["version"],
                row["torch"],
                f"{row['parameters']:,}",
                *(f"{row[key]:.1f}" for key in ("median_ms", "min_ms", "max_ms")),
                f"{row['ratio']:.2f}" if row["ratio"] else "-",
            ]
            for row in rows
        ]
        blocks.append(f"{WHAT[part]}\n\n{table(header, cells)}")
    notes = [f"{name}: {note}" for name, note in result["notes"].items() if note]
    missing = [f"{name}: left out, {why}" for name, why in result["left_out"].items()]
    return "\n\n".join([*blocks, *("\n".join(lines) for lines in (notes, missing) if lines)])


def bench(peers: list[Peer], options: argparse.Namespace) -> dict[str, Any]:
    """Measure ours and these peers in the same rounds."""
    left_out: dict[str, str] = {}
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory(prefix="decision-seq-bench-") as folder:
        episodes = Path(folder) / "episodes.npz"
        write_episodes(episodes)
        try:
            workers = start([OURS, *peers], options, episodes, left_out)
            seconds = measure(workers, options.rounds, options.updates, left_out)
        finally:
            for worker in workers.values():
                worker.stop()
    about = {name: worker.about for name, worker in workers.items()}
    first: dict[str, Any] = next(iter(about.values()), {})
    return {
        "rounds": options.rounds,
        "updates": options.updates,
        "threads": first.get("threads"),
        "processor": first.get("processor"),
        "parts": {
            part: [
                row(name, about[name], took, by_name.get(OURS.name))
                for name, took in by_name.items()
            ]
            for part, by_name in seconds.items()
        },
        "notes": {name: of["notes"] for name, of in about.items() if name not in left_out},
        "left_out": left_out,
    }


def _positive(value: str) -> int:
    if not value.isdecimal() or not int(value):
        raise argparse.ArgumentTypeError(f"{value!r} must be a whole number of at least 1")
    return int(value)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-peers", description=__doc__)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"{', '.join(PEERS)} (all)")
    parser.add_argument("--rounds", type=_positive, default=20, help="counted rounds (20)")
    parser.add_argument("--updates", type=_positive, default=5, help="updates per turn (5)")
    parser.add_argument("--threads", type=_positive, help="threads per worker (torch's default)")
    parser.add_argument("--timeout", type=_positive, default=300, help="seconds per answer (300)")
    parser.add_argument("--folder", type=Path, default=Path(".peers"), help="environments (.peers)")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--pip-args", type=str.split, default=[], help="arguments for every pip")
    options = parser.parse_args(arguments)
    for name in options.peers:
        if name not in PEERS:
            parser.error(f"no peer {name!r}: choose among {', '.join(PEERS)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison -> exit code 2 where no peer took part, else 0."""
    options = parse(arguments)
    result = bench([PEERS[name] for name in options.peers or PEERS], options)
    print(text(result))
    if options.json:
        write_json(options.json, result)
    return 0 if set(result["notes"]) - {OURS.name} else 2


if __name__ == "__main__":
    sys.exit(main())
