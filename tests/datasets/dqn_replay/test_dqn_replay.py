"""Tests of DQN-replay logs: reading, the original's sampling, one-line errors for damage."""

import functools
import gzip
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decision_seq.cli import main
from decision_seq.datasets import Request, open_dataset
from decision_seq.datasets.dqn_replay import draw as replay_draw
from decision_seq.datasets.dqn_replay import reader as replay
from decision_seq.datasets.dqn_replay.draw import ReplayConfig, original_draw
from decision_seq.datasets.dqn_replay.reader import read
from decision_seq.datasets.export import convert
from decision_seq.datasets.store import EpisodeStore
from decision_seq.types import Episode, Reporter, UserError
from tests.conftest import Lines, make_frames

pytest.importorskip("ale_py")
SIZE = (84, 84)
ASK_THE_EMULATOR = replay._choices
KNOWN = functools.cache(ASK_THE_EMULATOR)  # a ROM takes 0.2 s to load
PADDED = Episode(np.zeros((3, *SIZE), np.uint8), np.zeros(3, int), np.zeros(3), False, False)


@pytest.fixture(autouse=True)
def _ask_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_choices", KNOWN)


def played(length: int, seed: int, choices: int = 4) -> Episode:
    """An episode with a termination, in the form of the logs."""
    episode = make_frames(length, seed, SIZE)
    return replace(episode, actions=episode.actions % choices, terminated=True)


def packed(array: np.ndarray, **how: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), **how)
    return gzip.compress(file.getvalue(), 1)


def write_shard(
    folder: Path, number: int, episodes: Sequence[Episode], tail: bool = False, **more: Any
) -> dict[str, np.ndarray]:
    """Write a shard. tail: the last episode has no end."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = {
        "observation": np.concatenate([e.observations for e in episodes]),
        "action": np.concatenate([e.actions for e in episodes]).astype(np.int32),
        "reward": np.concatenate([e.rewards for e in episodes]).astype(np.float32),
        "terminal": np.concatenate(
            [(np.arange(len(e)) == len(e) - 1) & e.terminated for e in episodes]
        ).astype(np.uint8),
    }
    if tail:
        columns["terminal"][-1] = 0
    columns |= more
    for name, column in columns.items():
        (folder / f"$store$_{name}_ckpt.{number}.gz").write_bytes(packed(column))
    return columns


def padded(episodes: Sequence[Episode]) -> list[Episode]:
    return [part for episode in episodes for part in (PADDED, episode)]


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return tmp_path / "dqn" / "Breakout" / "1" / "replay_logs"


def same(store: EpisodeStore, episodes: Sequence[Episode]) -> None:
    assert store.num_episodes == len(episodes)
    for index, episode in enumerate(episodes):
        kept = store.episode(index)
        for name in ("observations", "actions", "rewards"):
            np.testing.assert_array_equal(getattr(kept, name), getattr(episode, name))
        assert (kept.terminated, kept.truncated) == (episode.terminated, episode.truncated)


def test_episodes_are_read_whole_without_padding(logs: Path, tmp_path: Path) -> None:
    first, second = [played(20, 0), played(7, 1)], [played(33, 2), played(9, 3)]
    unfinished = replace(second[1], terminated=False)
    write_shard(logs, 0, padded(first))
    write_shard(logs, 7, padded(second), tail=True)
    said = Lines()
    store = read(logs, tmp_path / "store", said)
    same(store, [*first, second[0], unfinished])
    assert (store.stack, store.choices, store.clipped) == (4, 4, True)
    assert (store.header["env_id"], store.header["family"]) == (
        "atari/Breakout-v0",
        "atari/breakout",
    )
    assert said.lines == [
        f"{logs}: 81 transitions in 2 of 2 shard(s) = 69 kept + 12 of padding + 0 not requested"
    ]


def test_padding_can_be_kept(logs: Path, tmp_path: Path) -> None:
    episodes = [played(20, 0), played(7, 1)]
    columns = write_shard(logs, 0, padded(episodes))
    store = read(logs, tmp_path / "store", config=ReplayConfig(keep_padding=True))
    assert store.lengths.tolist() == [23, 10]
    rows = store.columns["observations"].rows(0, 33)
    np.testing.assert_array_equal(rows, columns["observation"])


def test_a_shard_that_begins_or_ends_amidst_an_episode(logs: Path, tmp_path: Path) -> None:
    """Partial episodes are retained; padding whose episode is on the next shard is no episode."""
    begun, whole = played(12, 0), played(5, 1)
    begun.actions[0] = begun.rewards[0] = 0  # like padding, but with a picture
    write_shard(logs, 0, [begun, *padded([whole]), PADDED])
    said = Lines()
    same(read(logs, tmp_path / "store", said), [begun, whole])
    assert "20 transitions" not in said.lines[0]
    assert "23 transitions in 1 of 1 shard(s) = 17 kept + 6 of padding" in said.lines[0]
    assert "1 episodes begin without Dopamine's padding" in said.lines[1]


def test_padding_alone_is_no_data(logs: Path, tmp_path: Path) -> None:
    write_shard(logs, 0, [PADDED], tail=True)
    with pytest.raises(UserError, match="holds nothing but padding; fetch more shards"):
        read(logs, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_black_frame_that_was_played_is_no_padding(logs: Path, tmp_path: Path) -> None:
    dark = played(10, 0)
    dark.observations[0] = 0
    dark.actions[0] = dark.rewards[0] = 0
    write_shard(logs, 0, padded([dark]))
    same(read(logs, tmp_path / "store"), [dark])


def test_a_buffer_that_was_never_full(logs: Path, tmp_path: Path) -> None:
    """Unwritten rows are not read; a buffer saved while overwriting itself is refused."""
    episodes = [played(20, 0)]
    rest = replace(PADDED, rewards=np.ones(3))  # arbitrary contents
    write_shard(logs, 0, [*padded(episodes), rest])
    (logs / "add_count_ckpt.0.gz").write_bytes(packed(np.array(23)))
    same(read(logs, tmp_path / "store"), episodes)
    (logs / "add_count_ckpt.0.gz").write_bytes(packed(np.array(26 * 3)))
    assert read(logs, tmp_path / "full").num_transitions == 23
    (logs / "add_count_ckpt.0.gz").write_bytes(packed(np.array(40)))
    with pytest.raises(UserError, match="in the midst of overwriting itself"):
        read(logs, tmp_path / "no")
    for count in (0, -5):
        (logs / "add_count_ckpt.0.gz").write_bytes(packed(np.array(count)))
        with pytest.raises(UserError, match=rf"add_count_ckpt\.0\.gz: a buffer of {count} trans"):
            read(logs, tmp_path / "no")


def test_shards_as_the_logger_saved_them(logs: Path, tmp_path: Path) -> None:
    """Each buffer was saved one row before it was full; its stale last row is not read."""
    stream = np.concatenate([np.full(n, i) for i, n in enumerate((20, 30, 25, 35))])
    whole = [played(n, i) for i, n in enumerate((20, 30, 25, 35))]
    size = 40
    buffer = {
        "observation": np.full((size, *SIZE), 77, np.uint8),  # arbitrary contents
        "action": np.full(size, 3, np.int32),
        "reward": np.ones(size, np.float32),
        "terminal": np.zeros(size, np.uint8),
    }
    count, expected = 0, []
    for episode in whole:
        for step in range(len(episode)):
            row = {
                "observation": episode.observations[step],
                "action": episode.actions[step],
                "reward": episode.rewards[step],
                "terminal": step == len(episode) - 1,
            }
            for name, column in buffer.items():
                column[count % size] = row[name]
            count += 1
            if count % size == size - 1:
                shard = count // size
                write_shard(logs, shard, [episode], **{n: c.copy() for n, c in buffer.items()})
                (logs / f"add_count_ckpt.{shard}.gz").write_bytes(packed(np.array(count)))
                expected += range(shard * size, count)
    store = read(logs, tmp_path / "store")
    frames = np.concatenate([episode.observations for episode in whole])[expected]
    np.testing.assert_array_equal(store.columns["observations"].rows(0, len(expected)), frames)
    pieces = [stream[shard * size : shard * size + size - 1] for shard in range(2)]
    assert store.lengths.tolist() == [
        n for p in pieces for n in np.unique(p, return_counts=True)[1]
    ]


def test_the_first_are_whole_episodes(logs: Path, tmp_path: Path) -> None:
    for number in range(3):
        write_shard(logs, number, padded([played(20, number), played(10, 5 + number)]))
    said = Lines()
    store = read(logs, tmp_path / "store", said, ReplayConfig("first", 35))
    assert store.lengths.tolist() == [20, 10, 20]
    assert "72 transitions in 2 of 3 shard(s) = 50 kept + 9 of padding + 13 not" in said.lines[0]
    with pytest.raises(UserError, match=r"holds only 90 of the 91 .*--replay\.transitions"):
        read(logs, tmp_path / "no", config=ReplayConfig("first", 91))


def drawn_by_a_loop(
    terminals: dict[int, np.ndarray], wanted: int, seed: int, limit: int
) -> dict[int, int]:
    """The original's procedure, row by row -> the final cursor of each buffer."""
    rng = np.random.RandomState(seed)
    cursors, rows = dict.fromkeys(terminals, 0), 0
    while rows < wanted:
        buffer = int(rng.choice(sorted(terminals), 1)[0])
        at, seen, more, done = cursors[buffer], 0, 10, False
        while not done:
            seen += 1
            if terminals[buffer][at]:
                done = more == 0
                more -= 1
            at += 1
            if at >= limit:
                at, seen, done = cursors[buffer], 0, True
        cursors[buffer], rows = at, rows + seen
    return cursors


@pytest.mark.parametrize("seed", [0, 1, 123])
def test_the_original_draw_is_that_of_its_loop(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(replay_draw, "ORIGINAL_ROWS", 400)
    rng = np.random.default_rng(seed)
    terminals = {}
    for number in (0, 1, 2, 3):
        episodes = [played(int(n), i) for i, n in enumerate(rng.integers(2, 12, 40 + 10 * number))]
        columns = write_shard(logs, number, padded(episodes))
        terminals[number] = columns["terminal"]
    config = ReplayConfig("original", 900, seed)
    expected = drawn_by_a_loop(terminals, 900, seed, 400)
    drawn = original_draw(logs, sorted(terminals), config)
    ends = {number: np.flatnonzero(t) + 1 for number, t in terminals.items()}
    assert {n: int(ends[n][count - 1]) for n, count in drawn.items()} == {
        n: at for n, at in expected.items() if at
    }
    store = read(logs, tmp_path / "store", config=replace(config, keep_padding=True))
    assert store.num_transitions == sum(expected.values()) >= 900
    columns = np.concatenate([terminals[n][: expected[n]] for n in sorted(expected)])
    np.testing.assert_array_equal(store.offsets[1:], np.flatnonzero(columns) + 1)


def test_a_visit_that_reaches_the_last_row_is_left_out(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the original, this holds even if its last episode ends there."""
    write_shard(logs, 0, padded([played(4, i) for i in range(20)]))
    for rows, found in ((78, 77), (77, 0)):
        monkeypatch.setattr(replay_draw, "ORIGINAL_ROWS", rows)
        with pytest.raises(UserError, match=f"only {found} of the 500"):
            read(logs, tmp_path / "store", config=ReplayConfig("original", 500))


def test_a_draw_ends_when_the_data_are_used_up(logs: Path, tmp_path: Path) -> None:
    for number in range(2):
        write_shard(logs, number, padded([played(4, i) for i in range(25)]))
    with pytest.raises(UserError, match=r"only 308 of the 500,000 .*--replay\.transitions"):
        read(logs, tmp_path / "store", config=ReplayConfig("original"))
    assert not (tmp_path / "store").exists()


@pytest.fixture
def sound(logs: Path) -> Path:
    write_shard(logs, 0, padded([played(20, 0), played(7, 1)]))
    return logs


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 9)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


DAMAGES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "frames cut": ("observation", _cut, "cut short"),
    "rewards cut": ("reward", _cut, "cut short"),
    "header cut": ("observation", lambda p: os.truncate(p, 30), "cut short|no array"),
    "flipped": ("observation", _flip, "damaged|cut short|not in gzip"),
    "not gzip": ("action", lambda p: p.write_bytes(b"nothing of the kind"), "not in gzip"),
    "empty": ("action", lambda p: p.write_bytes(b""), "is empty"),
    "no header": ("terminal", lambda p: p.write_bytes(gzip.compress(b"x" * 99)), "no array of"),
    "missing": ("reward", lambda p: p.unlink(), "missing: a shard has observation"),
    "longer": ("terminal", lambda p: _longer(p), "longer than it says"),
    "lengths": ("action", lambda p: p.write_bytes(packed(np.zeros(5, np.int32))), "in length"),
    "no rows": ("action", lambda p: p.write_bytes(packed(np.zeros(0, np.int32))), "is empty"),
    "dtype": ("action", lambda p: p.write_bytes(packed(np.zeros(33))), "one whole number a row"),
    "shape": (
        "reward",
        lambda p: p.write_bytes(packed(np.zeros((33, 1)))),
        "floating-point number a",
    ),
    "frames": (
        "observation",
        lambda p: p.write_bytes(packed(np.zeros((33, 80, 84), np.uint8))),
        r"\[n, 84, 84\] of uint8",
    ),
    "wide frames": (
        "observation",
        lambda p: p.write_bytes(packed(np.zeros((33, 84, 84), np.uint16))),
        r"\[n, 84, 84\] of uint8",
    ),
    "objects": ("action", lambda p: p.write_bytes(packed(np.array([{}] * 33))), "pickled objects"),
    "columns": (
        "observation",
        lambda p: p.write_bytes(packed(np.zeros((33, 84, 84), np.uint8, order="F"))),
        "by columns",
    ),
    "terminals": (
        "terminal",
        lambda p: p.write_bytes(packed(np.full(33, 2, np.uint8))),
        "other values than 0 and 1",
    ),
    "other game": (
        "action",
        lambda p: p.write_bytes(packed(np.full(33, 5))),
        "holds action 5, but Breakout has 4",
    ),
    "negative": ("action", lambda p: p.write_bytes(packed(np.full(33, -1))), "holds action -1"),
    "nan": (
        "reward",
        lambda p: p.write_bytes(packed(np.full(33, np.nan, np.float32))),
        "rewards hold NaN",
    ),
    "huge": ("action", lambda p: p.write_bytes(_huge()), "differ in length|unpack"),
}


def _longer(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"more"))


def _huge() -> bytes:
    file = io.BytesIO()
    header = {"descr": "<i4", "fortran_order": False, "shape": (10**15,)}
    np.lib.format.write_array_header_1_0(file, header)
    return gzip.compress(file.getvalue())


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_line_that_names_the_file(sound: Path, tmp_path: Path, damage: str) -> None:
    array, change, words = DAMAGES[damage]
    change(sound / f"$store$_{array}_ckpt.0.gz")
    with pytest.raises(UserError, match=words) as caught:
        read(sound, tmp_path / "made" / "store")
    assert str(sound) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "made").glob("*"))


def test_an_episode_beyond_the_limit_is_not_held_in_memory(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decision_seq.datasets.dqn_replay.reader.MOST_STEPS", 15)
    with pytest.raises(UserError, match="no terminal in its rows 0 to 22"):
        read(sound, tmp_path / "store")


def test_folders_name_the_game(tmp_path: Path) -> None:
    logs = tmp_path / "MsPacman" / "5" / "replay_logs"
    write_shard(logs, 0, padded([played(9, 0, 9)]))
    store = read(tmp_path / "MsPacman", tmp_path / "store")
    assert (store.header["env_id"], store.choices) == ("atari/MsPacman-v0", 9)
    write_shard(tmp_path / "nameless", 0, padded([played(9, 0)]))
    with pytest.raises(UserError, match="called like an Atari game"):
        read(tmp_path / "nameless", tmp_path / "other")
    write_shard(tmp_path / "MsPacman" / "2" / "replay_logs", 0, padded([played(9, 0)]))
    with pytest.raises(UserError, match="2 folders of shards"):
        read(tmp_path / "MsPacman", tmp_path / "other")


def test_without_ale_py_one_line_names_the_extra(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ale_py.roms", None)
    with pytest.raises(UserError, match=r"pip install 'decision-seq\[atari\]'"):
        read(sound, tmp_path / "store")


def test_without_the_rom_one_line_says_so(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_choices", ASK_THE_EMULATOR)
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"breakout\.bin"):
        read(sound, tmp_path / "store")


def test_a_store_for_every_draw(sound: Path) -> None:
    """A store is made once per path, and again for other options or changed logs."""
    store = open_dataset(str(sound))
    made = (store.path / "header.json").stat().st_mtime_ns
    assert (open_dataset(str(sound)).path / "header.json").stat().st_mtime_ns == made
    kept = open_dataset(str(sound), Request(replay=ReplayConfig(keep_padding=True)))
    assert kept.path != store.path
    assert kept.num_transitions == store.num_transitions + 6
    write_shard(sound, 1, padded([played(5, 3)]))
    assert open_dataset(str(sound)).num_transitions == 32


def test_the_name_finds_the_logs_at_hand(stores: Path) -> None:
    with pytest.raises(UserError, match=r"gs://atari-replay-datasets/dqn/Breakout/1/replay_logs "):
        open_dataset("atari/Breakout")
    with pytest.raises(UserError, match="did you mean atari/Breakout"):
        open_dataset("atari/Breakuot")
    write_shard(stores / "atari/Breakout/1/replay_logs", 0, padded([played(20, 0)]))
    assert open_dataset("atari/Breakout").num_transitions == 20
    assert open_dataset("atari/breakout").num_transitions == 20


@pytest.mark.parametrize("shard_rows", [10**6, 60])
def test_what_is_written_out_reads_back(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_rows: int
) -> None:
    monkeypatch.setattr("decision_seq.datasets.dqn_replay.export.SHARD_ROWS", shard_rows)
    stop = replace(played(30, 2), terminated=False)
    write_shard(logs, 0, padded([played(20, 0), played(41, 1), stop]), tail=True)
    write_shard(logs, 1, padded([played(8, 3)]))
    store = read(logs, tmp_path / "store")
    convert(store, "dqn-replay", tmp_path / "out", Reporter())
    folder = tmp_path / "out/Breakout/1/replay_logs"
    assert len(list(folder.glob("*_action_*"))) == (2 if shard_rows == 10**6 else 4)
    again = read(tmp_path / "out", tmp_path / "again")
    same(again, list(store.episodes()))
    assert again.checksum == store.checksum


def test_rewards_are_cut_and_vectors_refused(
    make_frame_store: Callable[..., EpisodeStore], store: EpisodeStore, tmp_path: Path
) -> None:
    frames = make_frame_store([9, 30], size=SIZE, env_id="atari/Pong-v0?{}", clipped=False)
    convert(frames, "dqn-replay", tmp_path / "out", Reporter())
    again = read(tmp_path / "out", tmp_path / "again")
    assert again.clipped
    np.testing.assert_array_equal(again.columns["rewards"].array, frames.columns["rewards"].array)
    for refused in (store, make_frame_store([9], "small", env_id="atari/Pong-v0")):
        with pytest.raises(UserError, match="cannot be written as dqn-replay"):
            convert(refused, "dqn-replay", tmp_path / "no", Reporter())
    assert not (tmp_path / "no").exists()


def test_the_command_line(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "inspect", str(sound)]) == 0
    page = capsys.readouterr()
    assert "cut to [-1, 1]" in page.out
    assert "27 kept + 6 of padding" in page.err + page.out
    assert main(["data", "inspect", str(sound.parent / "nothing")]) == 2
