"""Tests of frames in a store: equal contents, bounded memory, one-line errors."""

import itertools
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decision_seq.datasets.export import convert
from decision_seq.datasets.inspection import inspect
from decision_seq.datasets.joining import join
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.datasets.store.column import StoreDamaged
from decision_seq.datasets.store.frames import BLOCK, INDEX, FrameAppender, FrameColumn, codec
from decision_seq.sequences.conditioning import ReturnToGo, label
from decision_seq.sequences.device import DeviceSource, HostSource
from decision_seq.sequences.windows import WindowGatherer
from decision_seq.types import Reporter, UserError
from tests.conftest import make_frames

LENGTHS = (37, 1, 16, 2, 64, 5)
STACK, STEPS = 4, 6


@pytest.fixture
def frames(make_frame_store: Callable[..., EpisodeStore]) -> EpisodeStore:
    return make_frame_store(LENGTHS)


def raw(lengths: tuple[int, ...] = LENGTHS) -> np.ndarray:
    return np.concatenate([make_frames(n, i).observations for i, n in enumerate(lengths)])


def test_episodes_come_back_as_they_went_in(frames: EpisodeStore) -> None:
    assert (frames.stack, frames.observation_shape, frames.choices) == (4, (4, 10, 12), 6)
    for index, length in enumerate(LENGTHS):
        written, read = make_frames(length, index), frames.episode(index)
        for field in ("observations", "actions", "rewards"):
            np.testing.assert_array_equal(getattr(written, field), getattr(read, field))
        assert not read.has_final_observation
    frames.verify()


def test_statistics_are_those_of_all_pixels(frames: EpisodeStore) -> None:
    mean, std = frames.observation_statistics
    assert mean == pytest.approx(raw().astype(np.float64).mean(), rel=1e-12)
    assert std == pytest.approx(raw().astype(np.float64).std(), rel=1e-12)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    pieces=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    data=st.data(),
)
@settings(max_examples=60)
def test_any_rows_through_any_cache(tmp_path_factory, lengths, pieces, data) -> None:
    """For any pieces of frames and any cache size, rows equal those of the whole array."""
    whole = raw(tuple(lengths))
    path = tmp_path_factory.mktemp("column") / "observations.frames"
    appender = FrameAppender(path)
    cuts = [0, *itertools.accumulate(pieces), len(whole)]
    for start, stop in itertools.pairwise(sorted(min(cut, len(whole)) for cut in cuts)):
        if stop > start:
            appender.append(whole[start:stop])
    facts = appender.close()
    column = FrameColumn(path, tuple(facts["shape"]), facts["block"])
    slots = data.draw(st.integers(1, 4))
    column._slots = column._slots[:slots]  # limit() counts in MiB, too large here
    column._held, column._used = column._held[:slots], column._used[:slots]
    row = st.integers(0, len(whole) - 1)
    for _ in range(4):
        rows = np.array(data.draw(st.lists(row, min_size=1, max_size=30)))
        np.testing.assert_array_equal(column.take(rows), whole[rows])
        start, stop = sorted(data.draw(st.tuples(row, row)))
        np.testing.assert_array_equal(column.rows(start, stop + 1), whole[start : stop + 1])
        length = data.draw(st.integers(1, 50))
        expected = whole[np.minimum(rows[:, None] + np.arange(length), len(whole) - 1)]
        np.testing.assert_array_equal(column.windows(rows, length), expected)


def stacked_by_hand(store: EpisodeStore, row: int) -> np.ndarray:
    """Frames [T + stack - 1, H, W] from a window's first row on, zeros before the episode."""
    episode = int(np.searchsorted(store.offsets, row, side="right")) - 1
    whole, first = raw(), int(store.offsets[episode])
    return np.array(
        [
            np.zeros((10, 12), np.uint8) if r < first else whole[min(r, len(whole) - 1)]
            for r in range(row - STACK + 1, row + STEPS)
        ]
    )


def gatherer_of(store: EpisodeStore) -> WindowGatherer:
    return WindowGatherer(store, label(store, ReturnToGo(10.0)), STEPS, 1000)


def test_windows_equal_a_loop_that_stacks_by_hand(frames: EpisodeStore) -> None:
    """All windows of the store are compared, including the first and last rows."""
    ids = np.arange(frames.num_transitions)
    batch = gatherer_of(frames).gather(ids)
    assert batch.observations.shape == (len(ids), STEPS + STACK - 1, 10, 12)
    assert batch.observations.dtype == np.uint8
    for row in ids:
        np.testing.assert_array_equal(batch.observations[row], stacked_by_hand(frames, row))


def test_the_cache_keeps_no_zeros(frames: EpisodeStore) -> None:
    """Padding is written into the batch, not into the cached frames."""
    gatherer = gatherer_of(frames)
    gatherer.gather(np.arange(frames.num_transitions))
    np.testing.assert_array_equal(
        frames.columns["observations"].take(np.arange(frames.num_transitions)), raw()
    )


def test_the_device_holds_the_same_windows(frames: EpisodeStore, monkeypatch) -> None:
    import torch

    monkeypatch.setattr("decision_seq.sequences.device.PART_ROWS", 50)
    gatherer, cpu = gatherer_of(frames), torch.device("cpu")
    ids = np.arange(frames.num_transitions)
    host, device = HostSource(gatherer, cpu).batch(ids), DeviceSource(gatherer, cpu).batch(ids)
    for name, tensor in vars(host).items():
        if tensor is None:  # a field no policy requests
            assert getattr(device, name) is None
            continue
        assert tensor.dtype == getattr(device, name).dtype
        padded_alike = ("observations", "mask", "timesteps", "terminated", "ids")
        real = slice(None) if name in padded_alike else host.mask
        assert torch.equal(tensor[real], getattr(device, name)[real]), name


def test_memory_stays_below_the_limit(make_frame_store: Callable[..., EpisodeStore]) -> None:
    store = make_frame_store([2000], size=(84, 84))
    column = store.columns["observations"]
    assert isinstance(column, FrameColumn)
    column.limit(2)
    rows = np.random.default_rng(0).integers(0, 2000, 500)
    whole = column.rows(0, 2000)
    np.testing.assert_array_equal(column.take(rows), whole[rows])
    assert column._slots.nbytes <= 2 << 20
    assert len(column._held) == (2 << 20) // (BLOCK * 84 * 84)
    held = set(column._held.tolist())
    column.take(np.array(sorted(held)) * BLOCK)  # cached blocks are not decoded again
    assert set(column._held.tolist()) == held


def test_what_was_asked_for_last_is_kept(frames: EpisodeStore) -> None:
    column = frames.columns["observations"]
    assert isinstance(column, FrameColumn)
    column._slots, column._held, column._used = (
        column._slots[:2],
        column._held[:2],
        column._used[:2],
    )
    for block in (0, 1, 0, 2):
        column.take(np.array([block * BLOCK]))
    assert set(column._held) == {0, 2}


def file_of(store: EpisodeStore) -> Path:
    return store.path / "observations.frames"


@pytest.mark.parametrize("cut", [1, INDEX.itemsize, 100, 10**9])
def test_a_truncated_column_is_recognised(frames: EpisodeStore, cut: int) -> None:
    content = file_of(frames).read_bytes()
    file_of(frames).write_bytes(content[: max(len(content) - cut, 0)])
    with pytest.raises(StoreDamaged, match=r"observations\.frames .*delete the store"):
        EpisodeStore.open(frames.path)


def test_any_bit_that_fell_over_is_found(frames: EpisodeStore) -> None:
    """It is found on opening or when the block is decoded, and always by `verify`."""
    content = bytearray(file_of(frames).read_bytes())
    everything = np.arange(frames.num_transitions)
    for at in np.linspace(0, len(content) - 1, 60).astype(int):
        content[at] ^= 4
        file_of(frames).write_bytes(content)
        with pytest.raises(StoreDamaged, match=r"observations\.frames"):
            EpisodeStore.open(frames.path).columns["observations"].take(everything)
        content[at] ^= 4
    content[3] ^= 4
    file_of(frames).write_bytes(content)
    with pytest.raises(StoreDamaged, match="rows 0 to 15"):
        frames.episode(0)
    with pytest.raises(StoreDamaged, match="checksum"):
        EpisodeStore.open(frames.path).verify()


def test_a_bad_block_does_not_pass_for_the_one_it_replaced(frames: EpisodeStore) -> None:
    """A failed decoding leaves no partial block in the cache."""
    content = bytearray(file_of(frames).read_bytes())
    content[3] ^= 4
    file_of(frames).write_bytes(content)
    column = EpisodeStore.open(frames.path).columns["observations"]
    assert isinstance(column, FrameColumn)
    column._slots, column._held, column._used = (
        column._slots[:1],
        column._held[:1],
        column._used[:1],
    )
    last = np.array([40])
    np.testing.assert_array_equal(column.take(last), raw()[last])
    for _ in range(2):
        with pytest.raises(StoreDamaged):
            column.take(np.array([0]))
        assert column._held.tolist() == [-1]
        np.testing.assert_array_equal(column.take(last), raw()[last])


@pytest.mark.parametrize("forged", ["short", "huge", "content"])
def test_a_block_that_was_forged_with_its_checksum_is_refused(
    frames: EpisodeStore, forged: str
) -> None:
    """A block that unpacks to fewer bytes would leave earlier contents in place."""
    content = file_of(frames).read_bytes()
    blocks = -(-frames.num_transitions // BLOCK)
    space = len(content) - blocks * INDEX.itemsize
    index = np.frombuffer(content[space:], INDEX).copy()
    first = content[: int(index["end"][0])]
    false = {
        "short": codec().encode(raw()[: BLOCK - 1]),
        "huge": b"\xff\xff\xff\x7f" + first[4:],
        "content": first[:4] + b"\xff" * (len(first) - 4),
    }[forged]
    index["end"] = index["end"].astype(np.int64) + len(false) - len(first)
    index["crc"][0] = zlib.crc32(false)
    file_of(frames).write_bytes(false + content[len(first) : space] + index.tobytes())
    with pytest.raises(StoreDamaged, match="rows 0 to 15"):
        EpisodeStore.open(frames.path).episode(0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h.pop("stack"), "a stack of 1 does not fit"),
        (lambda h: h.update(stack=0), "'stack' is malformed"),
        (lambda h: h.update(stack=10**9), "'stack' is malformed"),
        (lambda h: h.update(clipped=1), "'clipped' is malformed"),
        (lambda h: h.update(choices="6"), "'choices' is malformed"),
        (lambda h: h["columns"]["observations"].pop("block"), r"observations\.npy cannot be read"),
        (lambda h: h["columns"]["observations"].update(block=3), "cut short"),
        (lambda h: h["columns"]["observations"].update(block=10**9), "cut short"),
        (lambda h: h["columns"]["observations"].update(dtype="<f4"), "cannot be"),
        (lambda h: h["columns"]["observations"]["shape"].append(3), "cannot be"),
        (lambda h: h["columns"]["rewards"].update(block=16), "cannot be"),
        (lambda h: h["statistics"].update(observation_mean=[1.0]), "observation_mean is of shape"),
    ],
)
def test_a_header_that_lies_is_recognised(frames: EpisodeStore, change, words: str) -> None:
    header = json.loads((frames.path / "header.json").read_text())
    change(header)
    (frames.path / "header.json").write_text(json.dumps(header))
    with pytest.raises(StoreDamaged, match=words):
        EpisodeStore.open(frames.path)


@pytest.mark.parametrize("broken", ["float", "final", "stacked"])
def test_what_is_no_single_frame_is_refused(tmp_path: Path, broken: str) -> None:
    from dataclasses import replace

    episode = make_frames(9, 0)
    frames = episode.observations
    changed = {
        "float": frames.astype(np.float32),
        "final": np.concatenate([frames, frames[-1:]]),
        "stacked": np.stack([frames] * 4, axis=1),
    }[broken]
    with StoreWriter(tmp_path / "store", 4) as writer, pytest.raises(UserError, match="episode 0"):
        writer.append(replace(episode, observations=changed))


def test_without_numcodecs_one_line_names_the_extra(frames: EpisodeStore, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "numcodecs.lz4", None)
    with pytest.raises(UserError, match=r"pip install 'decision-seq\[atari\]'"):
        EpisodeStore.open(frames.path)


def test_inspection_reads_frames_by_parts(frames: EpisodeStore, monkeypatch) -> None:
    whole = inspect(frames)
    found = {finding["check"]: finding for finding in whole["findings"]}
    assert found["actions in their space"]["detail"] == "discrete, 0 to 5 of 6"
    assert "cut to" in found["rewards"]["detail"]
    assert whole["columns"]["observations"]["max"] == raw().max()
    assert whole["columns"]["observations"]["min"] == raw().min()
    monkeypatch.setattr("decision_seq.datasets.inspection.BLOCK_BYTES", 7 * 120)
    assert inspect(frames) == whole


def test_parts_join_when_they_are_alike(
    make_frame_store: Callable[..., EpisodeStore], tmp_path: Path
) -> None:
    parts = [make_frame_store([20, 3], "a"), make_frame_store([5], "b")]
    joined = join("a+b", parts, tmp_path)
    assert (joined.stack, joined.choices, joined.clipped) == (4, 6, True)
    np.testing.assert_array_equal(
        joined.columns["observations"].rows(0, 28), np.concatenate([raw((20, 3)), raw((5,))])
    )
    with pytest.raises(UserError, match="rewards being clipped"):
        join("a+c", [parts[0], make_frame_store([5], "c", clipped=False)], tmp_path)


def test_a_copy_is_whole_and_other_layouts_refuse(frames: EpisodeStore, tmp_path: Path) -> None:
    convert(frames, "store", tmp_path / "copy", Reporter())
    copy = EpisodeStore.open(tmp_path / "copy")
    copy.verify()
    np.testing.assert_array_equal(copy.columns["observations"].rows(0, 125), raw())
    for layout in ("d4rl", "minari", "parquet"):
        with pytest.raises(UserError, match="4 to an observation"):
            convert(frames, layout, tmp_path / "other", Reporter())
        assert not (tmp_path / "other").exists()
