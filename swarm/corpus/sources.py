"""From an input as people name it to the texts it stands for.

Owns the finding: files, folders, globs, installed Python sources, Python's own documentation topics, literal
text. It opens nothing and imports none of the packages that it finds; `reading` does the opening.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from swarm.corpus.media import Media, media_of
from swarm.errors import CorpusError
from swarm.spec import InputSpec
from swarm.wording import without_secrets

HIDDEN_NAMED = 5
"""Hidden files and folders that are named of those in one input; all are counted."""


@dataclass(frozen=True, slots=True)
class Source:
    """One text that can be opened, not yet read.

    `path` is how it is called in breadcrumbs and reports: the name of the file, or of the folder and the way
    from there, with more folders in front only where that tells documents of one name apart. Either `file` or `literal` is set.
    `found`: it turned up in a folder, glob or package and may be skipped; otherwise it was named and must be
    readable.
    """

    path: str
    media: str
    origin: str
    licence: str
    train: bool
    file: Path | None = None
    literal: bytes | None = None
    found: bool = False

    @property
    def where(self) -> str:
        """What an error calls it: its file, from the working folder if it lies in that."""
        if self.file is None:
            return self.path
        file, here = self.file.absolute(), Path.cwd()
        return _printable(str(file.relative_to(here) if file.is_relative_to(here) else file))


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that an input led to and that is not read, and why."""

    path: str
    reason: str


def resolve(inputs: Iterable[InputSpec], folder: Path | None = None) -> Iterator[Source | Skipped]:
    """The texts of all inputs: inputs in their order, what each leads to sorted by path, each file once.

    Args:
        folder: what relative paths start from; by default the working folder.

    Raises:
        CorpusError: an input names nothing that exists.
    """
    seen: set[str] = set()
    literals = 0
    for item in inputs:
        literals += item.source.startswith("text:")
        empty = True
        for source in _resolved(item, folder or Path(), literals):
            empty = False
            if isinstance(source, Source) and source.file:
                real = os.path.realpath(source.file)
                if real in seen:
                    continue
                seen.add(real)
            yield source
        if empty:
            yield Skipped(_printable(item.source), "holds no files")


def from_further_up(source: Source) -> Source:
    """The same text under a path that begins one folder further up, if there is one."""
    if source.file is None:
        return source
    whole = (source.file.parent.resolve() / source.file.name).parts[1:]
    return replace(source, path=_printable("/".join(whole[-1 - len(source.path.split("/")) :])))


def _resolved(item: InputSpec, folder: Path, literals: int) -> Iterator[Source | Skipped]:
    kind, _, rest = item.source.partition(":")
    match kind:
        case "text":
            return iter([_source(item, f"text:{literals}", Media.PLAIN, literal=rest)])
        case "python":
            return _python(item, rest.strip())
        case "pydoc":
            return _topics(item, rest.strip())
        case "http" | "https" | "s3" | "gs" | "ftp":
            raise CorpusError(
                "is an address, and inputs are read from this machine",
                without_secrets(item.source),
                "Download it and name the file.",
            )
    return _paths(item, folder)


def _source(
    item: InputSpec,
    path: str,
    media: str,
    *,
    file: Path | None = None,
    literal: str | None = None,
    found: bool = False,
) -> Source:
    raw = None if literal is None else literal.encode("utf-8", "surrogatepass")
    return Source(
        _printable(path), media, item.origin or item.source, item.licence, item.train, file, raw, found
    )


def _printable(path: str) -> str:
    """A path as it may stand in a prompt and a report: one line of sound UTF-8, whatever its name on disk."""
    return re.sub("[\x00-\x1f\x7f\ud800-\udfff]", "?", path)


def _paths(item: InputSpec, folder: Path) -> Iterator[Source | Skipped]:
    place = folder / os.path.expanduser(item.source)
    try:
        mode = place.stat().st_mode
    except OSError as problem:
        if glob.has_magic(item.source):
            yield from _matches(item, str(place))
            return
        raise CorpusError(
            f"cannot be read: {problem.strerror or problem}",
            item.source,
            f"Check the path; relative inputs start from {folder.resolve()}.",
        ) from None
    except ValueError:
        raise CorpusError("is not a path", item.source, "Write text:… for a literal text.") from None
    if stat.S_ISDIR(mode):
        yield from _walk(item, place, place.resolve().name)
    elif stat.S_ISREG(mode):
        yield _source(item, place.name, media_of(place.name), file=place)
    else:
        raise CorpusError(
            "is neither a file nor a folder", item.source, "Save its content in a file and name that."
        )


def _matches(item: InputSpec, pattern: str) -> Iterator[Source | Skipped]:
    fixed = Path(pattern)
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    found = sorted(Path(match) for match in glob.iglob(pattern, recursive=True))
    if not found:
        raise CorpusError("matches no file", item.source, f"Check the pattern; it is looked up in {fixed}.")
    for place in found:
        if "__pycache__" in place.parts:
            continue
        shown = Path(fixed.resolve().name, place.relative_to(fixed)).as_posix()
        # With ** the files of a folder match by themselves.
        if place.is_dir() and "**" not in pattern:
            yield from _walk(item, place, shown)
        elif not place.is_dir():
            yield _file_or_reason(item, place, shown)


def _file_or_reason(item: InputSpec, place: Path, shown: str) -> Source | Skipped:
    try:
        mode = place.stat().st_mode
    except OSError as problem:
        return Skipped(_printable(shown), problem.strerror or str(problem))
    if not stat.S_ISREG(mode):
        return Skipped(_printable(shown), "is not a regular file")
    return _source(item, shown, media_of(place.name), file=place, found=True)


def _walk(item: InputSpec, place: Path, shown: str, ending: str = "") -> Iterator[Source | Skipped]:
    """What lies in a folder, sorted; links to folders are not followed, so that no walk goes in circles."""
    waiting = [(place, shown)]
    hidden: list[str] = []
    root = shown
    while waiting:
        place, shown = waiting.pop()
        if place.is_dir():
            try:
                entries = sorted(os.scandir(place), key=lambda entry: entry.name, reverse=True)
            except OSError as problem:
                yield Skipped(_printable(shown), problem.strerror or str(problem))
                continue
            for entry in entries:
                within = f"{shown}/{entry.name}"
                if entry.name.startswith(".") or entry.name == "__pycache__":
                    hidden.append(within.removeprefix(f"{root}/"))
                elif entry.is_symlink() and entry.is_dir():
                    yield Skipped(_printable(within), "is a link to a folder, and those are not followed")
                elif entry.is_dir() or entry.name.endswith(ending):
                    waiting.append((Path(entry.path), within))
        else:
            yield _file_or_reason(item, place, shown)
    if hidden and not ending:  # of a package, its sources are all that was asked for
        named = ", ".join(sorted(hidden)[:HIDDEN_NAMED]) + (", …" if len(hidden) > HIDDEN_NAMED else "")
        yield Skipped(_printable(root), _printable(f"holds what is hidden or a cache of Python's ({len(hidden):,}): {named}"))


def _python(item: InputSpec, name: str) -> Iterator[Source | Skipped]:
    """The sources of an installed package or module; none of it is imported."""
    top, *rest = name.split(".")
    spec = PathFinder.find_spec(top) if top.isidentifier() else None
    if spec is None and top.isidentifier() and top != "__main__":
        spec = find_spec(top)  # editable installs have finders of their own
    parts = [top]
    for part in rest:
        if spec is None:
            break
        if spec.submodule_search_locations is None:
            raise CorpusError(
                f"{'.'.join(parts)} is a module and no package: no file of its own is called {name}",
                item.source,
                f"Write python:{'.'.join(parts)}, or name the file.",
            )
        parts.append(part)
        spec = PathFinder.find_spec(".".join(parts), spec.submodule_search_locations)
    if spec is None:
        raise CorpusError(
            f"there is no Python package or module {'.'.join(parts)!r} here",
            item.source,
            "Install it into the environment that runs swarm, or name its folder.",
        )
    shown = "/".join(parts)
    if spec.submodule_search_locations is not None:
        for location in spec.submodule_search_locations:
            yield from _walk(item, Path(location), shown, ".py")
    elif spec.origin and spec.origin.endswith(".py"):
        yield _source(item, f"{shown}.py", Media.PYTHON, file=Path(spec.origin))
    else:
        raise CorpusError(
            f"is {spec.origin or 'built in'} and has no Python source",
            item.source,
            "Name a module written in Python.",
        )


def _topics(item: InputSpec, name: str) -> Iterator[Source | Skipped]:
    """The topics of Python's language documentation, which every Python carries as strings."""
    if name != "topics":
        raise CorpusError(f"knows no {name!r}", item.source, "Write pydoc:topics.")
    from pydoc_data.topics import topics

    for topic, text in sorted(topics.items()):
        yield _source(item, f"{item.source}/{topic}", Media.RST, literal=text, found=True)
