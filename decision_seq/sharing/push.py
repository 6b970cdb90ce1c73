"""Upload of a policy and its card to the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from decision_seq.config import require
from decision_seq.datasets.fetching import download, remote
from decision_seq.sharing.exporting import export
from decision_seq.sharing.foreign import REPOSITORY
from decision_seq.types import Reporter, UserError


def push(path: Path, repo: str, form: str, private: bool, reporter: Reporter) -> str:
    """Upload the policy of a run or checkpoint to the model repository `repo` -> its address.

    form: transformers or checkpoint. The repository is created if it does not exist. UserError
    without a token that may write there, without a network, and for a policy that cannot be
    exported.
    """
    require(bool(REPOSITORY.fullmatch(repo)), f"{repo!r} is no OWNER/NAME of the Hub")
    import huggingface_hub
    import huggingface_hub.constants

    with tempfile.TemporaryDirectory(prefix="decision-seq-") as folder:
        exported = export(path, form, Path(folder) / "policy", reporter)
        require(
            not huggingface_hub.constants.HF_HUB_OFFLINE, "HF_HUB_OFFLINE forbids to push; unset it"
        )
        require(
            huggingface_hub.get_token() is not None,
            "no token for the Hub; set HF_TOKEN to one that may write, or run `hf auth login`",
        )
        endpoint = remote.hub_endpoint()
        try:
            download.require_reachable(endpoint)
        except download.Unreachable as error:
            raise UserError(f"cannot push to {repo}: {error.reason}; check the network") from error
        size = remote.folder_bytes(exported)
        reporter.say(f"{repo}: uploading {size / 1e6:.1f} MB to {endpoint}")
        try:
            with remote.quiet():
                return _upload(exported, repo, private, huggingface_hub.HfApi(endpoint=endpoint))
        except Exception as error:
            reason = _reason(repo, error)
            if reason is None:
                raise  # a bug
            raise UserError(f"cannot push to {repo}: {reason}") from error


def _upload(folder: Path, repo: str, private: bool, api: Any) -> str:
    # An existing repository keeps its visibility.
    made = api.create_repo(repo, private=private, exist_ok=True, repo_type="model")
    api.upload_folder(
        repo_id=made.repo_id, folder_path=folder, commit_message="Upload a decision-seq policy"
    )
    return str(made)


def _reason(repo: str, error: Exception) -> str | None:
    """The Hub's failure and its remedy in one line; None where the error is not the Hub's."""
    status = remote.http_status(error)
    owner = repo.partition("/")[0]
    reasons = {
        401: "the Hub does not accept the token (HTTP 401); set HF_TOKEN to a valid one",
        403: f"the token may not write there (HTTP 403); use one with write access to {owner}",
        404: f"the Hub has no such place (HTTP 404), or the token may not see it; check {owner}",
        409: "another push is under way (HTTP 409); try again",
        429: "the Hub asks to wait (HTTP 429); try again later",
    }
    if status is not None:
        return reasons.get(status, f"the Hub answers HTTP {status}; try again later")
    if remote.is_failure(error):
        return f"{' '.join(str(error).split())[:160] or type(error).__name__}; try again"
    return None
