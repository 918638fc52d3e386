"""Reports of whole runs: they say what the log says, cites lead to their quotes, and text from outside stays text."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import apsw
import pytest

from swarm.coordinator import JobState
from swarm.corpus import pin, read_text
from swarm.events import Event, TaskFailed
from swarm.names import draft_name
from swarm.protocol import Material, NoteText, Part, Passage
from swarm.report import Answer, gather, write_report
from swarm.report.shapes import WITHDRAWN, Row, Sentence
from swarm.report.steps import steps
from swarm.report.texts import Texts
from swarm.spec import parse_spec
from swarm.store.folder import RunFolder
from swarm.store.sqlite import SqliteReader
from tests.sample_run import RAISES, Canned, HandDriven, finished

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>&\"'`|"


def answer_of(run: RunFolder) -> Answer:
    with SqliteReader.open(run.path) as reader:
        return gather(reader)


def written(run: RunFolder) -> dict[str, str]:
    with SqliteReader.open(run.path) as reader:
        return {name: (run.path / name).read_text(encoding="utf-8") for name in write_report(reader, run)}


class Elements(HTMLParser):
    """Collects what a browser would see: elements, ids, fragments that are linked, and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._inside:
            while self._inside.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._inside):
            self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return finished(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def page(run: RunFolder) -> Elements:
    return Elements(written(run)["report.html"])


def test_every_claim_cites_the_text_that_it_quotes(run: RunFolder) -> None:
    answer = answer_of(run)
    pinned = pin(parse_spec(RAISES).inputs)
    texts = {
        document.path: read_text(source) for source, document in zip(pinned.sources, pinned.documents, strict=True)
    }
    claims: list[Row | Sentence] = [*(answer.rows or ()), *answer.sentences]
    assert len(claims) > 10
    for claim in claims:
        assert claim.cites
        for cite in claim.cites:
            whole = texts[cite.document]
            assert whole[cite.start : cite.end] == cite.quote
            assert cite.line == whole.count("\n", 0, cite.start) + 1
            assert cite.quote in "\n".join(whole.split("\n")[cite.line - 1 : cite.last_line])


def test_references_in_the_page_lead_to_marked_quotes(run: RunFolder, page: Elements) -> None:
    ids = {attrs["id"] for _, attrs in page.elements if attrs.get("id")}
    links = [str(attrs["href"]) for tag, attrs in page.elements if tag == "a"]
    assert len(links) > 20
    assert {link.removeprefix("#") for link in links} <= ids
    marks = [attrs for tag, attrs in page.elements if tag == "mark"]
    assert {number for mark in marks for number in str(mark["data-c"]).split()} == {
        link.removeprefix("#c") for link in links if link.startswith("#c")
    }
    assert len([1 for tag, attrs in page.elements if attrs.get("class") == "passage"]) == len(
        {attrs["id"] for _, attrs in page.elements if attrs.get("class") == "passage"}
    )


def test_the_page_needs_nothing_but_itself(page: Elements) -> None:
    for tag, attrs in page.elements:
        assert tag not in {"link", "img", "iframe", "object", "form", "base"}
        assert "src" not in attrs and not any(name.startswith("on") for name in attrs)
    (policy,) = (attrs["content"] for tag, attrs in page.elements if attrs.get("http-equiv"))
    assert policy and "default-src 'none'" in policy and "script-src 'sha256-" in policy


def test_weights_go_by_their_name_with_the_digest_beside_it(run: RunFolder) -> None:
    (weights,) = answer_of(run).weights
    assert weights.label == "embedded SmolLM2-135M-Instruct + adapter reader"
    for text in (written(run)["report.html"], written(run)["report.md"]):
        plain = text.replace("\\", "")
        assert f"{weights.label} ({weights.name[:8]})" in plain, "beside each role"
        assert weights.name in plain, "in full among what the run was made of"


def test_what_the_blackboard_holds_is_said_in_nouns(page: Elements) -> None:
    assert re.search(r"holds \d+ notes \(.*\d+ refused rows?, .*\d+ sentences\) and \d+ edges", page.text)


def test_the_same_log_gives_the_same_files(run: RunFolder) -> None:
    first, again = written(run), written(run)
    assert first == again
    assert not [path for path in run.path.iterdir() if path.name.startswith(".")]


def test_a_report_clears_away_what_a_killed_writer_left(run: RunFolder) -> None:
    left, fresh, other = (run.path / draft_name(name) for name in ("answer.json", "answer.json", "spec.yaml"))
    for path in (left, fresh, other):
        path.write_text("{")
    for path in (left, other):
        os.utime(path, (1.0, 1.0))
    written(run)
    assert not left.exists(), "it is a report's, and nobody finishes it"
    assert fresh.exists() and other.exists()


def test_the_files_agree(run: RunFolder) -> None:
    files, answer = written(run), answer_of(run)
    plain = json.loads(files["answer.json"])
    assert plain["status"] == "done" and "statements" not in plain
    assert {"id", "rows", "coverage", "score", "tokens", "seconds", "cost"} <= set(plain)
    rows = list(csv.DictReader(files["rows.csv"].splitlines()))
    assert [(row["function"], row["exception"]) for row in rows] == [
        (row.values["function"], row.values["exception"]) for row in answer.rows or ()
    ]
    for number, cite in enumerate(answer.sentences[0].cites, 1):
        (line,) = re.findall(rf"^{number}\. (.*)$", files["report.md"].partition("## Sources")[2], re.M)
        assert f"{cite.document}:{cite.line}" in line and cite.quote[:30] in line


def test_what_was_refused_is_shown_with_its_reason(run: RunFolder, page: Elements) -> None:
    answer = answer_of(run)
    reasons = {one.reason for one in answer.unverified}
    assert "the quote does not stand in the passage" in reasons
    assert "the verifier found that the quote does not support it" in reasons
    assert any(one.kind == "sentence" for one in answer.unverified)
    for one in answer.unverified:
        assert one.text in page.text and one.reason in page.text
    assert not {one.text for one in answer.unverified if one.kind == "sentence"} & {s.text for s in answer.sentences}


def test_the_order_of_completion_does_not_show(tmp_path: Path) -> None:
    def plain(name: str, **work: Any) -> Any:
        driven = HandDriven.create(tmp_path / name)
        driven.canned = Canned(careless=False)  # a careless one errs on each fifth row that it writes
        driven.work(**work)
        driven.store.close()
        answer = answer_of(driven.run)
        rows = [(row.values, row.count, row.cites) for row in answer.rows or ()]
        return rows, [(one.text, one.cites) for one in answer.sentences], answer.score

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert plain("a") == plain("b", hosts=("host-1",), shuffle=lambda grants: grants[::-1])


def test_a_running_job_gives_a_marked_draft(tmp_path: Path) -> None:
    driven = HandDriven.create(tmp_path)
    driven.work(steps=110)
    files, answer = written(driven.run), answer_of(driven.run)
    driven.store.close()
    assert answer.draft and answer.status == "running" and answer.rows
    assert {one.reason for one in answer.unread} == {"not read yet"}
    assert files["report.md"].startswith("# DRAFT: ")
    assert "<title>Draft: " in files["report.html"] and "may still change" in files["report.html"]
    assert "Status: **running**" in files["report.md"] and "The job is running." in files["report.md"]
    left = written(driven.run)["report.md"]  # its process is gone
    assert "Status: **interrupted**" in left and "The job is interrupted." in left


def test_a_draft_can_be_written_before_anything_is_read(tmp_path: Path) -> None:
    driven = HandDriven.create(tmp_path)
    answer = answer_of(driven.run)
    assert answer.rows == () and answer.coverage.spans_read == 0 and answer.timeline.lanes == ()
    assert "No row was found so far" in written(driven.run)["report.html"]
    driven.store.close()


def test_a_job_stopped_by_its_budget_lists_what_it_did_not_read(tmp_path: Path) -> None:
    run = finished(tmp_path, {**RAISES, "budget": {"tokens": 30_000}})
    answer, files = answer_of(run), written(run)
    assert answer.status == "budget" and not answer.draft
    assert sum(one.spans for one in answer.unread) == answer.coverage.spans - answer.coverage.spans_read > 0
    assert {one.reason for one in answer.unread} == {"the budget of 30,000 tokens was reached first"}
    assert {one.document for one in answer.unread} >= {"json/tool.py", "json/scanner.py"}
    assert answer.tokens <= 30_000
    assert "Stopped by its budget" in files["report.html"] and "Stopped by its budget" in files["report.md"]


def test_a_passage_that_no_reader_managed_is_named(tmp_path: Path) -> None:
    answer = answer_of(finished(tmp_path, fail=(7, 8, 20)))
    assert [(one.first, one.last) for one in answer.unread] == [(7, 8), (20, 20)]
    assert "the output is no list of rows" in answer.unread[0].reason
    assert [one.role for one in answer.given_up] == ["reader"] * 3


class Older(SqliteReader):
    """Reads a log as versions before the plain word for it wrote what `malformed` is now."""

    def read(self, after: int = 0, upto: int | None = None) -> Iterator[Event]:
        for event in super().read(after, upto):
            if isinstance(event.body, TaskFailed) and event.body.kind == "malformed":
                event = replace(event, body=event.body.model_copy(update={"kind": "_Malformed"}))
            yield event


def test_no_name_of_a_class_stands_in_the_report_of_an_old_log(tmp_path: Path) -> None:
    run = finished(tmp_path, fail=(7, 8, 20))
    with Older.open(run.path) as reader:
        assert any(isinstance(event.body, TaskFailed) and event.body.kind == "_Malformed" for event in reader.read())
        files, failed = write_report(reader, run), [step for step in steps(reader) if step.failed]
    texts = [(run.path / name).read_text(encoding="utf-8") for name in files]
    assert not any("Malformed" in text for text in texts)
    assert all("given up (malformed): " in text for text in texts if "given up" in text)
    assert [step.outcome for step in failed] == ["malformed"] * 3


def test_an_error_and_its_cure_are_two_sentences(tmp_path: Path) -> None:
    run = finished(tmp_path, fail=(7,))
    said = "roles.reader: the output is no list of rows: I am sorry. Take a larger model"
    assert [one.reason for one in answer_of(run).given_up] == [said]
    assert all(said in Elements(text).text for name, text in written(run).items() if name.startswith("report."))


def test_a_report_of_a_job_that_read_nothing_does_not_say_that_all_is_in_it(tmp_path: Path) -> None:
    driven = HandDriven.create(tmp_path)
    driven.work(steps=0)
    driven.store.close()
    for name, text in written(driven.run).items():
        assert "Could not be verified" not in text and "Everything that was written down" not in text, name


def test_a_resumed_job_counts_its_sessions_and_not_the_time_between(tmp_path: Path) -> None:
    driven = HandDriven.create(tmp_path)
    driven.work(steps=50)
    driven = driven.reopen()  # an hour later
    driven.work()
    driven.store.close()
    answer = answer_of(driven.run)
    assert answer.provenance.sessions == 2 and "resumed" in [one.what for one in answer.timeline.moments]
    assert answer.seconds < 600
    assert sum(lane.tasks for lane in answer.timeline.lanes) > 134
    assert all(len(lane.busy) <= 97 for lane in answer.timeline.lanes)


def test_hostile_text_is_shown_and_never_run(tmp_path: Path) -> None:
    folder = tmp_path / f"in {HOSTILE.replace('/', '')}"
    folder.mkdir()
    (folder / "a.py").write_text(f"def f():\n    # {HOSTILE}\n    raise Bad('{HOSTILE}')  # \u202e\n", encoding="utf-8")
    spec = {**RAISES, "question": f"Which? {HOSTILE}", "inputs": [{"source": str(folder), "licence": HOSTILE}]}
    driven = HandDriven.create(tmp_path, spec)
    driven.canned = Canned(careless=False)
    driven.weights = f"declared:{HOSTILE}"
    driven.work()
    driven.store.close()
    files = written(driven.run)
    page = Elements(files["report.html"])
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert "img" not in [tag for tag, _ in page.elements]
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert HOSTILE in page.text and "\u202e" not in page.text
    outside_code = re.sub(r"(`+).*?\1", "", files["report.md"])
    assert "<script" not in outside_code and "<img" not in outside_code
    assert "declared, not verified" in page.text


def test_a_scripted_run_says_so_first(tmp_path: Path) -> None:
    driven = HandDriven.create(tmp_path)
    driven.weights = "scripted:regex"
    driven.work()
    driven.store.close()
    files = written(driven.run)
    assert "Scripted test run" in files["report.html"].partition("<main")[0]
    assert "Scripted test run" in files["report.md"].partition("## ")[0]


def test_withdrawn_texts_are_named_and_do_not_stop_a_report(tmp_path: Path) -> None:
    run = finished(tmp_path)
    whole = answer_of(run)
    assert whole.rows and whole.withdrawn == 0
    with SqliteReader.open(run.path) as reader:
        kept = {event.body.spec for event in reader.read(upto=1)}
    database = apsw.Connection(str(run.log))
    marks = ",".join("?" * len(kept))
    database.execute(f"DELETE FROM bodies WHERE hash NOT IN ({marks})", tuple(kept))
    database.close()
    files, answer = written(run), answer_of(run)
    assert answer.withdrawn > 20 and answer.rows and len(answer.rows) == len(whole.rows)
    assert answer.rows[0].values == {"function": WITHDRAWN, "exception": WITHDRAWN}
    assert answer.rows[0].cites[0].quote == WITHDRAWN and answer.rows[0].cites[0].line is None
    assert WITHDRAWN in files["report.html"] and "Text withdrawn" in files["report.md"]


def test_one_withdrawn_passage_leaves_the_rest_readable(run: RunFolder, tmp_path: Path) -> None:
    other = finished(tmp_path)
    row = (answer_of(other).rows or ())[-1]
    with SqliteReader.open(other.path) as reader:
        state = JobState()
        for event in reader.read():
            state.apply(event)
        digest = Texts(reader, state).span(row.cites[0].span).digest
    database = apsw.Connection(str(other.log))
    database.execute("DELETE FROM bodies WHERE hash = ?", (digest,))
    database.close()
    answer = answer_of(other)
    after = (answer.rows or ())[-1]
    assert answer.withdrawn == 1 and after.values == row.values and after.cites[0].quote == WITHDRAWN
    assert (answer.rows or ())[0].cites == (answer_of(run).rows or ())[0].cites
    assert WITHDRAWN in Elements(written(other)["report.html"]).text


class Essayist(Canned):
    """Answers in prose: the first line of each passage that speaks of raising."""

    def _read(self, passage: Passage) -> list[list[str]]:
        first = passage.text.strip().split("\n")[0]
        return [[f"It says {first!r}.", first[:60]]] if "raise" in passage.text else []

    def _holds(self, note: NoteText, passage: Passage) -> bool:
        return True


def test_statements_cite_and_say_when_a_model_worded_them(tmp_path: Path) -> None:
    spec = {**RAISES, "answer": {"statements": True, "gold": "ast:raises"}}
    driven = HandDriven.create(tmp_path, spec)
    driven.canned = Essayist()
    driven.work()
    driven.store.close()
    answer, files = answer_of(driven.run), written(driven.run)
    assert answer.rows is None and answer.statements
    verdicts = {(len(one.cites) > 1, one.verdict) for one in answer.statements}
    assert all(one.cites for one in answer.statements) and verdicts <= {(True, "reworded"), (False, "supported")}, verdicts
    assert answer.score and answer.score.problem == "statements in prose are not scored"
    assert json.loads(files["answer.json"])["statements"][0]["cites"]
    assert answer.statements[0].text in Elements(files["report.html"]).text


TOLD = ("Mars is red and cold.", "Venus is hot and bright.", "Saturn has wide rings.")


class Planets(Canned):
    """Tells each passage as it stands, and merges as it is told to."""

    def __init__(self, merged: list[list[Any]] | None = None) -> None:
        super().__init__()
        self.merged = merged

    def say(self, role: str, material: Material, parts: Sequence[Part]) -> str:
        if role == "reader":
            text = material.passages[0].text.strip()
            return json.dumps([[text, text] if self.merged is not None else [text.split()[0], text.split()[1], text]])
        return '"yes"' if role == "verifier" else json.dumps(self.merged or [])


def of_planets(folder: Path, answer: dict[str, Any], canned: Planets, verify: bool = True) -> HandDriven:
    protocol = {"name": "map_reduce", "options": {"verify": verify}}
    inputs = [f"text:{one}" for one in TOLD]
    driven = HandDriven.create(folder, {**RAISES, "inputs": inputs, "answer": answer, "protocol": protocol})
    driven.canned = canned
    return driven


PROSE: dict[str, Any] = {"statements": True}
PAIRS: dict[str, Any] = {"columns": {"planet": "its name", "verb": "what it does"}, "merge": "set"}


@pytest.mark.parametrize("status", ["cancelled", "failed"])
@pytest.mark.parametrize("verdict", ["supported", "unchecked"])
@pytest.mark.parametrize("answer", [PROSE, PAIRS], ids=["prose", "rows"])
def test_a_job_that_ended_before_its_merge_shows_what_it_had(
    tmp_path: Path, answer: dict[str, Any], verdict: str, status: str
) -> None:
    driven = of_planets(tmp_path, answer, Planets([] if answer is PROSE else None), verdict == "supported")
    while driven.state.board.count("row", verdict) < 2:
        driven.work(steps=1, hosts=["host-0"])
    draft = answer_of(driven.run)
    driven.append(driven.core.end(driven.now, status, "enough"))
    driven.store.close()
    ended, files = answer_of(driven.run), written(driven.run)
    claims = ended.rows if answer is PAIRS else ended.statements
    assert claims == (draft.rows if answer is PAIRS else draft.statements) and len(claims or ()) == 2
    assert {one.verdict for one in claims or ()} == {verdict} and not ended.left_out and not ended.unverified
    assert ended.unmerged and not draft.unmerged and not ended.draft
    for text in (files["report.md"], Elements(files["report.html"]).text):
        assert "until the job ended" in text and "the job ended before its reducer" in text
        assert "No row was found" not in text and "No statement was found" not in text
    assert len(files["rows.csv"].splitlines()) == 3


def test_what_was_verified_and_stands_in_no_statement_is_listed(tmp_path: Path) -> None:
    driven = of_planets(tmp_path, PROSE, Planets([[TOLD[0], [1]]]))
    driven.work()
    driven.store.close()
    answer, files = answer_of(driven.run), written(driven.run)
    assert [(one.text, one.verdict) for one in answer.statements or ()] == [(TOLD[0], "supported")]
    reason = "no statement of the answer rests on it"
    assert [(one.text, one.verdict, one.reason) for one in answer.left_out] == [
        (text, "supported", reason) for text in TOLD[1:]
    ]  # fmt: skip
    assert all(one.cites for one in answer.left_out) and not answer.unverified and not answer.unmerged
    assert json.loads(files["answer.json"])["left_out"][1]["text"] == TOLD[2]
    for text in (files["report.md"], Elements(files["report.html"]).text):
        assert "Left out of the answer" in text and TOLD[2] in text and reason in text
        assert "Everything that was written down" not in text


@pytest.mark.parametrize("verify", [True, False])
def test_rows_that_are_not_among_the_most_frequent_are_listed_and_not_scored(tmp_path: Path, verify: bool) -> None:
    (tmp_path / "gold.jsonl").write_text('{"planet": "Saturn", "verb": "has"}\n')
    kept = {**PAIRS, "merge": "top-k", "top": 1, "gold": str(tmp_path / "gold.jsonl")}
    driven = of_planets(tmp_path, kept, Planets(), verify)
    driven.work()
    driven.store.close()
    answer, files = answer_of(driven.run), written(driven.run)
    assert [row.values for row in answer.rows or ()] == [{"verb": "is", "count": "2"}]
    (left,) = answer.left_out
    assert (left.values["planet"], left.reason) == ("Saturn", "its verb is not among the 1 most frequent")
    assert not answer.unverified and "Everything that was written down" not in files["report.md"] + files["report.html"]
    assert answer.score and (answer.score.found_rows, answer.score.matched) == (2, 0)


def test_what_a_merge_joined_by_design_is_in_the_answer(tmp_path: Path) -> None:
    driven = of_planets(tmp_path, {**PAIRS, "merge": "count"}, Planets())
    driven.work()
    driven.store.close()
    answer, files = answer_of(driven.run), written(driven.run)
    assert len(answer.rows or ()) == 2 and not answer.left_out
    for name in ("report.md", "report.html"):
        assert "Everything that was written down is in the answer." in files[name] and "Left out of the answer" not in files[name]


def test_a_statement_is_not_supported_by_sources_that_say_something_else(tmp_path: Path) -> None:
    driven = of_planets(tmp_path, PROSE, Planets([[TOLD[0], [1, 2]], [TOLD[2], [3]]]))
    driven.work()
    driven.store.close()
    verdicts = {one.text: (len(one.cites), one.verdict) for one in answer_of(driven.run).statements or ()}
    assert verdicts == {TOLD[0]: (2, "reworded"), TOLD[2]: (1, "supported")}


def test_no_path_of_this_machine_stands_in_a_report(tmp_path: Path) -> None:
    for name in ("texts", "given"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(f"Mars is red in {name}.")
    (tmp_path / "b.txt").write_text("Venus is hot.")
    inputs = [str(tmp_path / "texts" / "*.txt"), str(tmp_path / "b.txt"), {"source": str(tmp_path / "given"), "origin": "/ours"}]
    driven = HandDriven.create(tmp_path / "runs", {**RAISES, "inputs": inputs})
    driven.store.close()
    assert [one.origin for one in answer_of(driven.run).provenance.sources] == ["texts/*.txt", "b.txt", "/ours"]
    assert not any(str(tmp_path) in text for text in written(driven.run).values())


def test_a_large_answer_keeps_its_page_small(run: RunFolder) -> None:
    answer = answer_of(run)
    size = len(written(run)["report.html"])
    shell = 60_000
    assert (size - shell) / len(answer.rows or ()) < 6_000  # 300 rows stay below 2 MB


def test_importing_reports_loads_no_model_and_no_ray() -> None:
    code = "import sys, swarm.report; print({'ray', 'torch', 'vllm', 'transformers'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
