"""Rows: found quotes, grounded values, honest sentences, outputs cut anywhere, exact merges."""

from __future__ import annotations

import json
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, strategies as st

from swarm.protocol import Failed, Passage, Post
from swarm.rows import (
    EXCERPT_AFTER,
    EXCERPT_BEFORE,
    EXCERPT_CHARACTERS,
    Cite,
    NotedRow,
    claim_text,
    columns_text,
    excerpt,
    find_quote,
    grounded,
    headlines,
    merge_rows,
    parsed,
    passage_parts,
    read_rows,
    rows_schema,
    stated,
)
from swarm.spec import AnswerSpec, Column

TEXT = "def get(self):\n    if not self.items:\n        raise QueueEmpty(self.names[0])\n    raise  QueueEmpty\n"
PASSAGE = Passage(7, "d", "queues.py", 100, TEXT, 40, "queues.py > Queue.get", True)
COLUMNS = (
    Column(name="function", description="its name"),
    Column(name="exception", description="its class", pattern=r"[A-Z]\w*", found_in="quote"),
)


def rows(*cells: list[Any], finish: str = "stop", pattern: str = "") -> tuple[Post, ...]:
    found = read_rows(PASSAGE, json.dumps(cells), finish, COLUMNS, pattern)
    assert not isinstance(found, Failed), found.reason
    return found


# ---- quotes ----


@pytest.mark.parametrize(
    ("quote", "place"),
    [
        ("if not self.items:", "if not self.items:"),
        ("raise QueueEmpty(self.names[0])", "raise QueueEmpty(self.names[0])"),
        ("  raise\n QueueEmpty(", "raise QueueEmpty("),
        ("items: raise", "items:\n        raise"),
        ("raise  QueueEmpty\n", "raise  QueueEmpty"),
        ("raise QueueFull", None),
        ("Raise QueueEmpty", None),
        ("", None),
        ("   ", None),
        ("raiseQueueEmpty", None),
        ("(", None),
        (":\n", None),
    ],
)
def test_a_quote_is_found_word_for_word_white_space_aside(quote: str, place: str | None) -> None:
    found = find_quote(TEXT, quote)
    assert (TEXT[slice(*found)] if found else None) == place


def test_a_quote_takes_the_next_free_place_and_shares_the_first_when_all_are_taken() -> None:
    text = "raise A\nraise A\nraise A"
    assert find_quote(text, "raise A") == (0, 7)
    assert find_quote(text, "raise A", [0]) == (8, 15)
    assert find_quote(text, "raise A", [0, 8]) == (16, 23)
    assert find_quote(text, "raise A", [0, 8, 16]) == (0, 7)


@given(st.lists(st.text("ab .", min_size=1, max_size=5), max_size=8), st.data())
def test_every_run_of_words_of_a_text_is_found_in_it(pieces: list[str], data: st.DataObject) -> None:
    words = [piece for piece in (part.strip() for part in pieces) if piece]
    text = "\n".join(words)
    first = data.draw(st.integers(0, len(words)))
    last = data.draw(st.integers(first, len(words)))
    quote = " ".join(" ".join(words[first:last]).split())
    found = find_quote(text, quote)
    assert (found is None) == (not quote.strip(" ."))
    if found:
        assert text[slice(*found)].split() == quote.split()
        assert not text[found[0]].isspace() and not text[found[1] - 1].isspace()


# ---- values ----


@pytest.mark.parametrize(
    ("value", "found_in", "stands"),
    [
        ("Queue.get", "passage", True),
        ("get", "passage", True),
        ("Queue", "passage", True),
        ("Queue.put", "passage", False),
        ("Que", "passage", False),
        ("self.names[0]", "passage", True),
        ("QueueEmpty", "quote", True),
        ("Queue", "quote", False),
        ("get", "quote", False),
        ("raise.QueueEmpty", "quote", True),
        (".QueueEmpty", "quote", False),
        ("no such thing", "anywhere", True),
    ],
)
def test_a_value_stands_as_a_whole_word_where_its_column_says(value: str, found_in: str, stands: bool) -> None:
    assert grounded(value, found_in, "raise QueueEmpty(self", PASSAGE) is stands


@pytest.mark.parametrize(
    ("sentence", "is_stated"),
    [
        ("Queue.get raises QueueEmpty.", True),
        ("The function Queue.get raises the exception QueueEmpty", True),
        ("Queue.get raises QueueEmpty and ValueError.", False),
        ("Queue.get raises QueueEmpty 3 times.", False),
        ("Queue.get raises.", False),
        ("Queue.get raises QueueEmptyError.", False),
        ("In Python, Queue.get raises QueueEmpty.", True),
        ("", False),
        ("  ", False),
    ],
)
def test_a_sentence_states_its_values_and_no_other_names(sentence: str, is_stated: bool) -> None:
    values = {"function": "Queue.get", "exception": "QueueEmpty"}
    assert stated(sentence, values, "Which function in Python raises which exception?") is is_stated


# ---- outputs ----


def test_a_good_row_is_cited_in_document_offsets_and_quoted_from_the_text() -> None:
    (row,) = rows(["Queue.get", "QueueEmpty", "raise   QueueEmpty(self.names[0])"])
    assert row.kind == "row" and row.content["values"] == {"function": "Queue.get", "exception": "QueueEmpty"}
    ((span, start, end),) = row.cites
    assert span == 7 and TEXT[start - 100 : end - 100] == row.content["quote"] == "raise QueueEmpty(self.names[0])"


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (["Queue.get", "QueueEmpty", "raise QueueFull"], "the quote does not stand in the passage"),
        (["Queue.get", "QueueEmpty", ""], "the quote does not stand in the passage"),
        (["Queue.get", "QueueEmpty", "if not self.items"], "the quote does not match"),
        (["Queue.put", "QueueEmpty", "raise QueueEmpty"], "function 'Queue.put' does not stand in the passage"),
        ([" ", "QueueEmpty", "raise QueueEmpty"], "function is empty"),
        (["get", "names", "raise QueueEmpty(self.names"], "exception 'names' does not match"),
        (["get", "Queue", "raise QueueEmpty"], "exception 'Queue' does not stand in the quote"),
    ],
)
def test_a_row_that_code_can_fault_is_kept_as_rejected_with_the_reason(cells: list[str], reason: str) -> None:
    (row,) = rows(cells, pattern=r"^raise\b")
    assert row.kind == "rejected" and reason in row.content["reason"]
    assert row.cites == ((7, 100, 100 + len(TEXT)),)


@pytest.mark.parametrize(("where", "pattern"), [("quote", r"^(a|a)+$"), ("column", r"(a|aa)+")])
def test_a_pattern_that_would_try_for_years_refuses_its_row(where: str, pattern: str) -> None:
    """On one loop with everything else: while it tried, no budget of seconds, no pause and no Ctrl-C would count."""
    text = "a" * 60 + "!"
    column = Column(name="word", description="a word", pattern=pattern if where == "column" else "")
    found = read_rows(
        Passage(0, "d", "d", 0, text, 20, "d", True),
        json.dumps([[text, text]]),
        "stop",
        [column],
        pattern if where == "quote" else "",
    )
    assert isinstance(found, tuple) and found[0].kind == "rejected"
    assert f"could not be matched with {pattern} in 1 s" in found[0].content["reason"]


def test_rows_that_say_the_same_are_one_and_equal_quotes_take_places_of_their_own() -> None:
    found = rows(
        ["get", "QueueEmpty", "raise QueueEmpty"],
        ["get", "QueueEmpty", "raise"],
        ["Queue.get", "QueueEmpty", "raise QueueEmpty"],
    )
    assert len(found) == 2 and found[0].cites != found[1].cites


@pytest.mark.parametrize(
    ("text", "finish"),
    [
        ("", "stop"), ("no JSON", "stop"), ("{}", "stop"), ('"x"', "stop"), ("null", "stop"), ("[1]", "stop"),
        ('[["a","b"]]', "stop"), ('[["a","b","c","d"]]', "stop"), ('[["a",1,"c"]]', "stop"), ('[["a","b","c"]', "stop"),
        ("", "length"), ("[", "length"), ('[["a","b', "length"), ('[["a","b"]', "length"), ("[" * 100_000, "stop"),
        ("[" * 3000 + "]", "length"), ('[["\ud800"', "stop"),
    ],
)  # fmt: skip
def test_an_output_that_is_no_list_of_rows_fails_its_attempt(text: str, finish: str) -> None:
    found = read_rows(PASSAGE, text, finish, COLUMNS, "")
    assert isinstance(found, Failed) and found.reason


def test_nothing_found_is_an_answer() -> None:
    assert read_rows(PASSAGE, "[]", "stop", COLUMNS, "") == () == read_rows(PASSAGE, "[]", "length", COLUMNS, "")


WHOLE = [
    ["Queue.get", "QueueEmpty", "raise QueueEmpty(self.names[0])"],
    ["get", "QueueEmpty", "raise QueueEmpty"],
    ["self.names[0]", "QueueEmpty", 'a "quote", [with], ["everything"]]'],
]


@pytest.mark.parametrize("length", range(len(json.dumps(WHOLE)) + 1))
def test_an_output_cut_anywhere_gives_exactly_the_rows_that_are_whole(length: int) -> None:
    text = json.dumps(WHOLE)[:length]
    ends = [len(json.dumps(WHOLE[:count])) - 1 for count in (1, 2, 3)]  # the outer bracket aside
    whole = sum(length >= end for end in ends)
    found = read_rows(PASSAGE, text, "length", COLUMNS, "")
    if not whole:
        assert isinstance(found, Failed)
    else:
        assert not isinstance(found, Failed)
        assert [tuple(row.content["values"].values()) for row in found] == [tuple(row[:2]) for row in WHOLE[:whole]]


@given(st.text('["],ab\\\n', max_size=30), st.sampled_from(["stop", "length"]))
def test_no_output_whatever_raises(text: str, finish: str) -> None:
    found = read_rows(PASSAGE, text, finish, COLUMNS, "")
    assert isinstance(found, Failed) or all(post.kind in ("row", "rejected") for post in found)


def test_parsed_says_none_where_there_is_no_json() -> None:
    assert [parsed(text) for text in ("[1]", "[1", "", "[" * 100_000)] == [[1], None, None, None]


# ---- text forms ----


def test_the_forms_that_prompts_and_training_share() -> None:
    schema = "Columns: function = its name; exception = its class; quote = words copied from the passage that show it\n"
    assert columns_text(COLUMNS) == schema
    assert claim_text({"function": "get", "exception": "E"}) == "function = get; exception = E"
    assert rows_schema(2)["items"]["minItems"] == rows_schema(2)["items"]["maxItems"] == 3
    breadcrumb, span = passage_parts(PASSAGE)
    assert (breadcrumb.text, breadcrumb.trust, breadcrumb.origin) == (
        "Passage: queues.py > Queue.get\n",
        "corpus",
        "s:7",
    )
    assert (span.text, span.trust, span.tokens, span.train) == (TEXT, "corpus", 40, True)


@given(st.lists(st.text("abc \n", max_size=300), max_size=30), st.data())
def test_an_excerpt_holds_its_quote_and_stays_within_its_bounds(pieces: list[str], data: st.DataObject) -> None:
    text = "\n".join(pieces)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 120)))
    around = excerpt(text, start, end)
    assert text[start:end] in around and around in text
    assert len(around) <= max(2 * EXCERPT_CHARACTERS, EXCERPT_CHARACTERS + end - start)
    assert around.count("\n") <= EXCERPT_BEFORE + EXCERPT_AFTER + text.count("\n", start, end)


def test_an_excerpt_of_short_lines_is_what_stands_around() -> None:
    lines = [f"line {number}" for number in range(40)]
    text = "\n".join(lines)
    at = text.index("line 20")
    assert excerpt(text, at, at + 7).split("\n") == lines[20 - EXCERPT_BEFORE : 21 + EXCERPT_AFTER]


def test_an_excerpt_of_one_very_long_line_is_what_stands_beside_the_quote() -> None:
    text = "".join(f"word {number} " for number in range(4000))
    at = text.index("word 2000")
    assert excerpt(text, at, at + 9) == text[at - EXCERPT_CHARACTERS // 2 : at + 9 + EXCERPT_CHARACTERS // 2]


# ---- merges ----

ANSWER = AnswerSpec(columns=COLUMNS, by="exception")
NOTED: list[NotedRow] = [
    ("n1", {"function": "b", "exception": "V"}, ((0, 0, 5),)),
    ("n2", {"function": "a", "exception": "K"}, ((1, 0, 5),)),
    ("n3", {"function": "b", "exception": "V"}, ((2, 0, 5),)),
    ("n4", {"function": "c", "exception": "K"}, ((3, 0, 5),)),
    ("n5", {"function": "a", "exception": "O"}, ((4, 0, 5), (5, 1, 2))),
    ("n6", {"function": "d", "exception": "K"}, ((6, 0, 5),)),
]


def merged(merge: str, rows: list[NotedRow] = NOTED, **changes: Any) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    found = merge_rows(rows, ANSWER.model_copy(update=changes), merge)
    return [(tuple(one.values.values()), one.rows) for one in found]


def test_set_keeps_each_distinct_row_in_the_order_of_the_text() -> None:
    assert merged("set") == [(("b", "V"), ("n1", "n3")), (("a", "K"), ("n2",)), (("c", "K"), ("n4",)),
                             (("a", "O"), ("n5",)), (("d", "K"), ("n6",))]  # fmt: skip
    assert merge_rows(NOTED, ANSWER, "set")[0].cites == ((0, 0, 5), (2, 0, 5))


def test_a_key_makes_rows_one_that_differ_elsewhere() -> None:
    assert merged("set", key=("exception",)) == [
        (("b", "V"), ("n1", "n3")), (("a, c, d", "K"), ("n2", "n4", "n6")), (("a", "O"), ("n5",)),
    ]  # fmt: skip


def test_group_puts_rows_of_a_value_together() -> None:
    assert [values for values, _ in merged("group")] == [("b", "V"), ("a", "K"), ("c", "K"), ("d", "K"), ("a", "O")]
    assert [values for values, _ in merged("group", by="function")][:2] == [("b", "V"), ("a", "K")]


def test_count_counts_distinct_rows_and_rests_on_all_of_them() -> None:
    assert merged("count") == [(("V", "1"), ("n1", "n3")), (("K", "3"), ("n2", "n4", "n6")), (("O", "1"), ("n5",))]


def test_top_k_is_the_most_frequent_first_and_ties_by_the_text() -> None:
    assert [values for values, _ in merged("top-k", top=2)] == [("K", "3"), ("V", "1")]
    assert [values for values, _ in merged("top-k", by="function", top=9)] == [
        ("a", "2"), ("b", "1"), ("c", "1"), ("d", "1"),
    ]  # fmt: skip


def test_join_gives_one_row_a_value_with_the_others_values_joined() -> None:
    assert [values for values, _ in merged("join")] == [("b", "V"), ("a, c, d", "K"), ("a", "O")]
    assert merged("join", by="function")[1] == (("a", "K, O"), ("n2", "n5"))


def test_the_last_column_is_what_is_counted_unless_said() -> None:
    assert merged("count", by="") == merged("count", by="exception")


@pytest.mark.parametrize(
    ("merge", "wanted"),
    [
        ("count", [("KeyError", "1"), ("ValueError", "2")]),
        ("top-k", [("ValueError", "2"), ("KeyError", "1")]),
        ("join", [("f", "KeyError"), ("f, g", "ValueError")]),
    ],
)
def test_a_key_that_leaves_out_what_is_counted_by_does_not_run_its_values_together(
    merge: str, wanted: list[tuple[str, ...]]
) -> None:
    rows: list[NotedRow] = [
        ("a", {"function": "f", "exception": "KeyError"}, ((0, 0, 1),)),
        ("b", {"function": "f", "exception": "ValueError"}, ((0, 2, 3),)),
        ("c", {"function": "g", "exception": "ValueError"}, ((1, 0, 1),)),
    ]
    assert [values for values, _ in merged(merge, rows, key=("function",))] == wanted


def test_headlines_count_the_places_that_are_quoted() -> None:
    assert [one.values for one in headlines(NOTED, ANSWER, 1)] == [{"exception": "K", "count": "3"}]
    found = headlines(NOTED, ANSWER, 3)
    assert [one.values["count"] for one in found] == [str(len(one.cites)) for one in found] == ["3", "2", "2"]
    assert headlines([], ANSWER, 3) == [] == headlines(NOTED, ANSWER, 0)


ROWS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("XYZ"), st.integers(0, 3), st.integers(0, 3)),
    max_size=8,
    unique=True,
)


@given(ROWS, st.sampled_from(["set", "count", "group", "top-k", "join"]), st.randoms())
def test_the_order_in_which_rows_were_found_never_shows(found: list[Any], merge: str, random: Any) -> None:
    """The board sorts by the text; whatever order tasks end in, the merge gets the same rows in the same order."""
    noted: list[NotedRow] = [
        (f"n{at}", {"function": function, "exception": name}, ((span, start, start + 1),))
        for at, (function, name, span, start) in enumerate(found)
    ]

    def position(row: NotedRow) -> tuple[tuple[Cite, ...], str]:
        return row[2], row[0]

    shuffled = list(noted)
    random.shuffle(shuffled)
    assert merge_rows(sorted(shuffled, key=position), ANSWER, merge) == merge_rows(sorted(noted, key=position), ANSWER, merge)


@given(ROWS, st.sampled_from(["set", "count", "group", "join"]))
def test_no_row_is_lost_and_none_counted_twice(found: list[Any], merge: str) -> None:
    noted: list[NotedRow] = [
        (f"n{at}", {"function": function, "exception": name}, ((span, start, start + 1),))
        for at, (function, name, span, start) in enumerate(found)
    ]
    out = merge_rows(noted, ANSWER, merge)
    assert sorted(id for one in out for id in one.rows) == sorted(id for id, _, _ in noted)
    assert sorted(cite for one in out for cite in one.cites) == sorted(cite for _, _, cites in noted for cite in cites)
    if merge == "count":
        assert sum(int(one.values["count"]) for one in out) == len({(f, n) for f, n, _, _ in found})


def test_values_and_order_of_sets_do_not_depend_on_the_order_of_equal_rows() -> None:
    sets = {tuple(values for values, _ in merged("count", list(order))) for order in permutations(NOTED[:4])}
    assert {frozenset(one) for one in sets} == {frozenset({("V", "1"), ("K", "2")})}


def test_a_quote_whose_end_slipped_is_cut_back_to_what_stands_in_the_text() -> None:
    text = '    raise CompressionError("zlib module is not available") from None'
    slipped = 'raise CompressionError("zlib module is not aval'
    found = find_quote(text, slipped)
    assert found is not None and text[slice(*found)] == 'raise CompressionError("zlib module is not'
    assert find_quote(text, 'raise ValueError("zlib') is None, "one word is not enough to know the place by"
    assert find_quote(text, "of course not") is None
    text = "It is a value of 15 volts, and an end."
    assert find_quote(text, "It is of") is None and find_quote(text, "It is a vial") is None, "two short words are not either"
    assert find_quote(text, "It is a value of 15 amps") == (0, 19)
    assert find_quote(text, "It is a value of 15 kilowatts, as I said") is None, "what was made up is more than a slip"


def test_a_row_that_was_refused_may_come_again_with_a_good_quote() -> None:
    columns = (Column(name="word", description="a word"),)
    place = Passage(0, "d", "a.txt", 0, "the word stands here", 4, "a.txt", True)
    said = '[["word","not there at all"],["word","the word stands"],["word","stands here"]]'
    notes = read_rows(place, said, "stop", columns, "")
    assert isinstance(notes, tuple) and [note.kind for note in notes] == ["rejected", "row"]


def test_each_quote_of_a_row_is_a_note_of_its_own_to_be_judged() -> None:
    columns = (Column(name="error", description="its class", found_in="quote"),)
    text = "raise E(1)\nraise E(2)\nraise F(3)\nraise E(4)\n"
    place = Passage(5, "d", "a.py", 100, text, 9, "a.py", True)
    quotes = ["raise E(1)", "raise E(2)", "raise E(1)", "raise E(4)", "raise F(3)"]
    said = json.dumps([*(["E", quote] for quote in quotes), ["F", "raise F(3)"]])
    notes = read_rows(place, said, "stop", columns, "")
    assert isinstance(notes, tuple)
    assert [(note.kind, note.content["values"], note.cites) for note in notes] == [
        ("row", {"error": "E"}, ((5, 100, 110),)),
        ("row", {"error": "F"}, ((5, 122, 132),)),
        ("row", {"error": "E"}, ((5, 111, 121),)),
        ("row", {"error": "E"}, ((5, 133, 143),)),
        ("rejected", {"error": "E"}, ((5, 100, 100 + len(text)),)),
    ]


def test_a_quote_ends_with_its_line_however_lines_end() -> None:
    columns = (Column(name="name", description="a name"),)
    for end in ("\n", "\r\n", "\r"):
        text = f"def f():{end}    raise KeyError(name){end}def g():{end}"
        notes = read_rows(Passage(0, "d", "a.py", 0, text, 4, "a.py", True), '[["f","raise KeyError"]]', "stop", columns, "")
        assert isinstance(notes, tuple) and notes[0].content["quote"] == "raise KeyError(name)"
    long = "f may raise KeyError" + " and more" * 20
    notes = read_rows(Passage(0, "d", "a.txt", 0, long, 4, "a.txt", True), '[["f","raise KeyError"]]', "stop", columns, "")
    assert isinstance(notes, tuple) and notes[0].content["quote"] == "raise KeyError", "the end of such a line is far off"


@pytest.mark.parametrize(
    ("quote", "stands"), [("e", False), ("tands", False), ("the", True), ("th", False), ("word stan", False)]
)
def test_a_piece_of_a_word_is_no_evidence(quote: str, stands: bool) -> None:
    assert (find_quote("the word stands here", quote) is not None) == stands


def test_text_without_spaces_between_words_can_be_quoted_and_holds_its_values() -> None:
    text = "函数读取文件时会抛出错误。関数はエラーを返す。"
    for quote in ("会抛出错误", "エラーを返す"):
        found = find_quote(text, quote)
        assert found is not None and text[slice(*found)] == quote
    column = (Column(name="error", description="what is thrown", found_in="quote"),)
    place = Passage(0, "d", "a.txt", 0, text, 9, "a.txt", True)
    notes = read_rows(place, '[["错误","会抛出错误"]]', "stop", column, "")
    assert isinstance(notes, tuple) and [note.kind for note in notes] == ["row"]
    assert find_quote("Who agrees? 👍", "👍") == (12, 13) and find_quote("Who agrees? 👍", "?") is None
    assert find_quote("réception", "cept") is None and find_quote("получение", "луч") is None


def test_rows_of_one_key_show_every_value_that_their_quotes_support() -> None:
    answer = AnswerSpec.model_validate({"columns": {"function": "f", "exception": "e"}, "key": ["exception"]})
    rows: list[NotedRow] = [
        ("a", {"function": "get", "exception": "Empty"}, ((0, 0, 1),)),
        ("b", {"function": "put", "exception": "Full"}, ((0, 2, 3),)),
        ("c", {"function": "peek", "exception": "Empty"}, ((1, 0, 1),)),
    ]
    merged = merge_rows(rows, answer, "set")
    assert [one.values["function"] for one in merged] == ["get, peek", "put"]
    assert merged[0].rows == ("a", "c")


def test_a_quote_is_found_letter_by_letter_before_it_is_found_by_its_words() -> None:
    text = "May raise\n    KeyError.\n    raise KeyError(name)\n"
    at = find_quote(text, "raise KeyError")
    assert at == (text.rindex("raise"), text.rindex("raise") + len("raise KeyError"))
    assert find_quote(text, "raise KeyError", [at[0]]) == (text.index("raise"), text.index("raise") + 18)
