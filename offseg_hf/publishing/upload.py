"""Uploading to the Hugging Face Hub: what is to be published, in one commit, and nothing else."""

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import CommitOperationAdd, DatasetInfo, HfApi, ModelInfo, RepoCard, get_token
from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError

from offseg_hf.publishing.repository import check_repo_id, write_repository


def check_repository(
    repo_id: str, private: bool = False, token: str | None = None, repo_type: str = "model"
) -> ModelInfo | DatasetInfo | None:
    """Checks that something can be published in a repository, before any work is done for it.

    Args:
        repo_id (`str`): the repository, `"NAMESPACE/NAME"`; it need not exist.
        private (`bool`, *optional*, defaults to `False`): whether nobody else shall see it.
        token (`str`, *optional*): token of the Hub; by default that of `HF_TOKEN` or of `hf auth login`.
        repo_type (`str`, *optional*, defaults to `"model"`): or `"dataset"`.

    Returns:
        [`huggingface_hub.ModelInfo`], [`huggingface_hub.DatasetInfo`] or `None`: the repository, where it exists.

    Raises:
        ValueError: where `repo_id` is none, or the repository shall be private and is public.
        PermissionError: where there is no token, or it may not write there.
        OSError: where the Hub cannot be reached.
    """
    check_repo_id(repo_id)
    if token is None and get_token() is None:
        raise PermissionError(
            "`HF_TOKEN` must hold a token of the Hugging Face Hub with write access, and there is none; log in with "
            "`hf auth login`, or set it."
        )
    api = HfApi(token=token)
    with _hub_errors_in_one_sentence(repo_id):
        user = api.whoami()
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise PermissionError(
            f"`HF_TOKEN` must hold a token with write access, and that of {user['name']} may only read; make another "
            "at https://huggingface.co/settings/tokens."
        )
    namespaces = [user["name"], *(organization["name"] for organization in user.get("orgs", ()))]
    if repo_id.split("/")[0] not in namespaces:
        raise PermissionError(
            f"`repo` must begin with a name under which {user['name']} may publish ({', '.join(namespaces)}), got "
            f"{repo_id}."
        )
    with _hub_errors_in_one_sentence(repo_id):
        try:
            repository = api.repo_info(repo_id, repo_type=repo_type)
        except RepositoryNotFoundError:
            return None
    if private and not repository.private:
        raise ValueError(
            f"`private` must be left out for a repository that is public, which {repo_id} is; make it private in its "
            "settings, name another, or let everybody see what is published."
        )
    return repository


def upload_repository(
    folder: str | os.PathLike,
    repo_id: str,
    private: bool = False,
    token: str | None = None,
    repo_type: str = "model",
    *,
    files: Iterable[str | os.PathLike],
) -> tuple[str, bool]:
    """Publishes files of a folder in one commit; those that are there already are not sent again.

    The repository is made right before, if it does not exist. Other files in it are left. Where anything fails, the
    repository is as before, or new and empty; a repetition goes on from there.

    Args:
        folder (`str` or `os.PathLike`): the folder; of what else lies in it, nothing is sent.
        repo_id, private, token, repo_type: see [`check_repository`].
        files (iterable of `str` or `os.PathLike`): paths of the files to send, such as
            [`~offseg_hf.publishing.repository.write_repository`] returns; `README.md`, the card, is among them.

    Returns:
        `tuple[str, bool]`: the commit's address, and whether the commit is new: it is not where nothing changed.

    Raises:
        FileNotFoundError: where one of `files` is no file.
        ValueError: where one of `files` is hidden or lies elsewhere, the card is not among them, or the Hub refuses
            the card or a file; see also [`check_repository`].
        PermissionError, OSError: see [`check_repository`].
    """
    sent = _paths_in_repository(Path(folder), files)
    before = check_repository(repo_id, private, token, repo_type)
    api = HfApi(token=token)
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in sorted(sent.items())]
    with _hub_errors_in_one_sentence(repo_id):
        RepoCard.load(sent["README.md"]).validate(repo_type)
        if before is None:
            api.create_repo(repo_id, private=private or None, repo_type=repo_type, exist_ok=True)
        message = "Upload model, code and card" if repo_type == "model" else "Upload data and card"
        commit = api.create_commit(repo_id, operations, commit_message=message, repo_type=repo_type)
    return commit.commit_url, before is None or commit.oid != before.sha


def push_to_hub(
    model_folder: str | os.PathLike,
    repo_id: str,
    private: bool = False,
    token: str | None = None,
    **card_options: str | None,
) -> tuple[str, bool]:
    """Publishes a model: writes its repository into a temporary folder and uploads it.

    See [`~offseg_hf.publishing.repository.write_repository`] and [`upload_repository`].

    Args:
        model_folder (`str` or `os.PathLike`): the model; stays as it is.
        repo_id, private, token: see [`check_repository`].
        **card_options: `license`, `base_model` and `dataset_name` of [`~offseg_hf.publishing.card.model_card`].

    Returns:
        `tuple[str, bool]`: see [`upload_repository`].

    Raises:
        FileNotFoundError, ValueError, PermissionError, OSError: see the functions named.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = write_repository(model_folder, folder, repo_id, **card_options)
        return upload_repository(folder, repo_id, private, token, files=files)


def _paths_in_repository(folder, files):
    """Name in the repository → file, once it is sure that all may be sent."""
    sent = {}
    for file in map(Path, files):
        if not file.absolute().is_relative_to(folder.absolute()):
            raise ValueError(f"`files` must lie in {folder}, and {file} does not; name files of that folder.")
        name = file.absolute().relative_to(folder.absolute())
        if any(part.startswith(".") for part in name.parts):  # `..` too
            raise ValueError(f"`files` must not be hidden, since those may hold secrets, got {file}; leave it out.")
        if not file.is_file():
            raise FileNotFoundError(f"`files` must be files of {folder}, and there is no {file}; leave it out.")
        sent[name.as_posix()] = file
    if "README.md" not in sent:
        raise ValueError(f"`files` must hold README.md, the card, got {sorted(sent)}; write one and name it.")
    return sent


@contextlib.contextmanager
def _hub_errors_in_one_sentence(repo_id):
    """Raises what fails on the way to the Hub, of many kinds, as an `OSError` or a `ValueError` of one sentence."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ConnectionError(
            f"`repo` {repo_id} cannot be reached, since HF_HUB_OFFLINE is set; unset it to publish."
        ) from error
    except Exception as error:
        if isinstance(error, ValueError):
            raise ValueError(
                f"`repo` {repo_id} gets nothing, since the Hub refuses what was sent: {' '.join(str(error).split())}"
            ) from error
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error  # of one file
        reason = getattr(cause, "server_message", None) or str(cause).strip().split("\n")[0] or type(cause).__name__
        if getattr(getattr(cause, "response", None), "status_code", None) in (401, 403):
            raise PermissionError(
                f"`HF_TOKEN` must hold a token that may write to {repo_id}, and the Hub refuses it ({reason}); check "
                "it at https://huggingface.co/settings/tokens."
            ) from error
        raise OSError(
            f"`repo` {repo_id} gets nothing, since the Hub cannot be reached or failed ({reason}); run the same "
            "command again."
        ) from error
