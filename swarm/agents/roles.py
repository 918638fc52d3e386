"""Roles: Markdown files with YAML front matter that say who an agent is.

Owns reading and checking them. What an agent does in a turn is its protocol's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from swarm.errors import SpecError
from swarm.people_yaml import read_yaml
from swarm.protocol import WORD
from swarm.shipped import shipped
from swarm.spec import MOST, Frozen
from swarm.wording import explain


class Role(Frozen):
    """One role. The prompt is the file's text below the front matter."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    about: str = Field(min_length=1)
    """What the role is for, in one line, for people."""
    prompt: str = ""
    window: int = Field(default=2048, ge=64, le=MOST)
    """Tokens of the role's window, prompt and output; the model's window bounds it."""
    max_tokens: int = Field(default=256, ge=1, le=MOST)
    """Tokens of one output."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    reads: tuple[str, ...] | None = None
    """Note kinds the role is made for. Which notes a task is given its protocol decides; but what people say (`word`) only a
    role hears that names it here."""
    writes: tuple[str, ...] | None = None
    """Note kinds the role may post: a task that posts another kind fails. A file that does not say lets it post any."""
    weights: str = ""
    """Weights channel; empty means the base model. `none` means the role never calls a model."""
    attempts: int = Field(default=3, ge=1, le=1_000_000)
    """How often a task of this role is tried before it is given up and reported."""
    turns: int = Field(default=1, ge=1, le=1_000_000)
    """Model calls that one task may take."""
    reserve: bool = False
    """Whether the role may spend the budget's reserve, because the report needs it."""

    @property
    def hears(self) -> bool:
        """Whether the role is given what people say."""
        return WORD in (self.reads or ())


def parse_role(text: str, where: str) -> Role:
    """Reads a role file's text.

    Raises:
        SpecError: there is no front matter, or a field in it is unknown or wrong.
    """
    head, mark, prompt = text.removeprefix("---\n").partition("\n---\n")
    if not text.startswith("---\n") or not mark:
        raise SpecError("has no YAML front matter", where, "begin the file with a line of `---`, the settings, and `---`")
    data = read_yaml(f"---\n{head}", where)  # as it stands in the file, so that lines are numbered as there
    if not isinstance(data, dict):
        raise SpecError("has front matter that holds no settings", where, "write `name:` and `about:` at least")
    try:
        return Role.model_validate({**data, "prompt": prompt.strip()})
    except ValidationError as error:
        raise SpecError(*explain(error, Role, where)) from None


def find_role(name: str, files: Mapping[str, str]) -> tuple[Role, str]:
    """The role of that name and its file's text: from the job's own files, `./roles`, or the shipped ones.

    Raises:
        SpecError: there is none of that name, or its file is wrong.
    """
    places = [Path(files[name])] if name in files else [Path("roles") / f"{name}.md", shipped("roles") / f"{name}.md"]
    path = next((place for place in places if place.is_file()), None)
    if path is None and name in files:
        raise SpecError(f"there is no file {files[name]}", f"roles.{name}", "check the path, or leave that setting out")
    if path is None:
        known = ", ".join(sorted(p.stem for p in shipped("roles").glob("*.md")))
        raise SpecError(f"there is no role {name!r}", f"roles.{name}", f"shipped roles: {known}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SpecError(f"{path} is not UTF-8 text", f"roles.{name}", "name a Markdown file with YAML front matter") from None
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}", f"roles.{name}", "check the file and its owner") from None
    role = parse_role(text, str(path))
    if role.name != name:
        raise SpecError(f"calls itself {role.name!r} and stands for {name!r}", str(path), "make the two names the same")
    return role, text


def shipped_roles() -> list[Role]:
    return [parse_role(path.read_text(encoding="utf-8"), str(path)) for path in sorted(shipped("roles").glob("*.md"))]
