"""The Hugging Face Hub: whether a repository is there, asked once and briefly."""

import os

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

SECONDS = 5  # for an answer; the libraries that load go on asking for a minute and more


def check_on_hub(repo_id: str, argument: str, repo_type: str = "model", file: str | None = None) -> None:
    """Checks that a repository is on the Hub, or in the local cache, before a library asks for it again and again.

    Args:
        repo_id (`str`): the repository, such as `"org/offseg-b0"`.
        argument (`str`): what errors call it.
        repo_type (`str`, *optional*, defaults to `"model"`): or `"dataset"`.
        file (`str`, *optional*): a file of the repository; where it is in the local cache, nobody is asked.

    Raises:
        FileNotFoundError: it is no name of a repository, there is none of this name, or it may not be seen.
        ConnectionError: the Hub does not answer.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        raise FileNotFoundError(
            f"`{argument}` must be a folder or the id of a {repo_type} on the Hub, and {repo_id} is neither; check "
            "the path."
        ) from None
    if constants.is_offline_mode() or (file and isinstance(try_to_load_from_cache(repo_id, file), str)):
        return
    try:
        HfApi().repo_info(repo_id, repo_type=repo_type, timeout=SECONDS)
    except RepositoryNotFoundError as error:
        if isinstance(error, GatedRepoError):
            return  # there it is, and what loads it says how to get access
        raise FileNotFoundError(
            f"`{argument}` must be a folder or the id of a {repo_type} on the Hub, and {repo_id} is neither here nor "
            "there; check the spelling, or log in with `hf auth login` if it is private."
        ) from None
    except HfHubHTTPError:
        return  # an answer all the same: what loads it goes on
    except Exception as error:  # the client's own kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConnectionError(
            f"`{argument}` must be a folder or the id of a {repo_type} on the Hub: there is no folder {repo_id} in "
            f"{os.getcwd()}, and {constants.ENDPOINT} does not answer ({reason}); check the path, or the network."
        ) from None
