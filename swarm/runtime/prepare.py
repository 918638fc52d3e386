"""Everything a job needs that can be known before anything is spent: protocol, roles, tokenizer, and whether it all fits.

Owns the making of a job from its spec and from its log, so that both come out the same. It starts nothing.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import msgpack
from pydantic import TypeAdapter

from swarm import __version__, events as ev
from swarm.agents.roles import Role, find_role, parse_role, shipped_roles
from swarm.coordinator import JobState
from swarm.coordinator.budget import changes, dearest, effective, used
from swarm.coordinator.needs import BREADCRUMB_TOKENS
from swarm.errors import SpecError, StoreError
from swarm.events import body_hash
from swarm.models.choose import create_tokenizer
from swarm.protocol import WORD, SwarmProtocol, create_protocol, expected
from swarm.rows import columns_text
from swarm.spec import BudgetSpec, JobSpec
from swarm.window.compose import role_overhead
from swarm.window.pack import ChatTemplate
from swarm.window.tokens import Tokenizer

LEAST_SECONDS, LEAST_DISK = 1, 1 << 16
"""What a job takes that has no task yet: time to begin, and bytes of its log."""


@dataclass(frozen=True)
class Prepared:
    """A job that is ready to start. `overhead` is tokens by role that every call carries besides its working set."""

    spec: JobSpec
    protocol: SwarmProtocol
    protocol_digest: str
    roles: Mapping[str, Role]
    role_texts: Mapping[str, str]
    tokenizer: Tokenizer
    template: ChatTemplate
    overhead: Mapping[str, int]

    def channels(self) -> dict[str, str]:
        """The weights channels that the roles name, each with its default source."""
        return {role.weights: "" for role in self.roles.values() if role.weights not in ("", "none")}

    def creation(self, job: str) -> tuple[ev.JobCreated, dict[str, bytes]]:
        """The job's first event, and the bodies that it names."""
        spec = self.spec.canonical()
        schemas: bytes = msgpack.packb(
            {kind: TypeAdapter(model).json_schema() for kind, model in self.protocol.note_kinds.items()}
        )
        roles = {name: text.encode() for name, text in self.role_texts.items()}
        bodies = {body_hash(data): data for data in (spec, schemas, *roles.values())}
        created = ev.JobCreated(
            job=job, name=self.spec.name, spec=body_hash(spec), protocol=self.protocol.name,
            protocol_digest=self.protocol_digest, roles={name: body_hash(data) for name, data in roles.items()},
            notes=body_hash(schemas), tokenizer=self.tokenizer.digest, seed=self.spec.seed, software=__version__,
        )  # fmt: skip
        return created, bodies


def prepare(spec: JobSpec, role_texts: Mapping[str, str] | None = None) -> Prepared:
    """Makes a job from its spec; on a resume `role_texts` are the pinned role files.

    Raises:
        SpecError, ProtocolError, ModelError, WeightsError: what is missing or does not fit together.
    """
    protocol, digest = create_protocol(spec)
    unknown = sorted(set(spec.roles) - set(protocol.roles))
    if unknown:
        raise SpecError(
            f"{unknown[0]!r} is no role of protocol {protocol.name}", f"roles.{unknown[0]}",
            f"its roles are {', '.join(protocol.roles)}",
        )  # fmt: skip
    texts = dict(role_texts) if role_texts else {name: find_role(name, spec.roles)[1] for name in protocol.roles}
    roles = {name: parse_role(text, f"roles/{name}.md") for name, text in texts.items()}
    tokenizer, template = create_tokenizer(spec.model)
    fixed = {"question": f"Question: {spec.question}\n", "schema": columns_text(spec.answer.columns)}
    overhead = {name: role_overhead(role.prompt, fixed, template, tokenizer) for name, role in roles.items()}
    prepared = Prepared(spec, protocol, digest, roles, texts, tokenizer, template, overhead)
    _check_windows(prepared)
    if not role_texts:
        check_names(prepared)
    return prepared


def check_names(job: Prepared) -> None:
    """Looks at what a new job names or leaves blank so that it would be without effect.

    Raises:
        SpecError: which setting, or which line of a role's file, it is.
    """
    spec = job.spec
    for column in spec.answer.columns:
        if not column.description.strip():
            raise SpecError("is blank", f"answer.columns.{column.name}", "say what the column holds: the readers are told so")
    for channel in spec.model.weights:
        if channel not in job.channels():
            known = ", ".join(sorted(job.channels())) or "none"
            problem = f"no role of this job uses a channel {channel!r}"
            raise SpecError(problem, f"model.weights.{channel}", f"their channels: {known}")
    ours = {role.name: role for role in shipped_roles()}
    channels = {"none", *(role.weights for role in ours.values()), *spec.model.weights}
    for name, role in job.roles.items():
        if role == (shipped := ours.get(name)):
            continue
        file = spec.roles.get(name) or f"roles/{name}.md"
        if role.weights != "none" and not role.prompt:
            cure = "write it below the front matter, or `weights: none` there if no model is asked"
            raise SpecError("has no prompt", f"roles.{name}", cure)
        kinds = {WORD, *job.protocol.note_kinds}
        if shipped is not None:  # it may serve a protocol that has less kinds than it knows, and so may what is made from it
            kinds |= {*(shipped.reads or ()), *(shipped.writes or ())}
        for field, named in (("reads", role.reads or ()), ("writes", role.writes or ())):
            if unknown := sorted(set(named) - kinds):
                problem = f"{unknown[0]!r} is no kind of note of protocol {job.protocol.name}"
                raise SpecError(problem, f"{file}: {field}", f"its kinds: {', '.join(sorted(kinds))}")
        if role.weights and role.weights not in channels:
            problem = f"nothing says which weights answer the channel {role.weights!r}"
            cure = f"give model.weights.{role.weights}, or write one of: {', '.join(sorted(channels))}"
            raise SpecError(problem, f"{file}: weights", cure)


def _check_windows(job: Prepared) -> None:
    """What a role is given of the input must fit its window: a whole passage, or a part of one."""
    whole = job.protocol.span_tokens
    for name, one in expected(job.protocol, 1, whole).items():
        if not one.passage or (one.calls is not None and not one.calls[1]):
            continue
        role = job.roles[name]
        window, prompt = min(role.window, job.spec.model.window), job.overhead[name] + BREADCRUMB_TOKENS
        least = prompt + role.max_tokens
        if least + one.passage <= window:
            continue
        what = "a passage" if one.passage == whole else "a part of a passage"
        problem = (
            f"{what} of {one.passage} tokens, {prompt} of prompt and {role.max_tokens} of output need "
            f"{least + one.passage} tokens, and the window of role {name} has {window}"
        )
        raising = "raise model.window and the role's window"
        if one.passage == whole and window - least >= 16:
            raise SpecError(problem, "protocol.options.span_tokens", f"lower it to {window - least} or less, or {raising}")
        raise SpecError(problem, f"roles.{name}", f"{raising} to {least + one.passage} or more")


def check_budget(job: Prepared) -> None:
    """Refuses a budget that would end a job before its first task: the coordinator sets aside what a task may take at most.

    That is the reader's task where there is a reader, after the planner's one call where the merge is left to a planner;
    else it is the least task of any role.

    Raises:
        SpecError: naming the limit and what it must be at least; or the price that is not known.
    """
    _check_price(job.spec)
    spec, costs = job.spec.budget, _least_costs(job)
    check_own_limits(job, spec, "budget.")
    if not costs:
        return
    name = "reader" if "reader" in costs else min(costs, key=lambda role: costs[role])
    tokens, calls = costs[name]
    if name == "reader" and "planner" in costs and job.spec.answer.merge == "auto" and not job.spec.answer.statements:
        tokens, calls = tokens + costs["planner"][0] // costs["planner"][1], calls + 1
    share = 1.0 if job.roles[name].reserve else 1.0 - spec.reserve
    spent = tokens * dearest(job.spec.model.price)
    limits = (("tokens", spec.tokens, tokens), ("calls", spec.calls, calls), ("money", spec.money, spent))
    for limit, most, needed in limits:
        _check_limit(f"budget.{limit}", most, needed, share, name)


def _check_price(spec: JobSpec, begins: str = "budget.") -> None:
    limits = {f"roles.{name}.money": own.money for name, own in spec.budget.roles.items()}
    limits["money"] = spec.budget.money
    limit = next((name for name, value in limits.items() if value is not None), "")
    if limit and spec.model.price is None and spec.budget.unpriced == "refuse":
        raise SpecError(
            f"the price of model {spec.model.name!r} is not known", begins + limit,
            "give model.price, or name the model in prices.yaml (or the file that $SWARM_PRICES names); "
            "budget.unpriced: allow counts its calls as free",
        )  # fmt: skip


def check_own_limits(job: Prepared, budget: BudgetSpec, begins: str, names: Container[str] | None = None) -> None:
    """Refuses limits of roles and agents that would not do for one task, or one call, and of time and disk that would not do for
    none: all of them, or those of `names`. `begins` is how a limit's name begins where it was given.

    Raises:
        SpecError: naming the limit and what it must be at least; or a role that is none.
    """
    for limit, most, least in (("seconds", budget.seconds, LEAST_SECONDS), ("disk", budget.disk, LEAST_DISK)):
        if most is not None and most < least and (names is None or limit in names):
            raise SpecError(f"{most:g} will not do for any job", begins + limit, f"give at least {least}")
    needs: dict[str, tuple[float | None, float, str]] = {}
    costs = _least_costs(job)
    for name, own in budget.roles.items():
        if name not in job.roles:
            known = ", ".join(job.protocol.roles)
            problem = f"{name!r} is no role of protocol {job.protocol.name}"
            raise SpecError(problem, f"{begins}roles.{name}", f"its roles: {known}")
        tokens, calls = costs.get(name, (0, 0))
        needs[f"roles.{name}.tokens"] = own.tokens, tokens, name
        needs[f"roles.{name}.calls"] = own.calls, calls, name
        needs[f"roles.{name}.money"] = own.money, tokens * dearest(job.spec.model.price), name
    if costs:
        most, name = max((tokens // calls, name) for name, (tokens, calls) in costs.items())
        needs["agent.tokens"] = budget.agent.tokens, most, name
    for limit, (given, needed, role) in needs.items():
        if names is None or limit in names:
            _check_limit(begins + limit, given, needed, 1.0, role)


def _check_limit(name: str, most: float | None, needed: float, share: float, role: str) -> None:
    if most is None or most * share >= needed:
        return
    least = f"{needed / share * 1.01:.3g}" if name.endswith("money") else str(ceil(needed / share))  # rounded, never below
    kept = f", and {1 - share:.0%} are kept back" if share < 1 else ""
    raise SpecError(
        f"{most} may not do for the first task of role {role} ({needed:.9g} may be needed{kept})", name,
        f"give at least {least}; with no such limit, `swarm plan` says what the whole job needs",
    )  # fmt: skip


def raise_budget(job: Prepared, state: JobState, disk: int, texts: Sequence[str]) -> dict[str, float | None]:
    """The limits that a person changes, by name, once it is sure that they can be.

    Raises:
        SpecError: there is no such limit or role, its value cannot be one, or it is spent already.
    """
    before = effective(job.spec.budget, state.raised)
    new = changes(before, texts)
    check_changed(job, state, disk, effective(before, new), new, "--budget ")
    return new


def check_changed(
    job: Prepared, state: JobState, disk: int, after: BudgetSpec, names: Container[str], begins: str
) -> None:
    """Refuses a changed budget under which the job could not go on; `names` are the limits that change, and `begins` is how
    a limit's name begins where it was given. `disk` is the bytes that the run takes.

    Raises:
        SpecError: naming the limit and what it must be at least; or the price that is not known.
    """
    _check_price(job.spec.model_copy(update={"budget": after}), begins)
    check_own_limits(job, after, begins, names)
    for name, allowed, spent in used(after, job.spec.model.price, state, state.time, disk):
        if name in names and spent >= allowed:
            raise SpecError(f"{spent:,.10g} are spent already, and the limit would be {allowed:,.10g}", begins + name,
                            f"give more, such as {begins}{name}={spent * 1.25 + 1:.0f}")  # fmt: skip


def _least_costs(job: Prepared) -> dict[str, tuple[int, int]]:
    return {name: _least_cost(job, role) for name, role in job.roles.items() if role.weights != "none"}


def _least_cost(job: Prepared, role: Role) -> tuple[int, int]:
    """Tokens and calls that are set aside for a task of one turn; a reader's has a passage."""
    passage = job.protocol.span_tokens + BREADCRUMB_TOKENS if role.name == "reader" else 0
    free = min(role.window, job.spec.model.window) - role.max_tokens
    calls = role.attempts + (role.turns - 1 if role.name == "reader" else 0)
    return (min(job.overhead[role.name] + passage, free) + role.max_tokens) * calls, calls


def check_pinned(created: ev.JobCreated, job: Prepared) -> None:
    """Refuses to go on under a tokenizer other than the one the job's windows were measured with.

    Raises:
        StoreError: the tokenizers differ.
    """
    if created.tokenizer != job.tokenizer.digest:
        raise StoreError(
            f"was made with tokenizer {created.tokenizer}, and this model has {job.tokenizer.digest}", f"job {created.job}",
            "use the same model version, or start a new run",
        )  # fmt: skip
