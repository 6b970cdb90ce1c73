"""Helpers for downloads by the clients of Hugging Face and Minari: checks, progress and errors.

These clients wait for half a minute before they report that there is no network;
`require_reachable` reports it within seconds.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from decision_seq.datasets.fetching import download
from decision_seq.types import Reporter, UserError

SLOW_SECONDS = 300.0  # longer than the clients' own pauses between attempts
GCS_ENDPOINT = "https://storage.googleapis.com"


def hub_endpoint() -> str:
    """The address that Hugging Face's client uses: `$HF_ENDPOINT`, read at its import."""
    import huggingface_hub.constants

    return huggingface_hub.constants.ENDPOINT


def require_hub(name: str) -> None:
    """Raise UserError if HF_HUB_OFFLINE is set, or unless the Hub answers."""
    import huggingface_hub.constants

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise UserError(f"{name} is not at hand, and HF_HUB_OFFLINE forbids to fetch it; unset it")
    require_reachable(name, hub_endpoint())


def require_reachable(name: str, url: str) -> None:
    """Raise Unreachable with the dataset's name unless the host of `url` answers within seconds."""
    try:
        download.require_reachable(url)
    except download.Unreachable as error:
        raise download.Unreachable(
            f"{name} is not at hand and cannot be fetched: {error.reason}"
        ) from error


@contextmanager
def told_of(name: str, unknown: Callable[[], str]) -> Iterator[None]:
    """Turn failures of Hugging Face's client into a one-line UserError.

    unknown: returns a hint with the known names, for a name that does not exist.
    """
    import huggingface_hub.errors as hub

    absent = (hub.RepositoryNotFoundError, hub.RemoteEntryNotFoundError, hub.RevisionNotFoundError)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        status = http_status(error)
        if isinstance(error, hub.HFValidationError):
            message = f"{name} is no name of a dataset there; {unknown()}"
        elif isinstance(error, absent) and not isinstance(error, hub.GatedRepoError):
            # the Hub answers 401 both for what does not exist and for what is private
            private = " or is private (then set HF_TOKEN)" if status == 401 else ""
            message = f"{name} is not at {hub_endpoint()}{private}; {unknown()}"
        elif status is not None:
            message = _refused(name, status)
        elif getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            message = f"{name}: the disk is full; make room and run again"
        elif is_failure(error):
            message = f"{name} could not be fetched: {_reason(error)}; run again to go on"
        else:
            raise  # a bug
        raise UserError(message) from error


def is_failure(error: BaseException) -> bool:
    """Whether the network, the disk or the other side failed, rather than our code."""
    kinds = (OSError, json.JSONDecodeError)
    return isinstance(error, kinds) or type(error).__module__.startswith("httpx")


def http_status(error: BaseException) -> int | None:
    """The HTTP status of an error or of one of its causes; None if there is none."""
    seen: BaseException | None = error
    while seen is not None:
        status = getattr(getattr(seen, "response", None), "status_code", None)
        if status is not None:
            return status
        seen = seen.__cause__
    return None


def _refused(name: str, status: int) -> str:
    host = hub_endpoint()
    if status in (401, 403):
        return (
            f"{name}: {host} refuses it (HTTP {status}); check the name, or accept its terms"
            " on the site and set HF_TOKEN"
        )
    if status == 429:
        return f"{name}: {host} asks to wait (HTTP 429); run again later, or set HF_TOKEN"
    return f"{name} could not be fetched: {host} answers HTTP {status}; run again later"


def _reason(error: BaseException) -> str:
    strerror = getattr(error, "strerror", None)
    text = strerror or " ".join(str(error).split()) or type(error).__name__
    return text[:200].rstrip(".;, ")


def require_within(name: str, path: str) -> None:
    """UserError for a path of a listing that would lead out of the folder it is saved in."""
    parts = PurePosixPath(path).parts
    climbs = not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path
    if climbs:
        raise UserError(f"{name}: its listing names the file {path[:80]!r}, which leads elsewhere")


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the client's own progress bars and warnings, which repeat ours."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
        logging,
    )

    shown, level = not are_progress_bars_disabled(), logging.get_verbosity()
    disable_progress_bars()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            enable_progress_bars()


@contextmanager
def watched(folder: Path, what: str, total: int, reporter: Reporter) -> Iterator[None]:
    """Show a progress bar of the bytes in `folder`, updated twice a second.

    UserError for a transfer so slow that it would never end; the clients only give up where no byte
    comes at all.
    """
    done, slow = threading.Event(), threading.Event()
    here = threading.current_thread()
    with reporter.bar(what, "B", total) as bar:

        def update(shown: int = 0) -> None:
            since, before = time.monotonic(), 0
            while True:
                last = done.wait(0.5)
                size = min(folder_bytes(folder), total) if total else folder_bytes(folder)
                bar.update(max(size - shown, 0))
                shown = max(size, shown)
                if last:
                    return
                if time.monotonic() - since < SLOW_SECONDS or size == total:
                    continue
                if shown - before < download.SLOW_BYTES and here is threading.main_thread():
                    slow.set()
                    signal.pthread_kill(here.ident or 0, signal.SIGINT)  # ends the client's wait
                    return
                since, before = time.monotonic(), shown

        thread = threading.Thread(target=update, daemon=True)
        thread.start()
        try:
            yield
        except KeyboardInterrupt:
            if not slow.is_set():
                raise
            raise UserError(
                f"{what}: hardly a byte came in {SLOW_SECONDS:.0f} s; run again later, it goes on"
                " from there"
            ) from None
        finally:
            done.set()
            thread.join()


def folder_bytes(folder: Path) -> int:
    """Total size of the files in the folder; files removed meanwhile count as 0."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(base, name)).st_size
            except FileNotFoundError:
                continue
    return total


def settle(partial: Path, final: Path) -> Path:
    """Rename a complete folder to its final name; another run may have done so before."""
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(partial, final)
    except OSError:
        if not final.is_dir():
            raise
    return final


def nearest(name: str, known: list[str]) -> str:
    """A hint with the known names nearest to `name`."""
    import difflib

    found = difflib.get_close_matches(name, known, 3, 0.4) or known[:3]
    return f"nearest there: {', '.join(found)}" if found else "check its spelling"
