"""Send a folder to the runner's artifact server: version 4 of the protocol, as actions/upload-artifact speaks it."""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import urllib.request
import zipfile
from pathlib import Path

SERVICE = "twirp/github.actions.results.api.v1.ArtifactService"


def call(method: str, **fields: object) -> dict[str, str]:
    """One question to the service."""
    token = os.environ["ACTIONS_RUNTIME_TOKEN"]
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    _, run, job = next(each for each in claims["scp"].split() if each.startswith("Actions.Results:")).split(":")
    body = {"workflow_run_backend_id": run, "workflow_job_run_backend_id": job, "name": os.environ["NAME"], **fields}
    request = urllib.request.Request(  # noqa: S310  # the runner's own address
        f"{os.environ['ACTIONS_RESULTS_URL']}{SERVICE}/{method}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        said: dict[str, str] = json.load(answer)
        return said


def main() -> None:
    """Zip the folder and send it, or say that there is nothing."""
    folder = Path(os.environ["FOLDER"])
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        sys.exit(0 if os.environ["IF_NONE"] == "ignore" else f"{folder}: no files were found")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, path.relative_to(folder))
    address = call("CreateArtifact", version=4)["signedUploadUrl"]
    data = packed.getvalue()
    request = urllib.request.Request(f"{address}&comp=block", data, method="PUT")  # noqa: S310
    with urllib.request.urlopen(request, timeout=60):  # noqa: S310
        call("FinalizeArtifact", size=str(len(data)))


main()
