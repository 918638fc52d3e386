"""The questions that are asked of Python code, in many wordings, and which of them are kept for judging.

Owns wordings and column descriptions only; what the right rows are is decided in `code`. For each schema the
wordings in `held_out` are never trained on; schemas with `kept` are never trained on at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from swarm.learn.data import code
from swarm.learn.data.code import Found, Module

Names = tuple[tuple[str, str], ...]
"""Ways to name and describe one column; the first is the usual one."""

FUNCTION: Names = (
    ("function", "qualified name of the function, such as Class.method"),
    ("function", "qualified name of the function"),
    ("function", "name of the function, with its class"),
    ("method", "function or method, written as Class.method"),
    ("where", "the function it stands in, such as Class.method"),
    ("callable", "qualified name of the function or method"),
)
CLASS: Names = (
    ("class", "name of the class"),
    ("type", "the class"),
    ("class_name", "qualified name of the class"),
)


@dataclass(frozen=True)
class Schema:
    """One kind of question. `columns` and `questions` are alternatives to draw from."""

    name: str
    find: Callable[[Module], Iterator[Found]]
    columns: tuple[Names, ...]
    questions: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    kept: bool = False
    hints: tuple[str, ...] = field(default=())
    """Strings that make an empty passage a hard one."""


RAISES = Schema(
    "raises",
    code.raises,
    (
        FUNCTION,
        (
            ("exception", "class name of the exception that is raised"),
            ("exception", "class name of the exception"),
            ("exception", "the exception it raises"),
            ("error", "name of the exception class"),
            ("raised", "exception class in the raise statement"),
        ),
    ),
    (
        "Which function raises which exception?",
        "Which functions raise which exceptions?",
        "What exceptions are raised, and by which function?",
        "List each function that raises an exception, with the exception.",
        "Find every raise statement: the function and the exception class.",
        "Which exceptions can each function raise?",
        "Which errors does each function raise?",
        "For each function, name the exceptions it raises.",
        "List all raised exceptions and the functions that raise them.",
        "What does each method raise?",
        "Which method raises which error?",
        "Show where exceptions are raised and which ones.",
        "Which exception classes are raised in which functions?",
        "Find the functions with a raise statement and what they raise.",
    ),
    (
        "What are the exceptions that functions raise here?",
        "Name the functions that raise, each with its exception class.",
        "Where is an exception raised, and which class is it?",
        "Who raises what?",
    ),
    hints=("raise", "except ", "Error", "Exception"),
)

SCHEMAS: tuple[Schema, ...] = (
    RAISES,
    Schema(
        "handlers",
        code.handlers,
        (
            FUNCTION,
            (
                ("exception", "class of the exception that is caught"),
                ("caught", "exception class in the except clause"),
            ),
        ),
        (
            "Which function catches which exception?",
            "Which exceptions are handled, and where?",
            "List every except clause: the function and the exception class.",
            "Which functions handle errors, and which ones?",
        ),
        ("Who catches what?",),
        hints=("raise ", "try:", "except:"),
    ),
    Schema(
        "decorators",
        code.decorators,
        (
            FUNCTION,
            (
                ("decorator", "name of the decorator"),
                ("decorator", "dotted name of the decorator, without arguments"),
            ),
        ),
        (
            "Which functions are decorated, and with what?",
            "List the decorators and the functions they decorate.",
            "Which decorator does each function have?",
        ),
        ("What decorators are used, and on which methods?",),
        hints=("@",),
    ),
    Schema(
        "bases",
        code.bases,
        (CLASS, (("base", "name of the base class"), ("parent", "the class it inherits from"))),
        (
            "Which class inherits from which?",
            "List the classes and their base classes.",
            "What are the parents of each class?",
            "Which classes are derived from another class?",
        ),
        ("What does each class extend?",),
        hints=("class ",),
    ),
    Schema(
        "imports",
        code.imports,
        (
            (("module", "module that is imported from"), ("source", "dotted name of the module")),
            (("name", "name that is imported"),),
        ),
        (
            "Which names are imported from which modules?",
            "List what is imported with from … import.",
            "What does the code import, and from where?",
        ),
        ("Where do the imported names come from?",),
        hints=("import ",),
    ),
    Schema(
        "constants",
        code.constants,
        (
            (("constant", "name of the constant, in capitals"), ("name", "name of the constant")),
            (("value", "its value as written"),),
        ),
        (
            "Which constants are defined, and what are their values?",
            "List the constants with their values.",
            "What is each constant set to?",
        ),
        ("Name every constant and the value given to it.",),
        hints=(" = ",),
    ),
    Schema(
        "defaults",
        code.defaults,
        (
            FUNCTION,
            (("parameter", "name of the parameter"),),
            (("default", "its default value as written"), ("value", "the default")),
        ),
        (
            "Which parameters have a default value?",
            "List the parameters with their defaults.",
            "What are the default values of the functions' parameters?",
        ),
        ("What does each optional parameter default to?",),
        hints=("=",),
    ),
    Schema(
        "annotations",
        code.return_types,
        (FUNCTION, (("returns", "its return annotation"), ("type", "the annotated return type"))),
        (
            "What type is each function annotated to return?",
            "List the functions with their return types.",
            "Which return annotations are there?",
        ),
        ("What do the functions return, going by their annotations?",),
        hints=("->", "def "),
    ),
    Schema(
        "attributes",
        code.attributes,
        (
            CLASS,
            (("attribute", "name of the attribute, without self"), ("field", "attribute that __init__ sets")),
        ),
        (
            "Which attributes does __init__ set?",
            "List the instance attributes that the constructor sets.",
            "What attributes does each class initialise?",
        ),
        ("Which fields get a value in the constructor?",),
        hints=("self.",),
    ),
    Schema(
        "returned",
        code.returned,
        (FUNCTION, (("value", "the literal that is returned"), ("constant", "the constant after return"))),
        (
            "Which functions return a constant, and which one?",
            "List the functions that return a literal value.",
            "Where is a constant such as None, True or a number returned?",
        ),
        ("Which literals are returned, and by which function?",),
        hints=("return ",),
    ),
    Schema(
        "yields",
        code.yields,
        (FUNCTION,),
        (
            "Which functions are generators?",
            "Which functions use yield?",
            "List the functions that yield values.",
        ),
        ("What are the generator functions?",),
        hints=("yield", "for "),
    ),
    Schema(
        "coroutines",
        code.awaits,
        (FUNCTION,),
        (
            "Which functions are coroutines?",
            "List the functions declared with async def.",
            "Which methods are asynchronous?",
        ),
        ("What coroutines are defined?",),
        hints=("async", "await"),
    ),
    Schema(
        "asserts",
        code.asserts,
        (FUNCTION, (("condition", "the condition as written"), ("claim", "what is asserted"))),
        (
            "Which conditions are asserted, and where?",
            "List the assert statements.",
            "What does each function assert?",
        ),
        ("Which assertions are made?",),
        hints=("assert", "if not"),
    ),
    Schema(
        "contexts",
        code.contexts,
        (FUNCTION, (("resource", "what the with statement opens, by name"),)),
        (),
        (
            "Which context managers are entered, and in which function?",
            "What is opened in a with statement, and where?",
        ),
        kept=True,
        hints=("with ",),
    ),
    Schema(
        "type_checks",
        code.type_checks,
        (FUNCTION, (("type", "the type that isinstance checks for"),)),
        (),
        (
            "Which types are checked with isinstance, and in which function?",
            "Where is isinstance used, and with which type?",
        ),
        kept=True,
        hints=("isinstance", "type("),
    ),
)

CALLED = [
    "len",
    "isinstance",
    "getattr",
    "setattr",
    "hasattr",
    "super",
    "int",
    "str",
    "open",
    "print",
    "sorted",
    "list",
    "tuple",
    "dict",
    "set",
    "next",
    "iter",
    "range",
    "enumerate",
    "zip",
    "min",
    "max",
    "sum",
    "any",
    "all",
    "repr",
    "type",
    "os.path.join",
    "os.fspath",
    "time.time",
    "warnings.warn",
    "re.compile",
    "sys.exit",
    "self.close",
    "self.write",
]
CALL_QUESTIONS = (
    "Which functions call {name}?",
    "Where is {name} called?",
    "List the functions that use {name}().",
)


def call_schema(name: str) -> Schema:
    """The question which functions call `name`."""
    questions = tuple(question.format(name=name) for question in CALL_QUESTIONS)
    return Schema(
        f"calls:{name}", code.calls_of(name), (FUNCTION,), questions, hints=(name.rpartition(".")[2],)
    )
