"""The command line: the list of commands, and the one way that errors leave.

Heavy imports stand inside the commands, so that `moe-release --help` answers at once.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from pruner.errors import InputError, MoeReleaseError, UnavailableError, printable
from pruner.files import UNWRITABLE
from release import __version__
from release.commands import analysis, attestation, cards, comparison, evaluation, pipeline, publishing, report, weights
from release.commands.gguf import gguf_app
from release.commands.hub import hub_app
from release.commands.jobs import jobs_app
from release.commands.maps import map_app
from release.commands.toolchain import toolchain_app

app = typer.Typer(
    name="moe-release",
    help="Declarative, reproducible releases of expert-pruned Mixture-of-Experts models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

UsageError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")
"""What typer raises for a wrong command line; it exports only this subclass of it."""

MISNAMED = (errno.ENAMETOOLONG, errno.ELOOP)
FULL = (errno.ENOSPC, errno.EDQUOT)
NO_SPACE = "No space left on device"
"""Libraries in Rust say it in words alone."""
INTERRUPTED = 128 + signal.SIGINT
"""What a command returns when Ctrl-C ended it."""

TERMINATED = 128 + signal.SIGTERM
"""What the command leaves with when SIGTERM ended it."""

GO_ON = "interrupted; run the same command again to go on from what is finished"

TRACEBACK = "MOE_RELEASE_TRACEBACK"
"""Set this variable to see where an internal error comes from."""

RELEASE, WEIGHTS, ENVIRONMENT = "Release", "Weights", "Environment"
COMMANDS: tuple[tuple[str, str, Callable[..., None]], ...] = (
    (RELEASE, "check", pipeline.check),
    (RELEASE, "plan", pipeline.plan),
    (RELEASE, "cut", pipeline.cut),
    (RELEASE, "analyze", analysis.analyze),
    (RELEASE, "merge", analysis.merge),
    (RELEASE, "rank", analysis.rank),
    (RELEASE, "prune", weights.prune),
    (RELEASE, "verify", weights.verify),
    (RELEASE, "quantize", pipeline.quantize),
    (RELEASE, "eval", evaluation.evaluate),
    (RELEASE, "compare", evaluation.compare),
    (RELEASE, "cross-fit", analysis.cross_fit),
    (RELEASE, "card", cards.card),
    (RELEASE, "table", cards.table),
    (RELEASE, "report", report.write_report),
    (RELEASE, "rehearse", publishing.rehearse),
    (RELEASE, "publish", publishing.publish),
    (RELEASE, "promote", publishing.promote),
    (RELEASE, "attest", attestation.attest),
    (WEIGHTS, "diff", comparison.diff_checkpoints),
    (WEIGHTS, "infer", comparison.infer_drop_map),
    (WEIGHTS, "prove", comparison.prove),
    (WEIGHTS, "materialize", weights.materialize),
    (ENVIRONMENT, "doctor", pipeline.doctor),
    (ENVIRONMENT, "schema", pipeline.schema),
)
"""Panel of the help, name and function of each command, in the order of the help."""

for _panel, _name, _function in COMMANDS:
    app.command(_name, rich_help_panel=_panel)(_function)
app.add_typer(map_app, name="map", rich_help_panel=WEIGHTS)
app.add_typer(gguf_app, name="gguf", rich_help_panel=WEIGHTS)
app.add_typer(hub_app, name="hub", rich_help_panel=ENVIRONMENT)
app.add_typer(jobs_app, name="jobs", rich_help_panel=ENVIRONMENT)
app.add_typer(toolchain_app, name="toolchain", rich_help_panel=ENVIRONMENT)


def main() -> None:
    """Entry point: errors that a user may see become one line and their exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        _explain_usage(error)
        sys.exit(InputError.exit_code)
    except MoeReleaseError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == TERMINATED:
            _complain(GO_ON)
        raise
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:  # the disk's or the system's own reasons: permission, a folder where a file should be, …
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"{where}{error.strerror or error}{_remedy(error)}")
        sys.exit(InputError.exit_code if error.errno in MISNAMED else UnavailableError.exit_code)
    except Exception as error:  # a bug, or input that nobody thought of: still one line
        if os.environ.get(TRACEBACK):
            raise
        _complain(f"internal error: {type(error).__name__}: {error}; run again with {TRACEBACK}=1 and report what it prints")
        sys.exit(UnavailableError.exit_code)
    if code == INTERRUPTED:
        _complain(GO_ON)
    sys.exit(code)


def _explain_usage(error: Any) -> None:
    """One line instead of typer's box; the help when no command was given."""
    if type(error).__name__ == "NoArgsIsHelpError":  # a group without a command: the error is the help itself
        error.show()
        return
    command = error.ctx.command_path if error.ctx else "moe-release"
    if error.ctx is None and len(sys.argv) > 1 and sys.argv[1] in {name for _, name, _ in COMMANDS}:
        command += f" {sys.argv[1]}"  # click leaves the context out where an option lacks its value
    _complain(f"{error.format_message().rstrip('.').replace('Value error, ', '')}; see {command} --help")


def _remedy(error: OSError) -> str:
    """What to do about what the system says, where that is known."""
    if error.errno in MISNAMED:
        return "; choose another name"
    if error.errno in FULL or NO_SPACE in str(error):
        return "; free some space, then run the same command again"
    return "; give yourself the right to it, or choose another place" if error.errno in UNWRITABLE else ""


def _complain(message: str) -> None:
    """One line on stderr, whatever foreign names the message quotes."""
    typer.echo(f"moe-release: {printable(message)}", err=True)


def _terminate(number: int, _frame: object) -> None:
    """Leave through every `finally`, so that servers and tools that we started end with us."""
    sys.exit(128 + number)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
