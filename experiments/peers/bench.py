"""Peers' Decision Transformers of the paper's size, each in an environment of its own, beside ours.

`make bench-peers`. One long-lived worker a peer (`*_worker.py`, told what to do as `protocol.py`
says) takes its turn in every round, so that whatever else the machine does falls on all of them.
Figures are those of this machine in this run; the ratio to ours, taken round by round, is the one
to quote. All on the CPU, in fp32.
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

OURS = Peer("decision_seq")  # in this very environment
EPISODES, WARMUP_ROUNDS = 200, 2
WHAT = {
    "update": "one update, the same batch again and again",
    "step": "a whole training step, its batch made by the peer's own data pipeline",
}


PEERS = {
    peer.name: peer
    for peer in (
        Peer("d3rlpy"),
        # It asks for Python 3.12 and uses nothing of it.
        Peer("nanodt", anyway="nanodt==0.1.0"),
        Peer("torchrl"),
    )
}


def write_episodes(path: Path) -> None:
    """Random episodes of Hopper's sizes, the same for all: what every worker's data are made of."""
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
    """The workers that could be started, by name; why another could not is put in `left_out`.

    One after the other, so that no import delays another's.
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
    """Seconds an update by part, peer and round. A peer that fails is left out from there on."""
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
    """A peer's line of the result; `ratio`: its time in ours', the median of the rounds'."""
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
    """The result as tables, and what differs between the peers."""
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
    """Ours and these peers, measured in the same rounds."""
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
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(PEERS)}; all")
    parser.add_argument("--rounds", type=_positive, default=20)
    parser.add_argument("--updates", type=_positive, default=5, help="in a peer's turn (5)")
    parser.add_argument("--threads", type=_positive, help="of each; as many as torch likes")
    parser.add_argument("--timeout", type=_positive, default=300, help="seconds for an answer")
    parser.add_argument("--folder", type=Path, default=Path(".peers"), help="of the environments")
    parser.add_argument("--json", type=Path, help="write the result there too")
    parser.add_argument("--pip-args", type=str.split, default=[], help="for every installation")
    options = parser.parse_args(arguments)
    for name in options.peers:
        if name not in PEERS:
            parser.error(f"no peer {name!r}: choose among {', '.join(PEERS)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison -> 2 where no peer took part, else 0."""
    options = parse(arguments)
    result = bench([PEERS[name] for name in options.peers or PEERS], options)
    print(text(result))
    if options.json:
        write_json(options.json, result)
    return 0 if set(result["notes"]) - {OURS.name} else 2


if __name__ == "__main__":
    sys.exit(main())
