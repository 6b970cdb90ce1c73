"""Downloads over HTTP: with progress, resumed after a lost connection, verified when complete.

An incomplete file is `NAME.partial`. `NAME.json` beside a complete one records its URL, size and
SHA-256.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from decision_seq.config import save_text
from decision_seq.datasets.store.source_files import sha256
from decision_seq.reading import read_text
from decision_seq.types import Reporter, UserError

CONNECT_SECONDS = 3.0
STALL_SECONDS = 4.0  # time without a byte after which a connection is given up
SLOW_SECONDS, SLOW_BYTES = 60.0, 60_000  # a transfer that brings less in this time is given up
ATTEMPTS = 3  # consecutive connections without new bytes before giving up
BLOCK = 1 << 18
TAG_BYTES = 4096  # largest ETag
OFFLINE = "DECISION_SEQ_OFFLINE"


class Unreachable(UserError):
    """Error for a host that cannot be reached or refuses the file; another source may be used."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}; check the network, or put the data in place by hand")
        self.reason = reason


class Refused(Unreachable):
    """Error for a host that answers without the file; the message is used as given."""

    def __init__(self, reason: str) -> None:
        UserError.__init__(self, reason)
        self.reason = reason


class _ConnectionLost(Exception):
    """Error for a connection that ended before the file did."""


def fetch(
    url: str,
    path: Path,
    size: int | None = None,
    digest: str | None = None,
    reporter: Reporter | None = None,
    starts: bytes = b"",
) -> Path:
    """Download `url` to `path`, resuming an earlier attempt; returns `path`.

    size, digest: the published number of bytes and the beginning of the SHA-256, if known; starts:
    the first bytes of such a file, which a portal's page in its place does not have. A file that
    differs is refused and removed. Without a network, Unreachable within seconds; UserError
    for any other refusal by the host or the disk.
    """
    require_reachable(url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        reporter = reporter or Reporter()
        with _lock(path, reporter):
            if not path.exists():  # another process may just have downloaded it
                _fetch(url, path, size, digest, starts, reporter)
    except OSError as error:
        where = error.filename or path.parent
        raise UserError(f"cannot write {where}: {error.strerror}; make room there") from error
    return path


@contextmanager
def _lock(path: Path, reporter: Reporter) -> Iterator[None]:
    """Lock that lets one process at a time download a file."""
    lock_file = path.with_name(f".{path.name}.lock")
    flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        handle = os.open(lock_file, flags, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                reporter.say(f"another process is fetching {path}; waiting for it")
                fcntl.flock(handle, fcntl.LOCK_EX)
            if not _names(lock_file, handle):  # the former holder has removed it
                continue
            try:
                yield
            finally:
                lock_file.unlink(missing_ok=True)
            return
        finally:
            os.close(handle)


def _names(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _open_own(path: str, flags: int) -> int:
    """An opener for files with a fixed name: a link in their place is not followed."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _fetch(
    url: str, path: Path, size: int | None, digest: str | None, starts: bytes, reporter: Reporter
) -> None:
    partial = path.with_name(f"{path.name}.partial")
    total = _transfer_with_retries(url, partial, size, reporter)
    actual = sha256(partial)
    _require_as_published(url, partial, total, size, actual, digest, starts)
    facts = {
        "url": url,
        "bytes": total,
        "sha256": actual,
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    save_text(path.with_name(f"{path.name}.json"), json.dumps(facts, indent=1) + "\n")
    os.replace(partial, path)
    partial.with_suffix(".tag").unlink(missing_ok=True)


def _transfer_with_retries(url: str, partial: Path, size: int | None, reporter: Reporter) -> int:
    """Transfer the file, reconnecting until ATTEMPTS connections in a row bring nothing new."""
    failures, best = 0, 0
    while True:
        try:
            return _transfer(url, partial, size, reporter)
        except _ConnectionLost as error:
            have = partial.stat().st_size if partial.exists() else 0
            failures = failures + 1 if have <= best else 1
            best = max(best, have)
            if failures == ATTEMPTS:
                raise UserError(f"{url}: {error}; the same command goes on from there") from error


def require_reachable(url: str) -> None:
    """Raise Unreachable unless the host of `url` gives any answer within CONNECT_SECONDS."""
    try:
        parts = urllib.parse.urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        sound = False
    if not sound:
        raise UserError(f"{url!r} is no http(s) address")
    host = f"{parts.scheme}://{parts.netloc}"
    if os.environ.get(OFFLINE, "0") not in ("", "0"):
        raise Unreachable(f"{host} is not contacted, as {OFFLINE} is set")
    outcome: list[str] = []
    # On a thread, because the lookup of a host's name has no time limit.
    thread = threading.Thread(target=lambda: outcome.append(_failure(host)), daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS + 0.5)
    reason = outcome[0] if outcome else f"no answer within {CONNECT_SECONDS:g} s"
    if reason:
        raise Unreachable(f"{host} cannot be reached ({reason})")


def _failure(host: str) -> str:
    """The reason why the host does not answer; empty for any answer, HTTP errors included."""
    try:
        request = urllib.request.Request(f"{host}/", method="HEAD")
        urllib.request.urlopen(request, timeout=CONNECT_SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()
    except (http.client.HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return " ".join(str(getattr(reason, "strerror", None) or reason).split()) or "no answer"
    return ""


def _transfer(url: str, partial: Path, size: int | None, reporter: Reporter) -> int:
    """Append the missing bytes to `partial` -> the file's size; _ConnectionLost if cut short."""
    tag_file = partial.with_suffix(".tag")  # the host's ETag or date of this version of the file
    begun = all(file.is_file() and not file.is_symlink() for file in (partial, tag_file))
    have = partial.stat().st_size if begun else 0
    if size is not None and have == size:
        return have
    version = read_text(tag_file, TAG_BYTES) if have else ""
    headers = {"Range": f"bytes={have}-", "If-Range": version} if have else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=STALL_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # no bytes are left to send; the file is checked as a whole one
            return have
        raise Refused(_refusal(url, error.code)) from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        raise Refused(f"{url}: the host gives no answer ({reason}); try again later") from error
    with response:
        resumed = response.status == 206
        have = have if resumed else 0
        left = response.headers.get("Content-Length")
        total = have + int(left) if left and re.fullmatch("[0-9]{1,18}", left) else None
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if not resumed:
            tag_file.unlink(missing_ok=True)
            if tag:
                save_text(tag_file, tag)
        if size is not None and total not in (None, size):
            raise UserError(f"{url} has {total:,} bytes, {size:,} are published; not fetched")
        with (
            open(partial, "ab" if resumed else "wb", opener=_open_own) as file,
            reporter.bar(f"fetch {partial.stem}", "B", total or size or 0, have) as bar,
        ):
            pace = _Pace(url)
            while block := _read(response, have, total):
                file.write(block)
                have += len(block)
                bar.update(len(block))
                pace.count(len(block))
                if size is not None and have > size:
                    break  # refused below; the rest may be endless
    if total is not None and have != total:
        raise _ConnectionLost(f"cut after {have:,} of {total:,} bytes")
    return have


class _Pace:
    """Check that a transfer is not so slow that it would never end."""

    def __init__(self, url: str) -> None:
        self.url, self.since, self.bytes = url, time.monotonic(), 0

    def count(self, received: int) -> None:
        """Count bytes; UserError if too few came in the last SLOW_SECONDS."""
        self.bytes += received
        passed = time.monotonic() - self.since
        if passed < SLOW_SECONDS:
            return
        if self.bytes < SLOW_BYTES:
            raise UserError(
                f"{self.url}: only {self.bytes:,} bytes came in {passed:.0f} s; try later, or"
                " another mirror: the same command goes on from there"
            )
        self.since, self.bytes = time.monotonic(), 0


def _read(response: Any, have: int, total: int | None) -> bytes:
    try:
        return response.read1(BLOCK)  # what has come, however little
    except (http.client.HTTPException, OSError) as error:
        raise _ConnectionLost(f"cut after {have:,} of {total or 0:,} bytes") from error


def _refusal(url: str, code: int) -> str:
    reasons = {
        401: "asks for a password",
        403: "is forbidden",
        404: "does not exist there",
        429: "is requested too often",
    }
    reason = reasons.get(code, "is refused by the host" if code < 500 else "fails at the host")
    return f"{url} {reason} (HTTP {code}); try a mirror or put the file in place by hand"


def _require_as_published(
    url: str,
    partial: Path,
    total: int,
    size: int | None,
    actual: str,
    digest: str | None,
    starts: bytes,
) -> None:
    """Remove the file and raise UserError unless size and checksum are the published ones."""
    wrong = None
    if size is not None and total != size:
        least = "at least " if total > size else ""
        wrong = f"has {least}{total:,} bytes, {size:,} are published"
    elif digest is not None and not actual.startswith(digest):
        wrong = f"has the SHA-256 {actual[: len(digest)]}..., {digest}... is published"
    else:
        with open(partial, "rb") as file:
            begin = file.read(len(starts))
        if begin != starts:
            wrong = "is another kind of file, perhaps a portal's page"
    if wrong:
        partial.unlink()
        partial.with_suffix(".tag").unlink(missing_ok=True)
        raise UserError(f"{url} {wrong}; it was removed: fetch it again or use another mirror")
