"""Jobs for the simulator: passages of Python that raise, the shipped protocols, and the scripted answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarm.agents.roles import Role, find_role
from swarm.models.scripted import answer_raises
from swarm.protocol import Passage, create_protocol
from swarm.spec import JobSpec, parse_spec
from swarm.testing.simulator import NONE, Faults, Simulation

SPAN_TOKENS = 64
ERRORS = ("ValueError", "KeyError", "OSError")


def passage(number: int) -> Passage:
    """Every fourth one raises nothing; the others raise one of three, and every third raises two at once."""
    name = ERRORS[number % 3]
    body = "return 1" if number % 4 == 3 else f"raise {name}({number})"
    more = "\n    raise TypeError" if number % 3 == 2 and number % 4 != 3 else ""
    text = f"def f{number}():\n    {body}{more}\n"
    return Passage(number, "d", "simulated.py", 1000 * number, text, SPAN_TOKENS, f"simulated.py > f{number}", False)


def spec(**changes: Any) -> JobSpec:
    data: dict[str, Any] = {
        "name": "simulated",
        "question": "Which function raises which exception?",
        "inputs": ["text:simulated"],
        "answer": {
            "columns": {
                "function": "qualified name of the function",
                "exception": {"description": "class name of the exception", "found_in": "quote"},
            },
            "by": "exception",
        },
        "protocol": {"name": "map_reduce", "options": {"span_tokens": SPAN_TOKENS}},
        "model": {"engine": "scripted", "name": "raises"},
    }
    return parse_spec({**data, **changes})


ROLLING: dict[str, Any] = {"protocol": {"name": "rolling", "options": {"span_tokens": SPAN_TOKENS, "passages": 4}}}
PROSE: dict[str, Any] = {
    "answer": {"statements": True},
    "protocol": {"name": "map_reduce", "options": {"span_tokens": SPAN_TOKENS, "group": 3}},
}


def answer(text: str) -> str:
    """The scripted answer to the last passage of a prompt."""
    first, last = text.find("\nPassage: "), text.rfind("\nPassage: ")
    return answer_raises(text[:first] + text[last:])


def roles_of(names: tuple[str, ...]) -> dict[str, Role]:
    return {name: find_role(name, {})[0] for name in names}


def simulate(
    seed: int = 0, faults: Faults = NONE, passages: int = 9, changes: Mapping[str, Any] | None = None, **how: Any
) -> Simulation:
    job = spec(**(changes or {}), seed=7)
    protocol, _ = create_protocol(job)
    texts = how.pop("texts", None) or [passage(number) for number in range(passages)]
    make: type[Simulation] = how.pop("make", Simulation)
    return make(job, protocol, roles_of(protocol.roles), texts, answer, seed, faults, **how)
