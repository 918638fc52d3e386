"""Gold answers about code and prose, on snippets small enough to check by eye."""

from __future__ import annotations

from swarm.learn.data import code, prose
from swarm.learn.data.code import Module
from swarm.learn.data.passages import rows_within
from swarm.learn.data.questions import SCHEMAS

SNIPPET = '''
import queue
from os.path import join as glue, split

LIMIT = 30
@cache
class Box(Base, other.Mixin):
    STATE: int = 1
    if LIMIT:
        raise RuntimeError("not inside a function")

    @property
    @tools.wraps(f, x=1)
    def get(self, block=True, *, timeout: float = -1.5) -> "Item | None":
        """Raises Empty if there is nothing; raise ValueError is only said here."""
        # raise KeyError("commented")
        self.x = 1
        try:
            assert block, "no"
            if isinstance(block, numbers.Number):
                raise queue.Empty
        except (OSError, errors.Fault) as problem:
            raise
        except KeyError as error:
            raise error
        def inner():
            raise ValueError("a very long message that goes on and on until it is cut off somewhere")
        with open("é") as f, self.lock: raise _Giveup(1) from None
        raise self._error
        raise make()(1)
        raise Empty() if block else Full()
        return None

    async def put(self):
        yield 1

def outer():
    class Local:
        def run(self):
            raise errors.FormatError[int]("x")
    raise TypeError(
        "on two lines")
    raise TypeError("again")
'''


def values(name: str) -> list[tuple[str, ...]]:
    schema = next(schema for schema in SCHEMAS if schema.name == name)
    return [found.values for found in schema.find(Module(SNIPPET))]


def test_raises_are_named_by_class_and_innermost_function() -> None:
    assert values("raises") == [
        ("Box.get", "Empty"),
        ("Box.get.inner", "ValueError"),
        ("Box.get", "_Giveup"),
        ("outer.Local.run", "FormatError"),
        ("outer", "TypeError"),
        ("outer", "TypeError"),
    ]


def test_quotes_begin_at_the_statement_and_end_with_the_line_or_at_60_characters() -> None:
    quotes = [found.quote for found in code.raises(Module(SNIPPET))]
    assert quotes[0] == "raise queue.Empty"
    assert quotes[1] == 'raise ValueError("a very long message that goes on and on un'
    assert quotes[2] == "raise _Giveup(1) from None"
    assert quotes[4] == "raise TypeError("
    for found in code.raises(Module(SNIPPET)):
        assert SNIPPET[found.start :].startswith(found.quote)


def test_other_schemas() -> None:
    assert values("handlers") == [("Box.get", "OSError"), ("Box.get", "Fault"), ("Box.get", "KeyError")]
    assert values("decorators") == [("Box.get", "property"), ("Box.get", "tools.wraps")]
    assert values("bases") == [("Box", "Base"), ("Box", "other.Mixin")]
    assert values("imports") == [("os.path", "join"), ("os.path", "split")]
    assert values("constants") == [("LIMIT", "30")]
    assert values("defaults") == [("Box.get", "block", "True"), ("Box.get", "timeout", "-1.5")]
    assert values("annotations") == [("Box.get", '"Item | None"')]
    assert values("attributes") == []
    assert values("returned") == [("Box.get", "None")]
    assert values("yields") == [("Box.put",)]
    assert values("coroutines") == [("Box.put",)]
    assert values("asserts") == [("Box.get", "block")]
    assert values("contexts") == [("Box.get", "open"), ("Box.get", "self.lock")]
    assert values("type_checks") == [("Box.get", "numbers.Number")]
    assert [found.values for found in code.calls_of("make")(Module(SNIPPET))] == [("Box.get",)]


def test_a_passage_gets_the_rows_whose_quotes_begin_in_it_once_each() -> None:
    found = list(code.raises(Module(SNIPPET)))
    start = SNIPPET.index("def outer")
    rows = rows_within(found, start, len(SNIPPET), SNIPPET[start:])
    assert rows == (
        ("outer.Local.run", "FormatError", 'raise errors.FormatError[int]("x")'),
        ("outer", "TypeError", "raise TypeError("),
    )


def test_prose_quotes_are_single_lines_that_show_the_value() -> None:
    text = (
        "Returns the item. If the queue is empty,\na `QueueEmpty` error or an OSError is raised.\n"
        "The KeyError class is a LookupError.\nDeprecated since version 3.9. The default is `None`."
    )
    assert prose.rows_of(text, prose.raised_in_prose) == (
        ("QueueEmpty", "a `QueueEmpty` error or an OSError is raised."),
        ("OSError", "a `QueueEmpty` error or an OSError is raised."),
    )
    assert prose.rows_of(text, prose.deprecations) == (("3.9", "Deprecated since version 3.9."),)
    assert prose.rows_of(text, prose.stated_defaults) == (("None", "The default is `None`."),)
