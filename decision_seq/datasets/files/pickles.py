"""Reader of pickles, such as those of the original repository (kzl/decision-transformer).

A pickle is a program. It is read by `inert_pickle`, which runs none; `trajectories` says what it
may hold. The file is read at once and has to fit in memory.
"""

from __future__ import annotations

from pathlib import Path

from decision_seq.datasets.files import inert_pickle, trajectories
from decision_seq.datasets.files.stand_ins import Damaged
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.datasets.store.source_files import describe_file, require_file
from decision_seq.types import Reporter, UserError


def read(path: Path, output: Path, reporter: Reporter | None = None) -> EpisodeStore:
    """Read a pickle into a store at `output`; UserError for a bad pickle."""
    require_file(path, "a pickle")
    try:
        content = path.read_bytes()
        value = inert_pickle.loads(content)
        with StoreWriter(output) as writer:
            source = describe_file("pickle", "pickled trajectories", path)
            return trajectories.write(writer, value, len(content), path.stem, source)
    except Damaged as error:
        raise UserError(f"{path} is no pickle, or is cut short ({error})") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
