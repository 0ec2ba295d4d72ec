"""The exam, taken again: the published quant, the locked protocol, llama-server and lm-eval, on the verifier's machine."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.files import path_inside, sha256_file
from pruner.places import require_file
from pruner.progress import SILENT, Progress
from pruner.wording import counted_that
from release import reproduce
from release.evaluation.compare import compare
from release.evaluation.evidence import Evidence, evidence_bytes, read_evidence
from release.evaluation.protocol import Protocol, load_protocol
from release.hub.published import Published, PublishedRepository
from release.processes import processor
from release.verdict import Finding, Verdict
from release.verification.ggufs import open_gguf_repository
from release.verification.request import Request

if TYPE_CHECKING:
    from release.gguf.toolchain import Toolchain

PART = "exam"


def check_exam(published: Published, request: Request, *, progress: Progress = SILENT) -> Finding:
    """The finding on the first evaluated quant.

    Equal evidence is GOOD.  Other replies are BAD only where toolchain and processor are those of the published run, which must
    give the same bytes; elsewhere they prove nothing, and the finding says how far the two runs differ.  Evidence of other
    questions is BAD.  What keeps the exam from being taken is UNKNOWN.
    """
    section = published.manifest.content.eval
    if section is None:
        return Finding(PART, Verdict.UNKNOWN, "the release was not evaluated")
    quant = section.quants[0]
    try:
        theirs = read_evidence(published.path(reproduce.evidence_name(quant)))
        ours, toolchain = _repeated(published, quant, request, progress)
    except (InputError, CheckFailedError, UnavailableError) as error:
        return Finding(PART, Verdict.UNKNOWN, f"{quant} could not be examined here: {published.shown(error)}")
    return judged(theirs, ours, same_tools=_same_tools(published, quant, toolchain))


def judged(theirs: Evidence, ours: Evidence, *, same_tools: bool) -> Finding:
    """What two runs of one quant say about each other; which questions the experts were chosen with is no matter of the run."""
    ours = ours.model_copy(update={"calibration": theirs.calibration})
    score = f"{theirs.quant}: {theirs.patched_correct} of {theirs.total}"
    if evidence_bytes(ours) == evidence_bytes(theirs):
        return Finding(PART, Verdict.GOOD, f"{score}, the same evidence byte for byte")
    differing = sum(one != other for one, other in zip(theirs.questions, ours.questions, strict=False))
    if ours.questions == theirs.questions:
        return Finding(PART, Verdict.GOOD, f"{score}, every answer the same, with llama.cpp {ours.toolchain_commit[:12]}")
    try:
        found = compare(theirs, ours)
    except CheckFailedError as error:
        return Finding(PART, Verdict.BAD, f"{score}: {error}")
    words = f"{score}, here {ours.patched_correct}: {counted_that(differing, 'answer', 'differ')}; {found.words}"
    if same_tools:
        return Finding(PART, Verdict.BAD, f"{words}; toolchain and processor are the same, so the replies should be")
    return Finding(PART, Verdict.UNKNOWN, f"{words}; another toolchain or processor may answer otherwise")


def _repeated(published: Published, quant: str, request: Request, progress: Progress) -> tuple[Evidence, Toolchain]:
    """Take the exam.

    Raises:
        UnavailableError: the data set, a tool or the quant cannot be had.
        InputError, CheckFailedError: the data set is another, or the exam fails its gates here.
    """
    from release.evaluation.runner import evaluate
    from release.extras import require_extra
    from release.gguf.toolchain import find_toolchain

    section = published.manifest.content.eval
    if section is None:
        raise InputError("the release was not evaluated")
    root = published.manifest.root
    protocol = load_protocol(path_inside(root, section.protocol), root)
    _place_data(protocol, root, request.exam_data)
    require_extra("eval")
    toolchain = find_toolchain(request.llama_cpp)
    server = toolchain.binary("llama-server")
    with ExitStack() as exits:
        work = request.work or Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="moe-release-exam-")))
        repository = open_gguf_repository(published, request)
        lock = published.lock
        files = [_download(published, repository, name, work / "quant", request) for name in lock.quant_files(quant)]
        evidence = evaluate(
            protocol,
            root=root,
            server_binary=server,
            toolchain_commit=toolchain.commit,
            model=files[0],
            model_sha256=lock.quant_digest(quant),
            quant=quant,
            folder=work / "exam" / quant,
            progress=progress,
        )
    return evidence, toolchain


def _place_data(protocol: Protocol, root: Path, given: Path | None) -> None:
    """Put the user's copy of the questions where the protocol looks for it; the protocol has its digest.

    Raises:
        UnavailableError: the questions are withheld, and none are given.
        InputError: the given file does not exist, or is another one.
    """
    data = protocol.data
    if given is not None:
        require_file(given, "the exam's questions")
        if (found := sha256_file(given)) != data.sha256:
            raise InputError(f"--exam-data {given}: has SHA-256 {found}, the protocol's questions have {data.sha256}")
    if data.path is None:
        return  # from the Hub: a gated set says by itself what to accept
    place = path_inside(root, data.path)
    if given is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(given, place)
    elif not place.is_file():
        raise UnavailableError(
            f"its questions are not published: give your copy of {place.name} (SHA-256 {data.sha256[:12]}…) "
            "with --exam-data FILE"
        )


def _download(published: Published, repository: PublishedRepository, name: str, folder: Path, request: Request) -> Path:
    """A file of the GGUF repository on this disk, by the real client, which goes on with what a killed run left.

    Raises:
        CheckFailedError: it is not the locked file.
        UnavailableError: the Hub does not give it.
    """
    from release.hub.remote import hub_api, hub_errors, quiet_client

    locked = published.lock.outputs[f"gguf/{name}"].sha256
    target = path_inside(folder, name)
    if not target.is_file() or sha256_file(target) != locked:
        api = hub_api(request.endpoint, request.token)
        with hub_errors(api.endpoint, f"download {name} of {repository.repo}"), quiet_client():
            api.hf_hub_download(repository.repo, name, revision=repository.source.commit, local_dir=folder)
        if (found := sha256_file(target)) != locked:
            raise CheckFailedError(f"{name} has SHA-256 {found}, the lock pins {locked}")
    return target


def _same_tools(published: Published, quant: str, toolchain: Toolchain) -> bool:
    """Whether the published run was made with this very toolchain on this kind of processor, as far as the lock tells."""
    entry = published.lock.outputs.get(f"eval/{quant}/evidence.json")
    made_with = (entry.made_with if entry else None) or {}
    here = {
        "processor": processor(),
        "llama.cpp": toolchain.commit,
        "compiler": toolchain.compiler,
        "flags": " ".join(toolchain.flags),
    }
    return all(made_with.get(name) == value for name, value in here.items())
