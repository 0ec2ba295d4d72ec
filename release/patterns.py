"""The forms of names and digests in documents, their types, and what each is called when a document breaks it."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

SHA256 = r"^[0-9a-f]{64}$"
REVISION = r"^[0-9a-f]{40}$"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"
REPO_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"

Sha256 = Annotated[str, StringConstraints(pattern=SHA256)]
Revision = Annotated[str, StringConstraints(pattern=REVISION)]
Name = Annotated[str, StringConstraints(pattern=NAME)]
RepoId = Annotated[str, StringConstraints(pattern=REPO_ID)]

WORDS = {
    SHA256: "write a SHA-256 of 64 hexadecimal digits in lower case",
    REVISION: "write a commit of 40 hexadecimal digits in lower case, never a branch",
    NAME: "write a name of at most 96 letters, digits, '.', '_' and '-' that begins with a letter or digit",
    REPO_ID: "write owner/name",
}
