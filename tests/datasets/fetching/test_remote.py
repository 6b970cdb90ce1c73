"""Tests of what the clients of Hugging Face and Minari are given and return."""

from types import SimpleNamespace

import pytest

from decision_seq.datasets.fetching.remote import require_within
from decision_seq.datasets.hub import remote as hub
from decision_seq.types import UserError

CLIMBS = ["../x.parquet", "a/../../x", "/etc/x", "..", "a\\..\\x", "a\0b", ""]


@pytest.mark.parametrize("path", CLIMBS)
def test_a_listing_that_leads_out_of_its_folder_is_refused(path: str) -> None:
    entries = [SimpleNamespace(path=name, size=5) for name in ("data/train.parquet", path)]
    api = SimpleNamespace(list_repo_tree=lambda *_, **__: iter(entries))
    with pytest.raises(UserError, match=r"its listing names the file .*, which leads elsewhere"):
        hub._sizes("OWNER/NAME", "main", api)


@pytest.mark.parametrize("path", ["x.parquet", "a/b..c/x", "..x", "a/x y.parquet"])
def test_other_paths_are_taken(path: str) -> None:
    require_within("hub/OWNER/NAME", path)
