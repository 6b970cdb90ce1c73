"""Tests of pushing to a local Hub with the real client, and of importing from it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch

from decision_seq import checkpoint
from decision_seq.sharing.importing import Given, import_policy
from decision_seq.sharing.push import push
from decision_seq.types import Reporter, UserError
from tests.loopback import Loopback, point_hub_at, status


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    (tmp_path / "served").mkdir()
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with Loopback(tmp_path / "served") as server:
        point_hub_at(server.url, tmp_path, monkeypatch)
        yield server


@pytest.mark.parametrize("form", ["transformers", "checkpoint"])
def test_pushed_and_imported(
    hub: Loopback, make_checkpoint: Callable[..., Path], tmp_path: Path, form: str
) -> None:
    path = make_checkpoint()
    assert push(path, "me/hopper", form, True, Reporter()) == f"{hub.url}/me/hopper"
    there = hub.folder / "models" / "me" / "hopper"
    metadata = huggingface_hub.ModelCard.load(there / "README.md").data
    assert metadata.library_name == ("transformers" if form == "transformers" else "decision-seq")
    assert not (there / "trainer" / "optimizer.safetensors").exists()
    import_policy("me/hopper", tmp_path / "mine", Given(), Reporter())
    before, after = checkpoint.load(path), checkpoint.load(tmp_path / "mine")
    for name, tensor in before.policy.state_dict().items():
        assert torch.equal(after.policy.state_dict()[name], tensor), name
    assert after.facts.targets == before.facts.targets
    assert (after.step, after.conditioning) == (
        7 if form == "checkpoint" else 0,
        before.conditioning,
    )


@pytest.mark.parametrize(
    ("code", "named"),
    [
        (401, "does not accept the token"),
        (403, "may not write there"),
        (404, "has no such place"),
        (500, "answers HTTP 500"),
    ],
)
@pytest.mark.parametrize("where", ["api/repos/create", "api/models/me/hopper/commit/main"])
def test_a_refused_push_is_one_line(
    hub: Loopback, make_checkpoint: Callable[..., Path], where: str, code: int, named: str
) -> None:
    hub.faults[where] = status(code)
    with pytest.raises(UserError, match=named) as caught:
        push(make_checkpoint(), "me/hopper", "checkpoint", False, Reporter())
    assert "\n" not in str(caught.value)
    assert "hf_test" not in str(caught.value)


def test_a_push_needs_a_token_a_name_and_a_network(
    hub: Loopback, make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_checkpoint()
    with pytest.raises(UserError, match="is no OWNER/NAME"):
        push(path, "hopper", "checkpoint", False, Reporter())
    point_hub_at("http://127.0.0.1:9", hub.folder, monkeypatch)
    with pytest.raises(UserError, match=r"cannot push to me/hopper: .*check the network"):
        push(path, "me/hopper", "checkpoint", False, Reporter())
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UserError, match="no token for the Hub; set HF_TOKEN"):
        push(path, "me/hopper", "checkpoint", False, Reporter())


@pytest.mark.parametrize(
    ("code", "named"), [(None, "is not at"), (403, "HTTP 403"), (500, "HTTP 500")]
)
def test_what_cannot_be_fetched_is_one_line(
    hub: Loopback, tmp_path: Path, code: int | None, named: str
) -> None:
    if code:
        hub.faults["api/models/me/absent"] = status(code)
    with pytest.raises(UserError, match=named) as caught:
        import_policy("me/absent", tmp_path / "mine", Given(), Reporter())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "mine").exists()


def test_a_name_that_is_neither(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist, and is no OWNER/NAME"):
        import_policy("no-such-folder", tmp_path / "mine", Given(), Reporter())
