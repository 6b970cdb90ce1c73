"""Files over HTTP: with progress, resumed after a cut, whole and checked or not there at all.

A file on its way is `NAME.partial`; beside a whole one lies `NAME.json` with where it came from,
its size and its SHA-256.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from decision_seq.data.identity import sha256
from decision_seq.types import Reporter, UserError

CONNECT_SECONDS = 3.0
STALL_SECONDS = 4.0  # without a byte
ATTEMPTS = 3  # connections in a row that may bring nothing new
BLOCK = 1 << 18
OFFLINE = "DECISION_SEQ_OFFLINE"


class Unreachable(UserError):
    """The host cannot be reached, or will not give the file: another source may stand in."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}; check the network, or put the data in place by hand")
        self.reason = reason


class Refused(Unreachable):
    """The host answers, but not with the file; the message is whole."""

    def __init__(self, reason: str) -> None:
        UserError.__init__(self, reason)
        self.reason = reason


class _Cut(Exception):
    """The connection ended before the file did."""


def fetch(
    url: str,
    path: Path,
    size: int | None = None,
    digest: str | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Bring `url` to `path`, going on with what an earlier attempt left; returns `path`.

    size, digest: the published number of bytes and the beginning of the SHA-256, where known; a
    file of others is refused and removed. Unreachable within seconds without a network; UserError
    for anything else the host or the disk refuses.
    """
    require_reachable(url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if not path.exists():  # another process may just have brought it
                _fetch(url, path, size, digest, reporter or Reporter())
    except OSError as error:
        where = error.filename or path.parent
        raise UserError(f"cannot write {where}: {error.strerror}; make room there") from error
    return path


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Of several processes that want the same file, one at a time."""
    lock = path.with_name(f".{path.name}.lock")
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _fetch(url: str, path: Path, size: int | None, digest: str | None, reporter: Reporter) -> None:
    partial = path.with_name(f"{path.name}.partial")
    total = _persist(url, partial, size, reporter)
    actual = sha256(partial)
    _require_as_published(url, partial, total, size, actual, digest)
    facts = {
        "url": url,
        "bytes": total,
        "sha256": actual,
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path.with_name(f"{path.name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    os.replace(partial, path)
    partial.with_suffix(".tag").unlink(missing_ok=True)


def _persist(url: str, partial: Path, size: int | None, reporter: Reporter) -> int:
    """Connect again after a cut, as long as every few connections bring something."""
    failures, best = 0, 0
    while True:
        try:
            return _transfer(url, partial, size, reporter)
        except _Cut as cut:
            have = partial.stat().st_size if partial.exists() else 0
            failures = failures + 1 if have <= best else 1
            best = max(best, have)
            if failures == ATTEMPTS:
                raise UserError(f"{url}: {cut}; the same command goes on from there") from cut


def require_reachable(url: str) -> None:
    """Unreachable unless the host of `url` answers anything at all within CONNECT_SECONDS."""
    try:
        parts = urllib.parse.urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        sound = False
    if not sound:
        raise UserError(f"{url!r} is no http(s) address")
    host = f"{parts.scheme}://{parts.netloc}"
    if os.environ.get(OFFLINE, "0") not in ("", "0"):
        raise Unreachable(f"{host} is not asked, as {OFFLINE} is set")
    outcome: list[str] = []
    # On a thread, because looking up a host's name knows no time limit.
    thread = threading.Thread(target=lambda: outcome.append(_failure(host)), daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS + 0.5)
    reason = outcome[0] if outcome else f"no answer within {CONNECT_SECONDS:g} s"
    if reason:
        raise Unreachable(f"{host} cannot be reached ({reason})")


def _failure(host: str) -> str:
    """Why the host does not answer; empty when it does, if with an error."""
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
    """Append what is missing to `partial` -> the file's whole size. _Cut when it ends early."""
    tag_file = partial.with_suffix(".tag")  # what the host calls this version of the file
    have = partial.stat().st_size if partial.is_file() and tag_file.is_file() else 0
    if size is not None and have == size:
        return have
    headers = {"Range": f"bytes={have}-", "If-Range": tag_file.read_text()} if have else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=STALL_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send: checked like a whole file
            return have
        raise Refused(_refusal(url, error.code)) from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        raise Refused(f"{url}: the host gives no answer ({reason}); try again later") from error
    with response:
        resumed = response.status == 206
        have = have if resumed else 0
        left = response.headers.get("Content-Length")
        total = have + int(left) if left and left.isdigit() else None
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if not resumed:
            tag_file.unlink(missing_ok=True)
            if tag:
                tag_file.write_text(tag)
        if size is not None and total not in (None, size):
            raise UserError(f"{url} has {total:,} bytes, {size:,} are published; not fetched")
        with (
            open(partial, "ab" if resumed else "wb") as file,
            reporter.bar(f"fetch {partial.stem}", "B", total or size or 0, have) as bar,
        ):
            while block := _read(response, have, total):
                file.write(block)
                have += len(block)
                bar.update(len(block))
    if total is not None and have != total:
        raise _Cut(f"cut after {have:,} of {total:,} bytes")
    return have


def _read(response: Any, have: int, total: int | None) -> bytes:
    try:
        return response.read(BLOCK)
    except (http.client.HTTPException, OSError) as error:
        raise _Cut(f"cut after {have:,} of {total or 0:,} bytes") from error


def _refusal(url: str, code: int) -> str:
    reasons = {
        401: "asks for a password",
        403: "is forbidden",
        404: "does not exist there",
        429: "is asked for too often",
    }
    reason = reasons.get(code, "is refused by the host" if code < 500 else "fails at the host")
    return f"{url} {reason} (HTTP {code}); try a mirror or put the file in place by hand"


def _require_as_published(
    url: str, partial: Path, total: int, size: int | None, actual: str, digest: str | None
) -> None:
    """UserError, and the file removed, unless size and checksum are the published ones."""
    wrong = None
    if size is not None and total != size:
        wrong = f"has {total:,} bytes, {size:,} are published"
    elif digest is not None and not actual.startswith(digest):
        wrong = f"has the SHA-256 {actual[: len(digest)]}..., {digest}... is published"
    if wrong:
        partial.unlink()
        partial.with_suffix(".tag").unlink(missing_ok=True)
        raise UserError(f"{url} {wrong}; it was removed: fetch it again or use another mirror")
