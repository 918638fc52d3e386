"""What can be asked for: the job, as people write it in YAML or build it in Python.

Owns every setting of a job, its default and its documentation, and says what is wrong with a bad one in words that name
the field, the value and the cure. It reads no input, starts nothing and imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgpack
import regex
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from swarm.errors import SpecError
from swarm.people_yaml import read_yaml
from swarm.wording import HIDDEN, explain

URL = "http://127.0.0.1:8000/v1"
NAME = r"^[a-z][a-z0-9_-]{0,63}$"
COLUMN = r"^[a-z][a-z0-9_]{0,39}$"
MOST = 2**63 - 1
"""The largest whole number that a setting may hold: what the log can write down."""
MOST_SECONDS = 1e10
"""The longest wall-clock budget: some three hundred years."""
MOST_MONEY = 1e12
"""The most that a price or a budget of money may be, in whatever currency."""
RAISES = "ast:raises"
"""The gold that is computed from the syntax trees of the pinned Python documents."""
RAISES_COLUMNS = ("function", "exception")
"""The columns that it has."""
MOST_VALUES = 10_000
"""Values that a protocol's options may hold, counted as often as they are referred to."""
NUMBERS = (int, float, int | None, float | None)
"""What a setting is declared as that holds a number."""
Merge = Literal["auto", "set", "count", "group", "top-k", "join"]


def _without_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("holds a NUL character, which no name or path may")
    return value


def _checked_pattern(value: str) -> str:
    try:
        regex.compile(value)
    except regex.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return value


Place = Annotated[str, AfterValidator(_without_nul)]
"""The name of a file, a folder or something else outside the spec."""
Pattern = Annotated[str, AfterValidator(_checked_pattern)]
"""A regular expression."""


class Frozen(BaseModel):
    """A value: never changed, and every key known."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """`true` would pass for 1."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation in NUMBERS:
            raise ValueError("is a truth value, not a number")
        return value


class InputSpec(Frozen):
    """One source of text."""

    source: Place = Field(min_length=1)
    """A file, a folder, a glob, `python:PACKAGE` (installed sources), `pydoc:topics`, or `text:LITERAL`."""
    origin: str = ""
    """Where it comes from, for the report; empty means: as written in `source`, without the folders before an absolute path."""
    licence: str = "unknown"
    """Licence of the text, for the report and for learning."""
    train: bool = False
    """Whether learning may ever use this text."""

    @field_validator("source")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is blank; name a file, a folder, a glob, python:PACKAGE or text:…")
        return value


class Column(Frozen):
    """One column of the rows that a job asks for."""

    name: str = Field(pattern=COLUMN)
    description: str = Field(min_length=1)
    """What the readers are told the column holds."""
    pattern: Pattern = ""
    """A regular expression that the whole value must match; empty means any text."""
    found_in: Literal["quote", "passage", "anywhere"] = "passage"
    """Where the value must stand word for word: in the quote, in the passage or its breadcrumb, or nowhere in particular."""


class AnswerSpec(Frozen):
    """What the answer looks like: rows with the columns given, or statements in prose."""

    columns: tuple[Column, ...] = ()
    statements: bool = False
    """True: the answer is a list of cited statements that a reducer model writes; needs a model that can write."""
    key: tuple[str, ...] = ()
    """Columns that make a row distinct; empty means all of them."""
    merge: Merge = "auto"
    """How rows are merged: distinct rows, counts, groups, the most frequent, or a join; `auto` leaves it to the planner."""
    by: str = ""
    """The column that `count`, `group`, `top-k` and `join` work on; empty means the last one."""
    top: int = Field(default=10, ge=1, le=MOST)
    """How many groups `top-k` keeps."""
    quote_pattern: Pattern = ""
    """A regular expression that the evidence quote must contain a match of; empty means any quote."""
    gold: Place = ""
    """What the answer is scored against and no agent sees: a JSONL file of rows, or `ast:raises`."""

    @field_validator("columns", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return tuple(
                {"name": name, **(rest if isinstance(rest, dict) else {} if rest is None else {"description": rest})}
                for name, rest in value.items()
            )
        if not isinstance(value, (list, tuple)) or not all(isinstance(one, (dict, Column)) for one in value):
            cure = "must be columns by name, each with what it holds, such as `columns: {exception: name of the exception}`"
            raise PydanticCustomError(HIDDEN, cure)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> AnswerSpec:
        if self.statements and self.columns:
            raise ValueError("asks for columns and for statements; keep one of the two")
        if not self.statements and not self.columns:
            raise ValueError("has no column; name at least one under `columns`, or set `statements: true`")
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError(f"has two columns of the same name among {', '.join(names)}")
        for name, use in (("quote", "the evidence's"), ("count", "a merge's")):
            if name in names:
                raise ValueError(f"has a column called `{name}`; that name is {use} own, choose another")
        for field, wanted in (("key", self.key), ("by", (self.by,) if self.by else ())):
            for name in wanted:
                if name not in names:
                    raise ValueError(f"`{field}` names `{name}`, which is no column; columns are {', '.join(names)}")
        return self


class Price(Frozen):
    """What a model's tokens cost, in `currency` a million tokens."""

    input: float = Field(ge=0, le=MOST_MONEY, allow_inf_nan=False)
    output: float = Field(ge=0, le=MOST_MONEY, allow_inf_nan=False)
    currency: str = Field(default="USD", pattern=r"^[A-Za-z]{1,8}$")


class Rate(Frozen):
    """What an endpoint lets one key do; None: nothing is known, and it is found out by its refusals."""

    requests_per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    tokens_per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class ModelSpec(Frozen):
    """What answers the calls."""

    engine: Literal["vllm", "transformers", "openai", "scripted"] = "vllm"
    """`vllm` and `transformers` load weights here; `openai` is any compatible endpoint; `scripted` is for tests only."""
    name: Place = "embedded"
    """`embedded`, a folder or hub name of weights, the endpoint's model name, or the script's name."""
    url: Place = ""
    """Base address of the endpoint, ending in /v1; `openai` only."""
    key: str = ""
    """The endpoint's key as `env:NAME`; never written down."""
    tokenizer: Place = ""
    """`embedded`, or a folder or tokenizer.json; empty means the model's own, or an over-counting estimate for `openai`."""
    weights: dict[str, Place] = Field(default_factory=dict)
    """Channel → adapter folder, `shipped:reader`, or `base`. Channels that a role names and that stand not here are
    `shipped:CHANNEL` for the embedded model and `base` for any other; but a channel that no shipped role has must stand here."""
    window: int = Field(default=2048, ge=256, le=MOST)
    """Tokens of one window: prompt and output together."""
    concurrency: int = Field(default=64, ge=1, le=MOST)
    """Calls in flight from one host."""
    timeout_s: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    """Seconds that one call may take, its wait in the engine's queue included."""
    price: Price | None = None
    """Needed only for a budget of money, or to see costs."""
    in_doubt: Literal["retry", "ask"] = "retry"
    """What becomes of a task whose paid call may have been carried out without its answer being recorded (the driver was
    killed, the endpoint broke off): `retry` makes the call again, so that it may be paid twice; `ask` puts the question to a
    person (`swarm inbox`), and the task waits."""
    cache: bool = False
    """Whether a call that was answered before, in this job or another of the same runs folder, is answered from there. Only
    first samples whose answer does not depend on chance."""
    rate: Rate = Rate()
    """What an endpoint allows; shared by all jobs of a cluster."""

    @property
    def billed(self) -> bool:
        """Whether somebody may have to pay for each call."""
        return self.engine == "openai" or self.price is not None

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        return _checked_url(value)

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        if self.engine == "openai" and not self.url:
            raise ValueError("needs `url`, such as http://127.0.0.1:8000/v1, because `engine` is openai")
        if self.engine != "openai" and (self.url or self.key):
            raise ValueError("has `url` or `key`, which only `engine: openai` uses")
        if self.engine != "openai" and self.rate != Rate():
            raise ValueError("has `rate`, which only `engine: openai` uses")
        if self.key and not self.key.startswith("env:"):
            raise ValueError("has a `key` in plain text; put it into an environment variable and write env:NAME")
        return self


class RoleBudget(Frozen):
    """What all tasks of one role may spend together. At a limit this role stops, and the others go on."""

    tokens: int | None = Field(default=None, gt=0, le=MOST)
    calls: int | None = Field(default=None, gt=0, le=MOST)
    money: float | None = Field(default=None, gt=0, le=MOST_MONEY, allow_inf_nan=False)


class AgentBudget(Frozen):
    """What any one agent (a task with its role and window) may spend, over all its attempts. At a limit its task waits for
    more, and the others go on."""

    tokens: int | None = Field(default=None, gt=0, le=MOST)
    calls: int | None = Field(default=None, gt=0, le=MOST)


class BudgetSpec(Frozen):
    """Hard limits. None means no limit. The job pauses before it would pass one, with its report, and may be given more.

    A task sets aside the most it may take before it starts. When `seconds` are over, calls under way are broken off: those
    of the reading when only the reserve is left, those of the report at the limit.
    """

    tokens: int | None = Field(default=None, gt=0, le=MOST)
    calls: int | None = Field(default=None, gt=0, le=MOST)
    money: float | None = Field(default=None, gt=0, le=MOST_MONEY, allow_inf_nan=False)
    seconds: float | None = Field(default=None, gt=0, le=MOST_SECONDS, allow_inf_nan=False)
    """Wall-clock seconds that masters of this job have held it, over all resumes."""
    disk: int | None = Field(default=None, gt=0, le=MOST)
    """Bytes of the run: log, bodies and blobs."""
    reserve: float = Field(default=0.05, ge=0, lt=1)
    """The share of each limit that only the roles after reading may spend, so that a stopped job has its report."""
    roles: dict[str, RoleBudget] = Field(default_factory=dict)
    """Role → its own limits, within those of the job."""
    agent: AgentBudget = AgentBudget()
    unpriced: Literal["refuse", "allow"] = "refuse"
    """What to do with a budget of money where the model's price is not known; `allow` counts its calls as free."""

    def limited(self) -> bool:
        """Whether there is any limit but those of single agents."""
        whole = (self.tokens, self.calls, self.money, self.seconds, self.disk)
        return bool(self.roles) or whole.count(None) < len(whole)


class ProtocolSpec(Frozen):
    """How the agents work together."""

    name: Place = "map_reduce"
    """A protocol that ships with the package, a path ending in .py, or a dotted module name."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The protocol's own settings; it says which it knows."""

    @field_validator("options")
    @classmethod
    def _plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        waiting: list[Any] = [value]
        for _ in range(MOST_VALUES):
            if not waiting:
                return value
            one = waiting.pop()
            if isinstance(one, dict):
                waiting.extend(one.values())
            elif isinstance(one, (list, tuple, set)):
                waiting.extend(one)
            elif isinstance(one, int) and not -MOST - 1 <= one <= MOST:
                raise ValueError("hold a whole number beyond 64 bits")
        raise ValueError(f"hold more than {MOST_VALUES} values, or refer to themselves")


class NotifySpec(Frozen):
    """Who is told when a job has finished or failed, has used 50, 80 or 100 % of a limit, waits for a person, is stuck, or
    gives up a task. Each notice is delivered at least once in each way, with an `id` that stays the same."""

    command: tuple[str, ...] = ()
    """A program and its arguments, run on the driver's machine with the notice as JSON on stdin."""
    webhook: Place = ""
    """An address that the notice is posted to as JSON; `env:NAME` if the address itself is a secret."""
    key: str = ""
    """The webhook's bearer token as `env:NAME`; never written down."""

    @field_validator("webhook")
    @classmethod
    def _is_address(cls, value: str) -> str:
        return value if value.startswith("env:") and len(value) > 4 else _checked_url(value)

    @model_validator(mode="after")
    def _consistent(self) -> NotifySpec:
        if self.key and not (self.webhook and self.key.startswith("env:") and len(self.key) > 4):
            cure = "has a `key` that is in plain text or has no `webhook`; put it into an environment variable, write env:NAME"
            raise PydanticCustomError(HIDDEN, cure)
        if self.command and not self.command[0].strip():
            raise ValueError("has a `command` without a program; write a list, such as [notify-send, swarm]")
        return self

    def ways(self) -> tuple[str, ...]:
        """The ways in which a notice is delivered: `command`, `webhook`, both, or none."""
        return ("command",) * bool(self.command) + ("webhook",) * bool(self.webhook)


class StuckSpec(Frozen):
    """When a job counts as stuck: the protocol is asked to plan anew, and if that doesn't help the job pauses and asks."""

    steps: int = Field(default=32, ge=0, le=MOST)
    """Steps in a row that read no new passage and have nothing newly verified; 0 never looks."""


class JobSpec(Frozen):
    """One research job. What is wrong with it is a SpecError, as `parse_spec` raises it."""

    name: str = Field(pattern=NAME)
    question: str = Field(min_length=1)
    inputs: tuple[InputSpec, ...] = Field(min_length=1)
    answer: AnswerSpec
    protocol: ProtocolSpec = ProtocolSpec()
    roles: dict[str, Place] = Field(default_factory=dict)
    """Role → Markdown file used in place of the shipped role of that name."""
    model: ModelSpec = ModelSpec()
    budget: BudgetSpec = BudgetSpec()
    weight: float = Field(default=1.0, ge=0.001, le=1000, allow_inf_nan=False)
    """The job's share of a model server that it has in common with other jobs, relative to theirs."""
    notify: NotifySpec = NotifySpec()
    stuck: StuckSpec = StuckSpec()
    seed: int = Field(default=0, ge=-MOST - 1, le=MOST)

    @field_validator("inputs", mode="before")
    @classmethod
    def _short_inputs(cls, value: Any) -> Any:
        items = [value] if isinstance(value, (str, dict)) else value
        return tuple({"source": item} if isinstance(item, str) else item for item in items or ())

    @field_validator("protocol", mode="before")
    @classmethod
    def _short_protocol(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("question")
    @classmethod
    def _asked(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is blank; write the question that the answer should answer")
        return value.strip()

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, data: Any, build: Any, info: ValidationInfo) -> Any:
        """What is wrong is said alike of a job file, which the context names, and of a job made in Python."""
        try:
            return build(data)
        except ValidationError as error:
            raise SpecError(*explain(error, JobSpec, info.context or "job", data)) from None

    def canonical(self) -> bytes:
        """The spec as bytes that depend on its content alone."""
        return bytes(msgpack.packb(_sorted(self.model_dump(mode="json"))))

    def digest(self) -> str:
        return hashlib.blake2b(self.canonical(), digest_size=16).hexdigest()

    def request(self) -> str:
        """The digest of what is asked for: without the price, which may come from a table that has changed since."""
        return self.model_copy(update={"model": self.model.model_copy(update={"price": None})}).digest()


def parse_spec(data: Any, where: str = "job") -> JobSpec:
    """Builds a JobSpec from plain data.

    Raises:
        SpecError: naming the field, the value and the cure of the first thing that is wrong, and how many more there are.
    """
    if not isinstance(data, dict):
        raise SpecError(f"holds {type(data).__name__}, not a mapping of settings", where, "start with `name:` and `question:`")
    return JobSpec.model_validate(data, context=where)


def load_spec(path: str | Path) -> JobSpec:
    """Reads a job file.

    Relative inputs, roles, gold and protocol paths are taken from the folder that the file stands in; the model's name,
    tokenizer and weights where they begin with `./`, `../` or `~/`.

    Raises:
        SpecError: the file is missing, is not YAML, or does not say what a job must say.
    """
    path = Path(path)
    try:
        if not path.is_file():
            what = "is a folder, not a job file" if path.is_dir() else "there is no such job file"
            raise SpecError(what, str(path), "check the path, or see examples/ for job files that run")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", str(path), "check the file and its owner") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"is not YAML: {error}", str(path), "write it in UTF-8") from None
    return anchored(parse_spec(read_yaml(text, str(path)), str(path)), path.parent)


def anchored(spec: JobSpec, folder: Path) -> JobSpec:
    """The same spec with relative paths resolved against `folder`."""

    def place(text: str) -> str:
        if not text or re.match(r"^[a-z]+:", text) or Path(text).is_absolute():
            return text
        if text.startswith("~"):
            return os.path.expanduser(text)
        return os.path.realpath(folder / text)  # which lets a link that leads to itself stand: whoever opens it says so

    def own(text: str) -> str:
        """A model's name may as well be one of a hub, with a slash in it, and a program one of the PATH: only `./…`, `../…` and
        `~/…` are surely paths."""
        return place(text) if re.match(r"^(\.{1,2}|~)/", text) else text

    return spec.model_copy(
        update={
            "inputs": tuple(item.model_copy(update={"source": place(item.source)}) for item in spec.inputs),
            "roles": {name: place(file) for name, file in spec.roles.items()},
            "model": spec.model.model_copy(
                update={
                    "name": own(spec.model.name),
                    "tokenizer": own(spec.model.tokenizer),
                    "weights": {channel: own(weights) for channel, weights in spec.model.weights.items()},
                }
            ),
            "answer": spec.answer.model_copy(update={"gold": place(spec.answer.gold)}),
            "notify": spec.notify.model_copy(
                update={"command": (*map(own, spec.notify.command[:1]), *spec.notify.command[1:])}
            ),
            "protocol": spec.protocol.model_copy(
                update={"name": place(spec.protocol.name) if spec.protocol.name.endswith(".py") else spec.protocol.name}
            ),
        }
    )


def _checked_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        host, _, _ = parts.hostname, parts.port, (parts.hostname or "").encode("idna")  # each knows of other faults
    except ValueError as error:
        raise PydanticCustomError(HIDDEN, "is no address ({why}); write one like " + URL, {"why": str(error)}) from None
    if parts.username is not None or parts.password is not None:
        cure = "holds a user or password; put the secret into an environment variable and write `key: env:NAME`"
        raise PydanticCustomError(HIDDEN, cure)
    if value and (parts.scheme not in ("http", "https") or not host):
        raise PydanticCustomError(HIDDEN, "is no address of http or https; write one like " + URL)
    return value


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value
