"""Questions about things that were never asked about before: what documents speak of is invented for each group.

Owns the invention: of subjects with their facts, of deeds with who, what, when and where, and of the lines, tables and
sentences that tell of them. A reader that has seen a few kinds of question only learns these by heart and answers any
other with nothing; here the question and the columns are all there is to go by.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from swarm.learn.data.examples import Columns, Example, reader_example
from swarm.learn.data.records import VALUES

WORDS: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
SIZE = 4
FILLED = 0.35
QUOTE_LIMIT = 60
UNKNOWN = ("The {0} of {1} is not known.", "{1}: no {0} given.", "{1} | {0} | -", "Nobody noted the {0} of {1} yet.")
UNDONE = ("{0} did not {1} {2}.", "No {3} of {2} so far.", "{0} may {1} {2} one day.", "{2}: {3} refused")
Facts = list[tuple[str, str]]
"""(what it is called, value) in the order of writing."""
Form = Callable[[Facts], str]


@dataclass(frozen=True)
class Story:
    """What the passages of one group may tell.

    `fields` maps each field to the kinds of its value; `labels` is what documents call it, `names` and `descriptions`
    what a schema may. A passage answers when it tells a record whose `condition` holds.
    """

    noun: str
    fields: dict[str, str]
    labels: dict[str, str]
    names: dict[str, list[str]]
    descriptions: dict[str, list[str]]
    asked: tuple[str, ...]
    question: str
    deed: tuple[str, str, str] = ("", "", "")
    condition: tuple[str, str] = ("", "")
    """The state that is asked for, and the other one."""


def invented_group(random_: random.Random) -> list[Example]:
    """Some passages with one invented question, half of them with rows."""
    draw = random_.random()
    tell = _deed if draw < 0.45 else _facts
    story = tell(random_)
    pick = random_.choice
    columns: Columns = tuple((pick(story.names[name]), pick(story.descriptions[name])) for name in story.asked)
    if len(dict(columns)) < len(columns):
        columns = tuple((name, description) for name, (_, description) in zip(story.asked, columns, strict=True))
    layout = _layout(story, random_)
    examples = []
    for at in range(SIZE):
        empty = random_.random() >= FILLED if at else False
        other = tell(random_) if empty and random_.random() < 0.25 else story
        other = story if other.noun == story.noun else other
        text, rows = _passage(story, other, _layout(other, random_) if other is not story else layout, empty, random_)
        path = f"{_word(random_)}/{other.noun.replace(' ', '_')}s.{random_.choice(('txt', 'md', 'csv', 'log', 'html'))}"
        examples.append(reader_example("invented", story.noun, story.question, columns, path, text, rows))
    random_.shuffle(examples)
    return examples


# ---- what is told ----


def _facts(r: random.Random) -> Story:
    """Subjects with facts: `The price of Tamka is 31.20`."""
    kinds = r.sample(list(WORDS["labels"]), 5)
    labels = {f"f{at}": r.choice(WORDS["labels"][kind]) for at, kind in enumerate(kinds)}
    labels = {name: label for at, (name, label) in enumerate(labels.items()) if label not in list(labels.values())[:at]}
    known = r.random() < 0.5
    subject_kind = r.choice(list(WORDS["subjects"])) if known else "name"
    noun = r.choice(WORDS["subjects"][subject_kind] if known else WORDS["entities"])
    fields = {"entity": subject_kind} | {name: kinds[int(name[1:])] for name in labels}
    labels["entity"] = noun
    facts = [name for name in fields if name != "entity"][: r.choice((1, 1, 1, 2))]
    condition = ("", "")
    if r.random() < 0.25:
        pair = r.choice(WORDS["status"])
        condition = (pair[0], pair[1]) if r.random() < 0.5 else (pair[1], pair[0])
    asked = [*(["entity"] if r.random() < 0.9 or condition[0] else []), *facts]
    if condition[0] and r.random() < 0.4:
        asked = ["entity"]
    if r.random() < 0.2:
        r.shuffle(asked)
    listed = " and ".join(labels[name] for name in asked if name != "entity") or "name"
    wording = r.choice(WORDS["questions"]["status" if condition[0] else "facts"])
    question = wording.format(first=labels[facts[0]], columns=listed, entity=noun, status=condition[0])
    told = WORDS["descriptions"]
    descriptions = {name: [d.format(name=labels[name], entity=noun) for d in told["fact"]] for name in fields}
    descriptions["entity"] = [d.format(entity=noun) for d in told["entity"]]
    names = {name: [labels[name]] for name in fields} | {"entity": [noun, "name", noun]}
    return Story(noun, fields, labels, names, descriptions, tuple(asked), question, condition=condition)


def _deed(r: random.Random) -> Story:
    """Somebody did something: `Ada Ito repaired the pump on 2024-03-01 in Oslo`."""
    base, past, noun, objects, kinds = r.choice(WORDS["deeds"])
    thing = r.choice(objects)
    fields = {"agent": r.choice(WORDS["agents"]), "object": r.choice(kinds)}
    extras = r.sample(["date", "place", "amount"], r.choice((0, 1, 1, 2)))
    fields |= {name: {"date": "date", "place": "city", "amount": "amount"}[name] for name in extras}
    wordings = [asked for asked in WORDS["questions"]["deeds"] if set(asked.split()) <= set(fields)]
    asked = r.choice(wordings)
    question = r.choice(WORDS["questions"]["deeds"][asked]).format(base=base, past=past, noun=noun, object=thing)
    order = asked.split()
    if r.random() < 0.2:
        r.shuffle(order)
    labels = {"agent": r.choice(("by", "who", "agent", "name")), "object": thing} | {name: name for name in extras}
    names = {name: [*WORDS["names"][name], labels[name]] for name in fields}
    told = WORDS["descriptions"]
    descriptions = {name: [d.format(past=past, noun=noun, object=thing) for d in told[name]] for name in fields}
    return Story(noun, fields, labels, names, descriptions, tuple(order), question, (base, past, noun))


# ---- how it is written ----


def _layout(story: Story, r: random.Random) -> tuple[str, Callable[[dict[str, str], str, random.Random], str]]:
    """A first line, if there is one, and how the lines of one passage are written: of given values, in a given state."""
    written = list(story.fields)[: r.choice((2, 3, 3, 4, 6))]
    written += [name for name in story.asked if name not in written]
    if r.random() < 0.4:
        r.shuffle(written)
    form = r.choice(SENTENCES if story.deed[0] else STATEMENTS) if r.random() < 0.6 else r.choice(TABLES)
    state = r.choice(("{line}, {state}", "[{state}] {line}", "{line} ({state})", "{state}: {line}", "{line} | {state}"))
    verb = r.choice(("{past}", "{past}", "{noun}", "{PAST}"))
    mark = r.choice(("{deed}: {line}", "[{deed}] {line}", "{line} | {deed}", "{deed} {line}"))

    def line(values: dict[str, str], which: str, r: random.Random) -> str:
        facts = [(story.labels[name], values[name]) for name in written]
        if not story.deed[0]:
            others = [fact for fact in facts if fact[1] != values["entity"]]
            text = form(facts if form in TABLES else [("", values["entity"]), *others])
            return state.format(line=text, state=which) if which else text
        base, past, noun = which.split("|")
        if form in TABLES:
            deed = verb.format(past=past, noun=noun, PAST=past.upper())
            return mark.format(deed=deed, line=form(facts))
        return form([("base", base), ("past", past), ("noun", noun), *values.items()])

    head = ""
    bare = form in (TABLES[0], TABLES[1], TABLES[2], TABLES[8], TABLES[9])
    if bare and not story.deed[0] and not story.condition[0] and (len(written) > 2 or r.random() < 0.5):
        head = form([(label, label) for label in (story.labels[name] for name in written)])
    elif r.random() < 0.25:
        head = r.choice(("# {0}s", "{0}s", "== {0}s ==", "{0}s, {1}")).format(story.noun, VALUES["code"](r))
    return head, line


TABLES: tuple[Form, ...] = (
    lambda facts: ",".join(value for _, value in facts),
    lambda facts: "| " + " | ".join(value for _, value in facts) + " |",
    lambda facts: ";".join(value for _, value in facts),
    lambda facts: " ".join(f"{name}={value}" for name, value in facts),
    lambda facts: ", ".join(f"{name}: {value}" for name, value in facts),
    lambda facts: json.dumps(dict(facts)),
    lambda facts: "- " + "; ".join(f"{name} {value}" for name, value in facts),
    lambda facts: " / ".join(f"{name} {value}" for name, value in facts),
    lambda facts: "<tr>" + "".join(f"<td>{value}</td>" for _, value in facts) + "</tr>",
    lambda facts: " - ".join(value for _, value in facts),
)
STATEMENTS: tuple[Form, ...] = (
    lambda f: f"The {_and([f'{name} of {f[0][1]} is {value}' for name, value in f[1:]])}." if f[1:] else f"{f[0][1]}.",
    lambda f: f"{f[0][1]} has {_and([f'{name} {value}' for name, value in f[1:]])}." if f[1:] else f"There is {f[0][1]}.",
    lambda f: f"{f[0][1]} ({', '.join(f'{name} {value}' for name, value in f[1:])})" if f[1:] else f"* {f[0][1]}",
    lambda f: f"- {f[0][1]}: {', '.join(f'{name} = {value}' for name, value in f[1:])}" if f[1:] else f"- {f[0][1]}",
    lambda f: f"With {_and([f'{value} as its {name}' for name, value in f[1:]])}, {f[0][1]} was listed." if f[1:] else f[0][1],
    lambda f: "; ".join([f[0][1], *(f"{name}: {value}" for name, value in f[1:])]),
    lambda f: " | ".join([f[0][1], *(f"{name} {value}" for name, value in f[1:])]),
    lambda f: f"{f[0][1]}'s {_and([f'{name} is {value}' for name, value in f[1:]])}." if f[1:] else f"We saw {f[0][1]}.",
)


def _clauses(d: dict[str, str]) -> str:
    """When, where and for how much, as far as it is told."""
    said = [f" {word} {d[name]}" for name, word in (("date", "on"), ("place", "in"), ("amount", "for")) if name in d]
    return "".join(said)


def _rest(d: dict[str, str]) -> str:
    return " ".join(d[name] for name in ("date", "place", "amount") if name in d)


SENTENCES: tuple[Form, ...] = (
    lambda f: (lambda d: f"{d['agent']} {d['past']} {d['object']}{_clauses(d)}.")(dict(f)),
    lambda f: (lambda d: f"{d['object']} was {d['past']} by {d['agent']}{_clauses(d)}.")(dict(f)),
    lambda f: (lambda d: f"{d['noun'].capitalize()} of {d['object']} by {d['agent']}{_clauses(d)}")(dict(f)),
    lambda f: (lambda d: f"{d['agent']} {d['past']}{_clauses(d)}: {d['object']}")(dict(f)),
    lambda f: (lambda d: f"* {d['object']}, {d['past']}{_clauses(d)} ({d['agent']})")(dict(f)),
    lambda f: (lambda d: f"{d['past'].upper()} {d['object']} {d['agent']} {_rest(d)}".rstrip())(dict(f)),
    lambda f: (lambda d: f"{_rest(d)} {d['object']} {d['past']} {d['agent']}".lstrip())(dict(f)),
    lambda f: (lambda d: f"It was {d['agent']} who {d['past']} {d['object']}{_clauses(d)}.")(dict(f)),
)


def _passage(
    story: Story, told: Story, layout: tuple[str, Callable[..., str]], empty: bool, r: random.Random
) -> tuple[str, list[tuple[str, ...]]]:
    """A text and the rows that it holds. Without any, it tells of other deeds or states, or of something else."""
    head, write = layout
    answering = 0 if empty else r.choice((1, 1, 1, 2, 2, 3))
    kinds = [True] * answering + [False] * r.randint(2 if empty else 0, 3)
    r.shuffle(kinds)
    lines = [head] if head else []
    rows: dict[tuple[str, ...], tuple[str, ...]] = {}
    tellable = told is not story or bool(story.deed[0]) or bool(story.condition[0])
    for answers in kinds:
        if not answers and (not tellable or r.random() < 0.3):
            lines.append(_other(story, r))
            continue
        values = {name: _value(kind, r) for name, kind in told.fields.items()}
        line = write(values, _which(told, answers or told is not story, r), r)
        lines.append(line)
        if answers:
            row = tuple(values[name] for name in story.asked)
            rows.setdefault(row, (*row, line[:QUOTE_LIMIT].rstrip()))
    return "\n".join(lines), list(rows.values())


def _which(story: Story, right: bool, r: random.Random) -> str:
    """The deed or state that a line tells: the one asked for, or another."""
    if story.deed[0]:
        other = r.choice([one for one in WORDS["deeds"] if one[1] != story.deed[1]])
        return "|".join(story.deed if right else other[:3])
    return story.condition[0 if right else 1]


def _other(story: Story, r: random.Random) -> str:
    """A line that answers nothing: of something else, or that says that nothing is known."""
    if r.random() < 0.4 and not story.deed[0]:
        label = story.labels[r.choice([name for name in story.fields if name != "entity"])]
        return str(r.choice(UNKNOWN).format(label, _value(story.fields["entity"], r)))
    if r.random() < 0.4 and story.deed[0]:
        base, _, noun = story.deed
        who, what = _value(story.fields["agent"], r), _value(story.fields["object"], r)
        return str(r.choice(UNDONE).format(who, base, what, noun))
    form = r.choice(WORDS["others"])
    return str(form.format(**{kind: draw(r) for kind, draw in VALUES.items()}))


# ---- values ----


def _value(kind: str, r: random.Random) -> str:
    match kind:
        case "word" | "name":
            return _word(r).capitalize() if r.random() < 0.7 or kind == "name" else _word(r)
        case "words":
            return f"{_word(r)} {_word(r)}"
        case "length":
            return f"{r.randint(2, 900)} {r.choice(('m', 'cm', 'km'))}"
        case "mass":
            return f"{r.randint(2, 900)} {r.choice(('kg', 'g', 't'))}"
        case "person" if r.random() < 0.4:
            return f"{_word(r).capitalize()} {_word(r).capitalize()}"
        case "city" | "firm" if r.random() < 0.4:
            return _word(r).capitalize()
        case _:
            return VALUES[kind](r)


def _word(r: random.Random) -> str:
    return "".join(r.choice(WORDS["syllables"]) for _ in range(r.choice((2, 2, 3))))


def _and(parts: list[str]) -> str:
    return " and ".join(parts)
