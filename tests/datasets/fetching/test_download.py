"""Tests of fetching D4RL's files from a local host: cut, refused, forged, unreachable."""

import contextlib
import csv
import hashlib
import importlib.util
import json
import runpy
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from decision_seq.datasets import Request, open_dataset
from decision_seq.datasets.collected.collection import Size
from decision_seq.datasets.d4rl import reader as d4rl
from decision_seq.datasets.d4rl.names import PublishedFile, published
from decision_seq.datasets.d4rl.reader import cache_folder
from decision_seq.datasets.fetching.download import STALL_SECONDS, Unreachable, fetch
from decision_seq.types import UserError
from tests.loopback import Loopback, cut, endless, hang, length, no_range, short, status

FILE = "gym_mujoco_v2/hopper_medium-v2.hdf5"


@pytest.fixture
def host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_d4rl: Callable[..., Path]
) -> Iterator[Loopback]:
    """Local host with one dataset, its size and checksum recorded as the published ones."""
    folder = tmp_path / "host"
    (folder / FILE).parent.mkdir(parents=True)
    shutil.move(write_d4rl((400, 300)), folder / FILE)
    content = (folder / FILE).read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:16]
    facts = {"hopper-medium-v2": PublishedFile(FILE, len(content), digest)}
    monkeypatch.setattr(d4rl, "published", lambda: facts)
    monkeypatch.setenv("DECISION_SEQ_OFFLINE", "0")
    with Loopback(folder) as server:
        monkeypatch.setenv("DECISION_SEQ_D4RL_URL", server.url)
        yield server


def fails_in_one_line(words: str, *names: str) -> None:
    """One line, and nothing at the file's name afterwards."""
    with pytest.raises(UserError, match=words) as caught:
        open_dataset(names[0] if names else "d4rl/hopper-medium-v2")
    assert "\n" not in str(caught.value)
    assert not (cache_folder() / "hopper_medium-v2.hdf5").exists()


def test_a_file_is_fetched_once_and_recorded(host: Loopback) -> None:
    store = open_dataset("d4rl/hopper-medium-v2")
    assert store.num_transitions == 700
    file = cache_folder() / "hopper_medium-v2.hdf5"
    content = (host.folder / FILE).read_bytes()
    assert file.read_bytes() == content
    facts = json.loads((cache_folder() / "hopper_medium-v2.hdf5.json").read_text())
    assert facts["bytes"] == len(content)
    assert facts["sha256"] == store.header["source"]["sha256"]
    assert facts["url"].startswith(host.url)
    asked = len(host.requests)
    assert open_dataset("hopper-medium").path == store.path
    assert len(host.requests) == asked
    names = {path.name for path in cache_folder().iterdir()}
    assert names == {"hopper_medium-v2.hdf5", "hopper_medium-v2.hdf5.json"}


def test_a_cut_connection_is_taken_up_where_it_broke(host: Loopback) -> None:
    host.faults[FILE] = cut(20_000, times=2)
    assert open_dataset("d4rl/hopper-medium-v2").num_transitions == 700
    ranges = [asked.range for asked in host.requests if asked.method == "GET"]
    assert ranges[0] is None
    assert all(range_ and int(range_[6:-1]) >= 20_000 for range_ in ranges[1:])


def test_a_later_command_goes_on_from_there(host: Loopback) -> None:
    partial = cache_folder() / "x.partial"
    host.faults[FILE] = cut(20_000)
    host.faults["*"] = cut(0, times=None)  # later connections deliver nothing
    with pytest.raises(UserError, match="goes on from there"):
        fetch(f"{host.url}/{FILE}", cache_folder() / "x")
    have = partial.stat().st_size
    assert have == 20_000
    host.faults.clear()
    host.requests.clear()
    fetch(f"{host.url}/{FILE}", cache_folder() / "x")
    assert [asked.range for asked in host.requests if asked.method == "GET"] == [f"bytes={have}-"]
    assert (cache_folder() / "x").read_bytes() == (host.folder / FILE).read_bytes()
    assert not partial.exists()


def test_a_host_that_knows_no_ranges_starts_anew(host: Loopback) -> None:
    partial = cache_folder() / "x.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"something else")
    partial.with_suffix(".tag").write_text('"old"')
    host.faults[FILE] = no_range()
    fetch(f"{host.url}/{FILE}", cache_folder() / "x")
    assert (cache_folder() / "x").read_bytes() == (host.folder / FILE).read_bytes()


def test_a_file_that_changed_meanwhile_is_not_pieced_together(host: Loopback) -> None:
    partial = cache_folder() / "x.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"the beginning of its former version")
    partial.with_suffix(".tag").write_text('"former"')
    fetch(f"{host.url}/{FILE}", cache_folder() / "x")
    assert (cache_folder() / "x").read_bytes() == (host.folder / FILE).read_bytes()


def test_a_file_of_the_wrong_size_is_refused(host: Loopback) -> None:
    host.faults[FILE] = short(5000)
    fails_in_one_line("are published")


def test_no_more_is_fetched_than_was_published(host: Loopback) -> None:
    host.faults[FILE] = endless(100_000)
    fails_in_one_line("has at least .* bytes, .* are published; it was removed")
    assert list(cache_folder().iterdir()) == []


@pytest.mark.parametrize("text", ["9" * 5000, "²", "-5", "1e3", "0x10", ""])
def test_a_length_that_is_no_number_is_not_believed(text: str, host: Loopback) -> None:
    host.faults[FILE] = length(text)
    with contextlib.suppress(UserError):  # the client may believe it, and wait for more
        assert open_dataset("d4rl/hopper-medium-v2").num_transitions == 700


def test_a_transfer_that_would_never_end_is_given_up(
    host: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10**9, 20))  # twenty seconds pass from one block to the next
    now = SimpleNamespace(monotonic=lambda: float(next(clock)))
    monkeypatch.setattr("decision_seq.datasets.fetching.download.time", now)
    host.faults["x"] = endless(1)
    with pytest.raises(UserError, match="bytes came in 60 s; try later"):
        fetch(f"{host.url}/x", cache_folder() / "x")


def test_a_portals_page_is_not_kept_as_the_data(
    host: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"hopper-medium-v2": PublishedFile(FILE, None, None)}
    monkeypatch.setattr(d4rl, "published", lambda: facts)
    good = (host.folder / FILE).read_bytes()
    (host.folder / FILE).write_text("<html>log in</html>")
    fails_in_one_line("is another kind of file, perhaps a portal's page")
    assert list(cache_folder().iterdir()) == []
    (host.folder / FILE).write_bytes(good)
    assert open_dataset("d4rl/hopper-medium-v2").num_transitions == 700
    # One that an earlier version kept is fetched again.
    file = cache_folder() / "hopper_medium-v2.hdf5"
    page = b"<html>log in</html>"
    file.write_bytes(page)
    file.with_name(f"{file.name}.json").write_text(json.dumps({"bytes": len(page)}))
    assert open_dataset("d4rl/hopper-medium-v2").num_transitions == 700


@pytest.mark.parametrize("name", ["x.partial", "x.tag", ".x.lock", "x.json"])
def test_links_are_not_followed(name: str, host: Loopback, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    cache_folder().mkdir(parents=True)
    (cache_folder() / name).symlink_to(precious)
    with contextlib.suppress(UserError):
        fetch(f"{host.url}/{FILE}", cache_folder() / "x")
    assert precious.read_text() == "mine"


def test_a_forged_file_is_refused_and_removed(host: Loopback) -> None:
    content = bytearray((host.folder / FILE).read_bytes())
    content[3000] ^= 1
    (host.folder / FILE).write_bytes(content)
    fails_in_one_line("is published")
    assert list(cache_folder().iterdir()) == []


@pytest.mark.parametrize(
    ("code", "words"),
    [(403, "is forbidden"), (404, "does not exist there"), (503, "fails at the host")],
)
def test_refusals_name_the_address_and_the_mend(host: Loopback, code: int, words: str) -> None:
    host.faults[FILE] = status(code)
    fails_in_one_line(rf"{words} \(HTTP {code}\); try a mirror")


def test_a_file_that_was_cut_later_is_named(host: Loopback) -> None:
    open_dataset("d4rl/hopper-medium-v2")
    file = cache_folder() / "hopper_medium-v2.hdf5"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"has 5,000 bytes, .* were fetched .* delete it"):
        open_dataset("d4rl/hopper-medium-v2")


def test_several_processes_fetch_a_file_once(host: Loopback) -> None:
    url, path = f"{host.url}/{FILE}", cache_folder() / "x"
    threads = [threading.Thread(target=fetch, args=(url, path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() == (host.folder / FILE).read_bytes()
    assert sum(asked.method == "GET" for asked in host.requests) == 1


def test_a_host_that_refuses_leaves_the_bundled_collection(host: Loopback) -> None:
    host.faults[FILE] = status(403)
    store = open_dataset("hopper-medium", Request(size=Size(40), workers=1))
    assert store.header["source"]["kind"] == "bundled"


def test_a_host_that_never_answers_is_given_up(
    host: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.faults[FILE] = hang()
    monkeypatch.setattr("decision_seq.datasets.fetching.download.STALL_SECONDS", 0.2)
    fails_in_one_line("no answer")
    assert host.hung * STALL_SECONDS < 5


def test_without_a_network_the_bundled_collection_stands_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("DECISION_SEQ_D4RL_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setenv("DECISION_SEQ_OFFLINE", "0")
    fails_in_one_line("cannot be reached")
    fails_in_one_line("cannot be reached", "antmaze-umaze-v2")
    monkeypatch.setattr("decision_seq.datasets._open_bundled", lambda name, request: name)
    assert open_dataset("hopper-medium-v2") == "hopper-medium"  # type: ignore[comparison-overlap]
    with pytest.raises(Unreachable):
        fetch("http://no.such.host.invalid/x", cache_folder() / "x")


def test_a_folder_that_cannot_be_written_is_named(host: Loopback, tmp_path: Path) -> None:
    (tmp_path / "home" / ".d4rl").parent.mkdir(parents=True)
    (tmp_path / "home" / ".d4rl").write_text("a file where a folder should be")
    fails_in_one_line("cannot write .*d4rl")


def test_d4rls_names_of_files_are_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_d4rl: Callable[..., Path]
) -> None:
    """For example, D4RL's file of hopper-medium-replay-v0 is `hopper_mixed.hdf5`."""
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    path = write_d4rl((40,), "hopper_mixed.hdf5")
    assert d4rl.find_file("hopper-medium-replay-v0") == path
    assert d4rl.find_file("hopper-medium-replay-v2") is None


def test_the_table_of_files_is_whole() -> None:
    names = published()
    for robot in ("halfcheetah", "hopper", "walker2d", "ant"):
        for tier in ("random", "medium", "expert", "medium-replay", "medium-expert"):
            assert {f"{robot}-{tier}-v{v}" for v in (0, 1, 2)} <= names.keys()
    assert {"antmaze-large-play-v2", "kitchen-mixed-v0", "maze2d-umaze-v1"} <= names.keys()
    assert {f"{hand}-{kind}-v{v}" for hand in ("pen", "hammer", "door", "relocate")
            for kind in ("human", "cloned", "expert") for v in (0, 1)} <= names.keys()  # fmt: skip
    assert names["hopper-medium-v2"].bytes == 152_756_557
    for file in names.values():
        assert file.sha256 is None or len(file.sha256) == 16
    assert d4rl.versioned("hopper-medium") == "hopper-medium-v2"
    assert d4rl.versioned("maze2d-umaze") == "maze2d-umaze-v1"
    assert d4rl.versioned("kitchen-mixed") == "kitchen-mixed-v0"


@pytest.mark.skipif(importlib.util.find_spec("d4rl") is None, reason="d4rl is not installed")
def test_the_addresses_are_d4rls_own() -> None:
    package = importlib.util.find_spec("d4rl")
    assert package is not None
    infos = runpy.run_path(str(Path(str(package.origin)).with_name("infos.py")))
    for name, file in published().items():
        assert infos["DATASET_URLS"][name] == f"{d4rl.HOST}/{file.path}"


def test_the_table_is_sorted() -> None:
    lines = Path(d4rl.__file__).with_name("files.tsv").read_text().splitlines()
    names = [row[0] for row in csv.reader(lines, delimiter="\t") if not row[0].startswith("#")]
    assert names == sorted(names)
