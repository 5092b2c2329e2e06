"""``python -m deploy push RUN REPO``: bundle, card and drawing to the Hugging Face hub, in one commit."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.card import write_card
from deploy.options import add_run, open_run
from zoo.errors import UserError
from zoo.progress import in_terminal

if TYPE_CHECKING:
    from deploy.model import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    add_run(parser)
    parser.add_argument("repo", metavar="REPO", help="of the hub: OWNER/NAME; made if it is not there")
    parser.add_argument("--private", action="store_true", help="make the repository private, if it is made")
    parser.add_argument("--message", default="Upload the network", help="of the commit")


def run(options: argparse.Namespace) -> int:
    """Uploads, and says where it lies."""
    model = open_run(options)
    print(push(model, options.repo, private=options.private, message=options.message))
    return 0


def push(model: Model, repository: str, *, private: bool = False, message: str = "Upload the network") -> str:
    """Uploads the bundle (or clone file) of a model with its card, with the login of ``huggingface_hub``.

    All files come with one commit: if it is not made, the repository is as it was, or empty where it was made.

    Args:
        model: With learnt weights.
        repository: ``OWNER/NAME``.
        private: Of a repository that is made.
        message: Of the commit.

    Returns:
        The address of the commit.

    Raises:
        UserError: No login, no permission, no such name, no network: in one line.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.utils import disable_progress_bars, validate_repo_id

    from zoo.blueprint import BLUEPRINT_FILE, INTERFACE_FILE, WEIGHTS_FILE

    model.require_weights()
    if not in_terminal():
        disable_progress_bars()
    with _in_one_line(repository):
        validate_repo_id(repository)
    if get_token() is None:
        raise UserError("no login to the Hugging Face hub: run `hf auth login`, or set HF_TOKEN to a token that writes")
    files = model.origin.files
    names = (BLUEPRINT_FILE, INTERFACE_FILE, WEIGHTS_FILE)
    learnt = [files / name for name in names if (files / name).is_file()] if files.is_dir() else [files]
    with tempfile.TemporaryDirectory() as directory:
        name = repository.rpartition("/")[2]
        written = write_card(model, Path(directory), name=name, repository=repository)
        operations = [CommitOperationAdd(path.name, str(path)) for path in (*learnt, *written)]
        with _in_one_line(repository):
            api = HfApi()
            api.create_repo(repository, private=private or None, exist_ok=True)
            commit = api.create_commit(repository, operations, commit_message=message)
    return str(commit.commit_url)


class _in_one_line:
    """Turns what the hub refuses, and a network that is not there, into one line."""

    def __init__(self, repository: str) -> None:
        self.repository = repository

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

        if isinstance(error, RuntimeError) and error.__cause__ is not None:
            error = error.__cause__  # "error while uploading" a file: of what, says the cause
        if isinstance(error, HFValidationError):
            raise UserError(f"REPO {self.repository!r}: expected OWNER/NAME of letters, digits, -, _ and .") from error
        if isinstance(error, OfflineModeIsEnabled):
            raise UserError("HF_HUB_OFFLINE is set, so nothing can be uploaded: unset it") from error
        if isinstance(error, HfHubHTTPError):
            raise UserError(f"{self.repository}: {_refusal(error)}; nothing was published") from error
        if error is not None and (isinstance(error, (ConnectionError, TimeoutError)) or _is_of_transport(error)):
            told = str(error).strip().partition("\n")[0] or type(error).__name__
            raise UserError(f"the Hugging Face hub cannot be reached ({told}); nothing was published") from error
        if isinstance(error, (RuntimeError, OSError, ValueError)) and not isinstance(error, UserError):
            told = str(error).strip().partition("\n")[0]
            raise UserError(f"the upload failed ({type(error).__name__}: {told}); nothing was published") from error


def _refusal(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    reasons = {
        401: "the hub does not know this login (401): run `hf auth login` anew, or set HF_TOKEN",
        403: "this login may not write there (403): give a repository of your own, or a token that writes",
        404: "the hub has no such repository or owner (404)",
        409: "the repository changed meanwhile (409): push again",
        413: "the upload is too large for the hub (413)",
        429: "the hub takes no more requests for now (429): push again later",
    }
    told = (getattr(error, "server_message", None) or str(error)).strip().partition("\n")[0]
    return reasons.get(status, f"the hub answers with an error ({status}): {told}")


def _is_of_transport(error: BaseException) -> bool:
    """Whether it comes from the HTTP library below ``huggingface_hub``, another one from version to version."""
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "requests")
