"""What every verb shares: its common options, where its words go, and how an error becomes an exit code.

Owns the split between people and programs: with `--json` exactly one JSON document goes to stdout and everything else
to stderr. It knows no verb.
"""

from __future__ import annotations

import functools
import io
import json
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from swarm.errors import SwarmError

if TYPE_CHECKING:
    from swarm.store import runs as store
    from swarm.store.folder import RunFolder

Runs = Annotated[
    str | None,
    typer.Option(
        "--runs", envvar="SWARM_RUNS", metavar="DIR", help="Folder of the runs (`runs` if not given), or postgresql://…"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout; all else goes to stderr.")]
RunId = Annotated[str, typer.Argument(metavar="ID", help="A run's id, the start of one, or `latest`.")]
DEBUG = "SWARM_DEBUG"
_CONTROLS = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]")


class Remarks(io.TextIOWrapper):
    """Stderr, on which people see how a job goes: what nobody takes any more, or no disk has room for, is lost and ends
    nothing. The next words are tried again. Stdout too, of a command that has no result: see `only_remarks`."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


class Results(io.TextIOWrapper):
    """Stdout, to which results go: one that cannot be written is the command's error."""

    def write(self, text: str) -> int:
        with delivering():
            return super().write(text)

    def flush(self) -> None:
        with delivering():
            super().flush()


@contextmanager
def delivering() -> Iterator[None]:
    """Names what keeps a result from being written to stdout.

    Raises:
        SwarmError: stdout is closed, or its disk has no room.
        BrokenPipeError: whoever read it has seen enough.
    """
    try:
        yield
    except OSError as error:
        # What still waits to be written would be tried once more as the process ends, and fail it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        cure = "lead it into a file with room, or to a program that reads it"
        raise SwarmError(f"the result cannot be written: {error.strerror or error}", "stdout", cure) from error


def open_streams() -> None:
    """Makes stdout and stderr say what is to be said, as `Results` and `Remarks` do, for as long as the process lives. One that
    was closed as it began is none in Python, and then a console would write remarks to stdout."""
    if sys.stdout is None:
        sys.stdout = Results(os.fdopen(os.open(os.devnull, os.O_RDONLY), "wb"))  # it takes nothing
    else:
        line_buffering = sys.stdout.isatty()
        sys.stdout = Results(sys.stdout.buffer, sys.stdout.encoding, sys.stdout.errors, line_buffering=line_buffering)
    if sys.stderr is None:
        sys.stderr = Remarks(open(os.devnull, "wb"))  # noqa: SIM115
    else:
        sys.stderr = Remarks(sys.stderr.buffer, sys.stderr.encoding, sys.stderr.errors, line_buffering=True)


def only_remarks() -> None:
    """From here on, what goes to stdout is remarks as well: of a command that is to go on though nobody reads it."""
    assert isinstance(sys.stdout, io.TextIOWrapper)  # as `open_streams` made it
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    sys.stdout = Remarks(sys.stdout.detach(), encoding, errors, line_buffering=True)


class Careful(Console):
    """A console for words of others: what would move the cursor, or turn the text's direction, is shown instead of sent."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(seen(one) if isinstance(one, str) else one for one in objects), **options)


def seen(text: str) -> str:
    """The text with control characters written out, such as \\x1b; line breaks and tabs stay."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}" if found[0] < "\u0100" else f"\\u{ord(found[0]):04x}", text)


def json_seen(text: str) -> str:
    """JSON that means the same, with the control characters that JSON lets through written out."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def out() -> Console:
    """Where results go. Made anew each time, so that it writes to what stdout is now."""
    return Careful(file=sys.stdout, highlight=False, soft_wrap=True)


def err() -> Console:
    """Where progress, remarks and errors go."""
    return Careful(file=sys.stderr, highlight=False, soft_wrap=True)


def people(as_json: bool) -> Console:
    """Where people's text of a result goes: out of the way if stdout is a program's."""
    return err() if as_json else out()


def emit(document: Any) -> None:
    """Prints the one JSON document of a command."""
    sys.stdout.write(json_seen(json.dumps(document, ensure_ascii=False, indent=2, default=str)) + "\n")
    sys.stdout.flush()


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """Makes a command end with a message and an exit code instead of a traceback, unless SWARM_DEBUG is set."""

    @functools.wraps(function)
    def wrapped(*args: Any, **options: Any) -> None:
        as_json = bool(options.get("as_json"))
        try:
            function(*args, **options)
            sys.stdout.flush()  # here a failure still has a name
        except SwarmError as error:
            if os.environ.get(DEBUG):
                raise
            _fail(error, as_json)
        except BrokenPipeError:  # whoever read our output has seen enough
            raise typer.Exit(0) from None
        except KeyboardInterrupt:
            err().print("stopped")
            raise typer.Exit(130) from None
        except Exception as error:
            if os.environ.get(DEBUG) or isinstance(error, typer.Exit | typer.Abort) or _is_usage(error):
                raise
            _fail(_unexpected(error), as_json)

    return wrapped


def _is_usage(error: Exception) -> bool:
    """Whether this is the parser's own way of saying something, which it also prints."""
    return hasattr(error, "exit_code") and hasattr(error, "show")


def _fail(error: SwarmError, as_json: bool) -> NoReturn:
    say_error(error)
    if as_json:
        with suppress(SwarmError, BrokenPipeError):  # it is on stderr, and in the exit code
            emit({"error": error_document(error)})
    raise typer.Exit(int(error.exit_code)) from None


def say_error(error: SwarmError) -> None:
    place = f"{error.where}: " if error.where else ""
    lines = [f"error: {place}{error.message}"] + ([f"  {error.cure}"] if error.cure else [])
    sys.stderr.write(seen("\n".join(lines)) + "\n")


def error_document(error: SwarmError) -> dict[str, Any]:
    return {
        "kind": type(error).__name__,
        "message": error.message,
        "where": error.where,
        "cure": error.cure,
        "exit_code": int(error.exit_code),
    }


def _unexpected(error: Exception) -> SwarmError:
    """A fault of ours: the details go to a file that can be sent in."""
    with tempfile.NamedTemporaryFile("w", prefix="swarm-error-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write("".join(traceback.format_exception(error)))
    first = str(error).splitlines()[0] if str(error) else ""
    return SwarmError(
        f"unexpected {type(error).__name__}{f': {first}' if first else ''}", "swarm",
        f"this is a fault of the program; the details are in {file.name} ({DEBUG}=1 shows them here)",
    )  # fmt: skip


def runs_of(runs: str | None) -> store.Runs:
    """Where runs lie.

    Raises:
        SpecError: it names a kind of place that there is not.
    """
    from swarm.store.runs import open_runs

    return open_runs(runs, os.environ)


def the_run(name: str, runs: str | None) -> RunFolder:
    """The run that a person means.

    Raises:
        StoreError: none, or several, fit.
    """
    return runs_of(runs).find(name)


def number(value: float) -> str:
    """A count as people read it: 1,234, or 1.2 M."""
    return f"{value:,.0f}" if value < 1e6 else f"{value / 1e6:,.1f} M"


def duration(seconds: float) -> str:
    """A time as people read it: 42 s, 6 min 05 s, 2 h 10 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
