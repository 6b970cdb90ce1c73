"""Local HTTP server for tests that serves a folder as plain files and as a Hugging Face Hub.

    with Loopback(folder) as server:
        server.url                               # http://127.0.0.1:PORT
        server.faults["gym/hopper.hdf5"] = cut(1000)
        server.requests                          # all requests, in order

`{url}/PATH` serves the file `folder/PATH`: GET and HEAD, with Content-Length, ETag and Range.
`folder/datasets/OWNER/NAME` is also a dataset repository of a Hub whose endpoint is `url`; its
branch B is in `folder/datasets/OWNER/NAME@B`, with `-` for `/`. `folder/models/OWNER/NAME` is a
model repository; requests with a token can create it and commit to it.

A fault belongs to a path: that of a file under `folder` (`datasets/OWNER/NAME/FILE` within a
repository), that of an API call (`api/datasets/OWNER/NAME/tree/SHA`), or `*` for all.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml

from tests.waiting import LIMIT


@dataclass
class Fault:
    """Fault of the server."""

    kind: str
    """One of: cut (the connection breaks after `after` bytes of the body), short (the file ends
    after `after` bytes without an error), status (an HTTP error code), hang (no answer until the
    server stops), no_range (the whole file in answer to any range), endless (blocks of `after`
    bytes until the client has enough), length (an odd Content-Length)."""
    after: int = 0
    """Bytes of the body sent by cut and short."""
    status: int = 500
    """Code sent by status."""
    times: int | None = None
    """Number of times that it occurs; None for always."""
    text: str = ""
    """Content-Length stated by length."""


def cut(after: int, times: int | None = 1) -> Fault:
    return Fault("cut", after=after, times=times)


def short(after: int, times: int | None = None) -> Fault:
    return Fault("short", after=after, times=times)


def status(code: int, times: int | None = None) -> Fault:
    return Fault("status", status=code, times=times)


def hang(times: int | None = None) -> Fault:
    return Fault("hang", times=times)


def endless(block: int) -> Fault:
    return Fault("endless", after=block)


def length(text: str) -> Fault:
    return Fault("length", text=text)


def no_range(times: int | None = None) -> Fault:
    return Fault("no_range", times=times)


@dataclass(frozen=True)
class Asked:
    """A request that the server received."""

    method: str
    """HTTP method."""
    path: str
    """Path below the server's root."""
    range: str | None
    """Range header; None where it is absent."""


@dataclass
class Loopback:
    """Context manager that serves `folder`."""

    folder: Path
    faults: dict[str, Fault] = field(default_factory=dict)
    requests: list[Asked] = field(default_factory=list)
    hung: int = 0  # requests left without an answer

    def __enter__(self) -> Loopback:
        self.stopped = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.server.loopback = self  # type: ignore[attr-defined]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def fault(self, path: str, method: str) -> Fault | None:
        """The fault of this request, with its count reduced; HEAD has no faults of a body."""
        for key in (path, "*"):
            found = self.faults.get(key)
            if found and method == "HEAD" and found.kind not in ("status", "hang"):
                continue
            if found and found.times != 0:
                if found.times is not None:
                    found.times -= 1
                return found
        return None

    def repository(self, name: str, revision: str, kind: str = "datasets") -> Path | None:
        """The folder of a branch or commit."""
        base = self.folder / kind / name
        branches = [base, *base.parent.glob(f"{base.name}@*")]
        for branch in filter(Path.is_dir, branches):
            label = branch.name.partition("@")[2] or "main"
            if revision.replace("/", "-") == label or revision == commit(branch):
                return branch
        return None

    def repositories(
        self, author: str | None, search: str | None, kind: str = "datasets"
    ) -> list[str]:
        found = (path for path in sorted(self.folder.glob(f"{kind}/*/*")) if path.is_dir())
        names = [f"{path.parent.name}/{path.name}" for path in found if "@" not in path.name]
        return [
            name
            for name in names
            if (not author or name.startswith(author + "/")) and (search or "") in name
        ]


def commit(branch: Path) -> str:
    """Commit hash of a branch, which changes when a file does."""
    facts = [(str(file.relative_to(branch)), file.stat().st_mtime_ns) for file in _files(branch)]
    return hashlib.sha1(json.dumps([branch.name, facts]).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _entry(file: Path, branch: Path) -> dict[str, Any]:
    name, size = file.relative_to(branch).as_posix(), file.stat().st_size
    return {"type": "file", "path": name, "size": size, "oid": _etag(file)[:40]}


def _card(branch: Path) -> dict[str, Any]:
    """The metadata at the head of a repository's README."""
    readme = branch / "README.md"
    if not readme.is_file() or not readme.read_text().startswith("---"):
        return {}
    return yaml.safe_load(readme.read_text().split("---")[1])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def loopback(self) -> Loopback:
        return self.server.loopback  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        """Suppress output on standard error."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path).strip("/")
        self.loopback.requests.append(Asked(self.command, path, self.headers.get("Range")))
        file, commit_hash = self.loopback.folder / path, None
        if "/resolve/" in path:
            kind = "datasets" if path.startswith("datasets/") else "models"
            name, _, rest = path.removeprefix("datasets/").partition("/resolve/")
            branch, inner = self._resolve(name, rest, kind)
            if branch is None:
                return self._refuse(404, "RevisionNotFound")
            file, commit_hash = branch / inner, commit(branch)
            path = str(file.relative_to(self.loopback.folder))
        fault = self.loopback.fault(path, self.command)
        if fault and fault.kind == "hang":
            self.loopback.hung += 1
            self.loopback.stopped.wait()
            self.close_connection = True
        elif fault and fault.kind == "status":
            self._refuse(fault.status, None)
        elif fault and fault.kind == "endless":
            self._endless(b"x" * fault.after)
        elif fault and fault.kind == "length":
            self.send_response(200)
            self.send_header("Content-Length", fault.text)
            self.end_headers()
            self.wfile.write(file.read_bytes())
            self.close_connection = True
        elif path.startswith(("api/datasets", "api/models")):
            kind, _, rest = path.removeprefix("api/").partition("/")
            self._api(rest, parse_qs(url.query), kind)
        elif file.is_file():
            self._file(file, commit_hash, fault)
        elif path == "":
            self._send(200, b"", {})
        else:
            self._refuse(404, "EntryNotFound")

    def _resolve(self, name: str, rest: str, kind: str) -> tuple[Path | None, str]:
        """Branch and file of `REVISION/FILE`; a revision may contain slashes."""
        parts = rest.split("/")
        for count in range(1, len(parts)):
            branch = self.loopback.repository(name, "/".join(parts[:count]), kind)
            if branch is not None:
                return branch, "/".join(parts[count:])
        return None, ""

    def do_POST(self) -> None:
        """Answer the Hub client's upload requests; files are small, so none uses LFS."""
        path = unquote(urlsplit(self.path).path).strip("/")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.loopback.requests.append(Asked("POST", path, None))
        fault = self.loopback.fault(path, "POST")
        verb = path.split("/")[4] if path.startswith("api/models/") else path
        models = self.loopback.folder / "models"
        if fault:
            self._refuse(fault.status, None)
        elif path == "api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif not (self.headers.get("Authorization") or "").startswith("Bearer "):
            self._refuse(401, None)
        elif path == "api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            (models / name).mkdir(parents=True, exist_ok=True)
            self._json({"url": f"{self.loopback.url}/{name}"})
        elif verb == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            kept = {"uploadMode": "regular", "shouldIgnore": False}
            self._json({"files": [{"path": file, **kept} for file in files]})
        elif verb == "commit":
            repository = models.joinpath(*path.split("/")[2:4])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    file = repository / line["value"]["path"]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(base64.b64decode(line["value"]["content"]))
            address = f"{self.loopback.url}/{repository.relative_to(models)}/commit/0"
            self._json({"commitUrl": address, "commitOid": commit(repository)})
        else:
            self._refuse(404, None)

    def _api(self, path: str, query: dict[str, list[str]], kind: str) -> None:
        if not path:
            author, search = (query.get(key, [None])[0] for key in ("author", "search"))
            names = self.loopback.repositories(author, search, kind)
            return self._json([{"id": name, "tags": [], "private": False} for name in names])
        repository = "/".join(path.split("/")[:2])
        verb, _, revision = path.removeprefix(repository).strip("/").partition("/")
        if repository not in self.loopback.repositories(None, None, kind):
            return self._refuse(404, "RepoNotFound")
        branch = self.loopback.repository(repository, revision or "main", kind)
        if branch is None:
            return self._refuse(404, "RevisionNotFound")
        files = _files(branch)
        if verb == "tree":
            return self._json([_entry(file, branch) for file in files])
        self._json(
            {
                "id": repository,
                "sha": commit(branch),
                "private": False,
                "tags": [],
                "cardData": _card(branch),
                "siblings": [{"rfilename": file.relative_to(branch).as_posix()} for file in files],
            }
        )

    def _file(self, file: Path, commit_hash: str | None, fault: Fault | None) -> None:
        body, etag = file.read_bytes(), f'"{_etag(file)}"'
        headers = {"ETag": etag, "Accept-Ranges": "bytes"}
        if commit_hash:
            headers["X-Repo-Commit"] = commit_hash
        if fault and fault.kind == "short":
            return self._send(200, body[: fault.after], headers)
        start, asked = 0, self.headers.get("Range")
        same = self.headers.get("If-Range", etag) == etag
        if asked and same and not (fault and fault.kind == "no_range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start = int(first)
            end = min(int(last) + 1 if last else len(body), len(body))
            if start >= len(body):
                return self._send(416, b"", {"Content-Range": f"bytes */{len(body)}"})
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
            body = body[start:end]
            code = 206
        else:
            code = 200
        breaks = fault.after if fault and fault.kind == "cut" else None
        self._send(code, body, headers, breaks)

    def _endless(self, block: bytes) -> None:
        self.close_connection = True
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            while not self.loopback.stopped.is_set():
                self.wfile.write(block)
                self.wfile.flush()

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, code: int, error: str | None) -> None:
        self._send(code, b"", {"X-Error-Code": error} if error else {})

    def _send(
        self, code: int, body: bytes, headers: dict[str, str], breaks: int | None = None
    ) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body if breaks is None else body[:breaks])
        if breaks is not None:
            self.wfile.flush()
            self.close_connection = True


def _etag(file: Path) -> str:
    return _digest(file, file.stat().st_size, file.stat().st_mtime_ns)


@functools.cache
def _digest(file: Path, size: int, changed: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def point_hub_at(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Hugging Face's client use `url`, a cache in `folder` and no sleep between attempts.

    The client reads its environment variables once, when it is imported.
    """
    import huggingface_hub.constants as constants

    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for limit in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setattr(constants, limit, LIMIT)
    monkeypatch.setenv("DECISION_SEQ_OFFLINE", "0")
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hurried = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    for module in ("file_download", "utils._http"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time", hurried)
