"""What the user named for a folder of their own: an environment, and the modules of plugins.

A run folder or a store may come from a stranger, so nothing in it is imported by itself. What the
user named when the folder was made is kept in it, in `named.json`, and signed with a key that only
this user has (`~/.config/decision_seq/key`). With that signature the same names are used again
without being repeated. A folder that is moved keeps it; another user's is not valid here.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from decision_seq.envs import trust
from decision_seq.formatting import json_text
from decision_seq.machine.files import replacing
from decision_seq.plugins import load_named
from decision_seq.reading import Unreadable, read_bytes, read_record
from decision_seq.types import Reporter, UserError

FILE = "named.json"
KEY_BYTES = 32


@dataclass(frozen=True)
class Named:
    """Names that the user gave."""

    env_id: str | None
    """Id of an environment."""
    modules: tuple[str, ...] = ()
    """Modules of plugins."""

    def signature(self, key: bytes) -> str:
        """The names' signature with the user's key, as hexadecimal digits."""
        text = json.dumps([self.env_id, list(self.modules)])
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def remember(folder: Path, named: Named, reporter: Reporter) -> None:
    """Keep the names in the folder, signed; a line says so where there can be no key."""
    try:
        key = _key(make=True)
        tree = {"env_id": named.env_id, "modules": list(named.modules)}
        text = json_text({**tree, "signature": named.signature(key)})
        with replacing(folder / FILE) as partial:
            partial.write_text(text + "\n", encoding="utf-8")
    except (OSError, UserError, RuntimeError) as error:  # RuntimeError: there is no home
        reporter.say(
            f"{folder}: your choice of {named.env_id or ', '.join(named.modules)} cannot be kept"
            f" ({error}); name it again when you go on or evaluate"
        )


def recall(folder: Path) -> Named | None:
    """The names that this user gave for the folder; None without a valid signature."""
    try:
        tree = read_record(folder / FILE, {"modules": list, "signature": str}, within=folder)
        env_id, modules = tree.get("env_id"), tree["modules"]
        if not isinstance(env_id, str | None) or not all(isinstance(m, str) for m in modules):
            return None
        named = Named(env_id, tuple(modules))
        valid = hmac.compare_digest(named.signature(_key()).encode(), tree["signature"].encode())
    except (Unreadable, OSError, RuntimeError):
        return None
    return named if valid else None


def use_again(folder: Path) -> None:
    """Name again what this user named for the folder: load its plugins and trust its environment.

    UserError where a plugin cannot be imported.
    """
    named = recall(folder)
    if named is not None:
        load_named(named.modules)
        trust(named.env_id or "", load=False)


def _key(make: bool = False) -> bytes:
    """The user's key; with `make`, made where there is none."""
    root = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    path = Path(root) / "decision_seq" / "key"
    if make and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):  # made by another process
            partial = path.with_name(f"key-{secrets.token_hex(8)}")
            handle = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            try:
                os.write(handle, secrets.token_bytes(KEY_BYTES))
                os.fsync(handle)
                os.link(partial, path)
            finally:
                os.close(handle)
                partial.unlink()
    key = read_bytes(path, KEY_BYTES)
    if len(key) != KEY_BYTES:
        raise OSError(f"{path} is no key of {KEY_BYTES} bytes; remove it")
    return key
