"""YAML that people write: job files, role files, prices, and values on a command line.

Owns reading it, and what is refused that YAML itself would let pass: a setting that is given twice, of which the first would
be dropped without a word.
"""

from __future__ import annotations

from typing import Any

import yaml

from swarm.errors import SpecError


class _Loader(yaml.SafeLoader):
    """SafeLoader, but for settings that are given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise SpecError(f"gives {key.value!r} twice, again in line {key.start_mark.line + 1}", "", "keep one of the two")
            seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def read_yaml(text: str, where: str, cure: str = "mend that line") -> Any:
    """What a text holds.

    Raises:
        SpecError: it is not YAML, or gives a setting twice; `where` and `cure` are said with it.
    """
    try:
        return yaml.load(text, _Loader)
    except SpecError as error:
        raise SpecError(error.message, where, error.cure) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark else where
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise SpecError(f"is not YAML: {problem}", place, cure) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # dates and numbers that are none are ValueErrors
        raise SpecError(f"is not YAML: {str(error).splitlines()[0]}", where, cure) from None
