"""Files of data sets on the Hub, and what to do when one may not be read."""

from __future__ import annotations

from pathlib import Path

from pruner.errors import InputError, UnavailableError
from pruner.hub_answers import limit_answers
from pruner.hub_failures import endpoint_of, patiently
from release.hub.endpoint import HubTarget
from release.hub.remote import hub_errors, quiet_client

PUBLIC = "https://huggingface.co"


def dataset_file(hub: HubTarget, repo: str, revision: str, file: str) -> Path:
    """Download a file of a data set at a commit into the Hugging Face cache.

    Raises:
        InputError: the commit has no such file.
        UnavailableError: the data set is gated and its terms are not accepted, it does not exist or may not be seen, or the Hub
            cannot be reached; the message says what to accept where.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    endpoint = hub.endpoint or PUBLIC
    where = f"data set {repo}@{revision[:12]}"
    page = f"{endpoint_of(endpoint)}/datasets/{repo}"

    limit_answers()

    def download() -> str:
        return hf_hub_download(
            repo, file, repo_type="dataset", revision=revision, endpoint=hub.endpoint, token=hub.token or False
        )

    with hub_errors(endpoint, f"download {file} of {where}"), quiet_client():
        try:
            return Path(patiently(download, endpoint=endpoint))
        except GatedRepoError:
            raise UnavailableError(
                f"{where} is gated: open {page}, log in and accept its terms, then run `hf auth login` (or set HF_TOKEN)"
            ) from None
        except RepositoryNotFoundError:
            raise UnavailableError(
                f"{where} is not at {page}, or may not be seen: check the name, and run `hf auth login` (or set HF_TOKEN)"
            ) from None
        except RevisionNotFoundError:
            raise InputError(f"{where} has no such commit; see {page}/commits/main") from None
        except LocalEntryNotFoundError:
            raise UnavailableError(
                f"{where}: {endpoint_of(endpoint)} cannot be reached; check the network and HF_ENDPOINT"
            ) from None
        except EntryNotFoundError:
            raise InputError(f"{where} has no file {file!r}; see {page}/tree/{revision}") from None
