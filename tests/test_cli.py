"""Every verb, over one finished run: what people read, and the one document that programs get."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from swarm import __version__
from swarm.cli.runs import _table
from swarm.errors import SwarmError, on_a_line
from swarm.names import LARGEST, counted
from swarm.report import gather
from swarm.report.write import rows_csv
from swarm.store.folder import RunStatus
from swarm.store.sqlite import SqliteReader
from tests.commands import ROOT, Said, job_file, start, swarm
from tests.jobs import ROWS, write_sources


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sources, a job file, and one finished run called `first` under `runs`."""
    folder = tmp_path_factory.mktemp("cli")
    path = job_file(folder, write_sources(folder, copies=2))
    said = swarm("run", path, "--local", "--runs", folder / "runs", "--id", "first", "--json")
    assert said.code == 0, said.err
    (folder / "said.json").write_text(said.out)
    (folder / "said.txt").write_text(said.err)
    return folder


def over(place: Path, verb: str, *arguments: object) -> Said:
    said = swarm(verb, *arguments, "--runs", place / "runs")
    assert said.code == 0, said.err
    return said


def test_a_run_prints_one_document_and_leaves_its_files(place: Path) -> None:
    document = json.loads((place / "said.json").read_text())
    assert document["status"] == "done" and document["id"] == "first"
    found = {(row["values"]["function"], row["values"]["exception"]) for row in document["rows"]}
    assert found == set(ROWS) and all(row["cites"] for row in document["rows"])
    written = json.loads((place / "runs" / "first" / "answer.json").read_text())
    assert {key: document[key] for key in written} == written
    for name in ("report.md", "report.html", "spec.yaml", "rows.csv"):
        assert (place / "runs" / "first" / name).stat().st_size


def test_a_run_says_its_plan_before_and_how_far_off_it_was_after(place: Path) -> None:
    text = (place / "said.txt").read_text()
    assert text.index("plan: ") < text.index("run first in ") < text.index("against the plan: ")
    assert "2 documents" in text and "report.html" in text


def test_people_get_the_same_without_json(place: Path) -> None:
    said = swarm("run", place / "job.yaml", "--local", "--runs", place / "others")
    assert said.code == 0 and "answer: " in said.err and said.out == ""


def test_list_and_status(place: Path) -> None:
    assert "first" in over(place, "list").out and "done" in over(place, "list").out
    (one,) = over(place, "list", "--json").document
    assert one["id"] == "first" and one["status"] == "done"
    assert "supported" in over(place, "status", "latest").out
    document = over(place, "status", "fi", "--json").document
    assert document["roles"]["reader"]["done"] == document["corpus"]["spans"]


def test_a_list_cuts_nothing_however_long_it_is_who_works_on_a_run() -> None:
    holder = f"process 12345 on {'h' * 90} since 2026-11-21 19:00"
    held = RunStatus("a-run-with-a-name-of-some-length", "interrupted", events=123_456, created=1.0, holder=holder)
    for terminal in (False, True):
        console = Console(file=io.StringIO(), width=80, force_terminal=terminal, color_system=None, soft_wrap=True)
        with console.capture() as caught:
            console.print(_table([held], console))
        titles, line = caught.get().splitlines()
        assert titles.split() == ["ID", "STATUS", "EVENTS", "STARTED", "WORKED", "ON", "BY"]
        assert all(word in line for word in (held.id, held.status, "123,456", "1970-01-01", holder))


def test_an_empty_folder_has_no_runs(tmp_path: Path) -> None:
    assert "no runs" in swarm("list", "--runs", tmp_path).out
    assert "no runs" in swarm("list", "--runs", "~nobody-here/runs").out, "a `~` that names nobody is a name like any other"
    said = swarm("status", "latest", "--runs", tmp_path)
    assert said.code == 1 and "there is no latest run" in said.err


def test_logs_tell_events_of_a_kind(place: Path) -> None:
    assert "JobEnded" in over(place, "logs", "first").out.splitlines()[-2]
    events = over(place, "logs", "first", "--kind", "TaskFinished", "--tail", 3, "--json").document
    assert [event["kind"] for event in events] == ["TaskFinished"] * 3
    said = swarm("logs", "first", "--kind", "Nothing", "--runs", place / "runs")
    assert said.code == 2 and "TaskFinished" in said.err


def test_show_prints_the_whole_window_of_a_call(place: Path) -> None:
    calls = over(place, "logs", "first", "--kind", "CallFinished", "--tail", 0, "--json").document
    windows = {call["body"]["task"]: show(place, call["body"]["task"]).out for call in calls}
    reading, text = next(
        (task, text) for task, text in windows.items() if "[5] span" in text and "raise QueueEmpty" in text
    )
    for part in ("Question: Which function raises", "Columns: function = ", "Passage: ", '["Queue.get","QueueEmpty"'):
        assert part in text
    assert all("holds" in text for text in windows.values()), "the segments shown have the digest that was sent"
    (document,) = show(place, f"{reading}:0:0", "--json").document
    kinds = [segment["kind"] for segment in document["segments"]]
    assert kinds == ["role", "question", "schema", "breadcrumb", "span"]
    assert all(segment["text"] for segment in document["segments"])
    assert sum(segment["tokens"] for segment in document["segments"]) <= document["tokens"]
    assert json.loads(document["output"])


def show(place: Path, call: str, *options: str) -> Said:
    return over(place, "show", call, "--run", "first", *options)


def test_show_says_what_fits_no_call(place: Path) -> None:
    for name, code in (("zzz", 1), ("a:b", 2), ("a:" + "9" * 5000, 2), ("", 2)):
        assert swarm("show", name, "--runs", place / "runs").code == code


@pytest.mark.parametrize("arguments", [("logs", "first", "--tail"), ("watch", "first", "--after")])
def test_a_number_that_no_log_has_room_for_is_refused(place: Path, arguments: tuple[str, ...]) -> None:
    said = swarm(*arguments, 10**20, "--runs", place / "runs")
    assert said.code == 2 and arguments[-1] in said.err
    over(place, *arguments, LARGEST)


@pytest.mark.parametrize("name", ["latest", "first"])
def test_show_of_a_run_names_calls_of_it(place: Path, name: str) -> None:
    said = swarm("show", name, "--runs", place / "runs")
    assert said.code == 2 and f"{name} is a run" in said.err
    offered = [line.split() for line in said.err.splitlines() if "swarm show" in line]
    assert len(offered) == 3
    for command in offered:
        assert swarm(*command[1:], "--runs", place / "runs").code == 0, command


def test_report_and_artifacts(place: Path) -> None:
    before = (place / "runs" / "first" / "report.md").read_bytes()
    assert "report.html" in over(place, "report", "first").out
    assert over(place, "artifacts", "first", "--get", "report.md").out.encode() == before
    names = [one["name"] for one in over(place, "artifacts", "first", "--json").document]
    assert {"answer.json", "report.html", "report.md", "rows.csv"} <= set(names)
    said = swarm("artifacts", "first", "--get", "../x", "--runs", place / "runs")
    assert said.code == 1 and "answer.json" in said.err


def test_export_gives_the_board_and_the_events(place: Path, tmp_path: Path) -> None:
    board = over(place, "export", "first").document
    rows = [note for note in board["notes"] if note["kind"] == "row"]
    assert rows and all(row["content"]["quote"].startswith("raise ") for row in rows)
    for note, span, first, last in board["cites"]:
        if note == rows[0]["id"]:
            text, offset = board["spans"][f"s:{span}"]["text"], board["spans"][f"s:{span}"]["start"]
            assert text[first - offset : last - offset] == rows[0]["content"]["quote"]
    over(place, "export", "first", "--events", "--to", tmp_path / "events.jsonl")
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


@pytest.mark.parametrize(
    ("target", "problem"), [("nowhere/x.json", "No such file or directory"), ("folder", "is a folder"), ("file/x", "Not a dir")]
)
def test_an_export_to_where_nothing_can_be_written_is_one_clear_error(
    place: Path, tmp_path: Path, target: str, problem: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    said = swarm("export", "first", "--to", tmp_path / target, "--runs", place / "runs")
    assert said.code == 2 and said.err.startswith(f"error: --to: {tmp_path / target} ") and problem in said.err
    assert "\n  name a file" in said.err and sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_an_export_that_fails_half_way_leaves_the_file_as_it_was(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "runs" / "first", tmp_path / "runs" / "first")
    with closing(sqlite3.connect(tmp_path / "runs" / "first" / "log.sqlite")) as log:
        last = log.execute("SELECT max(seq) FROM events").fetchone()[0]
        log.execute("DELETE FROM events WHERE seq = ?", (last - 5,))
        log.commit()
    target = tmp_path / "kept.jsonl"
    target.write_text("before")
    (tmp_path / "link").symlink_to(target)
    said = swarm("export", "first", "--events", "--to", target, "--runs", tmp_path / "runs")
    assert said.code == 1 and "damaged or missing" in said.err
    assert target.read_text() == "before" and {path.name for path in tmp_path.iterdir()} == {"runs", "kept.jsonl", "link"}
    over(place, "export", "first", "--events", "--to", tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and len(target.read_text().splitlines()) == last


def test_an_export_to_what_is_no_file_takes_nothings_place(place: Path) -> None:
    over(place, "export", "first", "--to", "/dev/null")
    assert Path("/dev/null").is_char_device()


def test_words_of_errors_are_sentences_where_there_is_one_line() -> None:
    error = SwarmError("the span s:0 with 5000 tokens does not fit", "window", "raise model.window")
    assert on_a_line(str(error)) == "window: the span s:0 with 5000 tokens does not fit. Raise model.window"
    assert on_a_line("is full.\n  `swarm gc` helps,\n  or model.window") == "is full. `swarm gc` helps, or model.window"
    assert on_a_line("  two\nlines ") == "two lines" and on_a_line("") == ""
    assert on_a_line("a: b\n  model.window is too small") == "a: b. model.window is too small"


def test_replay_verifies_the_protocols_decisions(place: Path) -> None:
    document = over(place, "replay", "first", "--verify", "--json").document
    assert document["decisions"] > 10 and not document["difference"]


def test_replay_names_the_first_decision_that_differs(place: Path, tmp_path: Path) -> None:
    shipped = (ROOT / "protocols" / "map_reduce.py").read_text(encoding="utf-8")
    other = tmp_path / "other.py"
    other.write_text(shipped, encoding="utf-8")
    path = job_file(tmp_path, write_sources(tmp_path), protocol={"name": str(other), "options": {"span_tokens": 160}})
    assert swarm("run", path, "--local", "--runs", tmp_path / "runs").code == 0
    assert swarm("replay", "latest", "--verify", "--runs", tmp_path / "runs").code == 0
    other.write_text(shipped.replace("priority=-1", "priority=-2"), encoding="utf-8")
    said = swarm("replay", "latest", "--verify", "--runs", tmp_path / "runs")
    assert said.code == 1 and "priority=-2" in said.err and "priority=-1" in said.err


def test_watch_follows_to_the_end(place: Path) -> None:
    assert "done" in over(place, "watch", "first").out
    lines = over(place, "watch", "first", "--after", 5).out.splitlines()
    assert lines[0].split()[0] == "6" and "ReportWritten" in lines[-1]


def test_a_run_that_has_ended_takes_no_orders(place: Path) -> None:
    for verb, words in (("pause", "nobody works on this run (it is done)"), ("cancel", "has ended (done)")):
        said = swarm(verb, "first", "--runs", place / "runs")
        assert said.code == 1 and words in said.err
    said = swarm("resume", "first", "--runs", place / "runs")
    assert said.code == 1 and "has ended (done)" in said.err and "Ray" not in said.err, "no cluster is started for it"


def test_rm_removes(place: Path) -> None:
    swarm("run", place / "job.yaml", "--local", "--runs", place / "gone", "--id", "second")
    assert swarm("rm", "second", "--runs", place / "gone").code == 0
    assert not (place / "gone" / "second").exists()


def test_rm_deletes_runs_and_nothing_else(place: Path) -> None:
    (place / "kept" / "notes").mkdir(parents=True)
    (place / "kept" / "notes" / "thesis.txt").write_text("years of work")
    assert swarm("run", place / "job.yaml", "--local", "--runs", place / "kept", "--id", "only").code == 0
    for name in ("", "notes", "n", "no"):
        assert swarm("rm", name, "--runs", place / "kept").code == 1
    assert (place / "kept" / "only").is_dir() and (place / "kept" / "notes" / "thesis.txt").exists()


def test_control_characters_are_shown_and_not_sent(tmp_path: Path) -> None:
    """A terminal that is sent them may be made to show something else than what stands in the log."""
    question = "Which \x1b[31mfunction\u202e raises\x9b2J?"
    path = job_file(tmp_path, write_sources(tmp_path), question=question)
    said = swarm("run", path, "--local", "--runs", tmp_path / "runs", "--id", "one")
    assert said.code == 0, said.err
    runs = ("--runs", tmp_path / "runs")
    task = swarm("logs", "one", "--kind", "CallFinished", "--json", *runs).document[0]["body"]["task"]
    shown = [swarm("show", task, *runs), swarm("status", "one", *runs), swarm("export", "one", *runs), said]
    shown.append(swarm("show", task, "--json", *runs))
    for one in shown:
        assert not {"\x1b", "\x9b", "\u202e"} & {*one.out, *one.err}
    assert r"Which \x1b[31mfunction\u202e raises\x9b2J?" in shown[0].out
    assert any(question in segment["text"] for segment in shown[-1].document[0]["segments"])


def test_no_cell_of_the_table_begins_a_formula(place: Path) -> None:
    with SqliteReader.open(place / "runs" / "first") as reader:
        answer = gather(reader)
    assert answer.rows
    for value in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "plain"):
        row = answer.rows[0].model_copy(update={"values": {"function": value, "exception": "x"}})
        (cells,) = csv.DictReader(io.StringIO(rows_csv(answer.model_copy(update={"rows": (row,)}))))
        assert cells["function"] == (value if value == "plain" else f"'{value}")


def test_the_table_says_places_once_and_has_no_name_that_a_column_may_have(place: Path) -> None:
    with SqliteReader.open(place / "runs" / "first") as reader:
        answer = gather(reader)
    assert answer.rows
    (cite, *_) = answer.rows[0].cites
    later = cite.model_copy(update={"start": cite.start + 1})
    row = answer.rows[0].model_copy(update={"values": {"source": "x", "line": "y"}, "cites": (cite, later)})
    table = csv.DictReader(io.StringIO(rows_csv(answer.model_copy(update={"rows": (row,), "columns": ("source", "line")}))))
    (cells,) = table
    assert len(set(table.fieldnames or ())) == len(table.fieldnames or ()) == 9
    assert (cells["source"], cells["line"], cells["quote.line"]) == ("x", "y", str(cite.line))
    assert cells["row.sources"] == f"{cite.document}:{cite.line} ×2" and cells["quote.character"] == str(cite.start)


def test_a_report_of_one_session_says_so(place: Path) -> None:
    assert " events, 1 session, seed 0" in (place / "runs" / "first" / "report.md").read_text()


def test_each_benchmark_is_a_verb() -> None:
    assert swarm("bench", "board", "--notes", 200, "--queries", 2, "--json").document["name"] == "board"
    assert swarm("bench", "agents", "--agents", 3, "--tokenizer", "", "--json").document["rows"][0]["agents_alive"] == 3
    said = swarm("bench", "same", "--engine", "abacus")
    assert said.code == 2 and "scripted" in said.err


def test_the_catalogue() -> None:
    names = {role["name"] for role in swarm("roles", "--json").document}
    assert {"planner", "reader", "verifier", "reducer", "writer"} <= names
    assert swarm("roles", "reader").out.startswith("---\nname: reader")
    assert swarm("roles", "nobody").code == 2
    assert "map_reduce" in {one["name"] for one in swarm("protocols", "--json").document}
    assert {"vllm", "openai"} <= {engine["name"] for engine in swarm("models", "--json").document["engines"]}


def test_the_scores_of_an_adapter_are_told_in_words_and_given_in_full_as_json() -> None:
    said = swarm("models").out
    assert "{" not in said
    (adapter,) = swarm("models", "--json").document["adapters"]
    scores = adapter["scores"]
    for one in ("held-out wording", "held-out schema"):
        assert f"{one}: precision {scores[one]['precision']:.2f}" in said
    assert max(map(len, said.splitlines())) < 200


def test_one_is_said_as_one(tmp_path: Path) -> None:
    """In what a job says before and after its work, in its status and in both reports."""
    (tmp_path / "one.py").write_text("def f():\n    raise KeyError\n")
    said = swarm("run", job_file(tmp_path, tmp_path / "one.py"), "--local", "--id", "one", "--runs", tmp_path / "runs")
    assert said.code == 0, said.err
    texts = [said.err, swarm("status", "one", "--runs", tmp_path / "runs").out]
    texts += [(tmp_path / "runs" / "one" / name).read_text() for name in ("report.md", "report.html")]
    for text in texts:
        assert not re.search(r"(?<![\d.,])1 (documents|passages|rows|findings|sentences|sessions|plans)\b", text)
    assert "1 document, 1 passage" in said.err and "answer: 1 row," in said.err


def test_numbers_and_nouns_agree() -> None:
    assert [counted(n, "query") for n in (0, 1, 2)] == ["0 queries", "1 query", "2 queries"]
    assert counted(1_234_567, "token") == "1.2 M tokens"


def test_a_run_that_has_ended_lies_in_one_file(place: Path) -> None:
    """Its view closes after its writer."""
    pending = place / "runs" / "first" / "log.sqlite-wal"
    assert not pending.exists() or pending.stat().st_size == 0


def test_doctor_finds_nothing_wrong_here(place: Path) -> None:
    said = swarm("doctor", "--runs", place / "runs", "--json")
    assert said.code == 0 and all(one["ok"] for one in said.document)
    assert said.document[0]["what"] == f"swarmloom {__version__}"
    assert "nothing is wrong" in over(place, "doctor", "--repair", "first").out
    assert swarm("doctor", "--apply").code == 2


def test_ask_needs_no_job_file(tmp_path: Path) -> None:
    source = write_sources(tmp_path)
    options = ("--local", "--runs", tmp_path / "runs", "--set", "model.engine=scripted", "--set", "model.name=raises")
    columns = ("--column", "function=its qualified name", "--column", "exception=the class that is raised")
    said = swarm("ask", "What is raised?", source, *columns, *options, "--json")
    assert said.code == 0, said.err
    assert [tuple(row["values"].values()) for row in said.document["rows"]] == ROWS
    assert swarm("ask", "What?", source, "--column", "nothing", *options).code == 2
    said = swarm("ask", "What?", source, "--column", "Name=a name", *options)
    assert said.code == 2 and "--column: 'Name' is no name for a column" in said.err and "lower-case" in said.err


def test_a_job_comes_from_stdin_too(place: Path) -> None:
    text = (place / "job.yaml").read_text()
    assert swarm("plan", "-", "--json", stdin=text).document["name"] == "raises"
    assert "is not YAML" in swarm("plan", "-", stdin="{").err


def test_settings_are_changed_from_the_command_line(place: Path) -> None:
    job = place / "job.yaml"
    changed = swarm("plan", job, "--set", "budget.tokens=2500", "--set", "answer.merge=set", "--json").document
    assert "planner" not in changed["calls"] and any("budget.tokens" in line for line in changed["over"])
    for override in ("budget", "inputs.7=x", "budget.tokens.x=1", "=1"):
        said = swarm("plan", job, "--set", override)
        assert said.code == 2 and "error: " in said.err


def test_a_section_that_was_not_set_is_begun_by_one_of_its_settings(place: Path) -> None:
    job, runs = place / "job.yaml", ("--local", "--runs", place / "priced")
    prices = ("--set", "model.price.input=1", "--set", "model.price.output=4")
    assert swarm("plan", job, *prices, "--json").document["currency"] == "USD"
    assert swarm("run", job, *runs, "--id", "one").code == 0
    for verb in (("plan", job), ("run", job, *runs), ("fork", "one", "--at", 1, *runs)):
        for setting, where in (("model.price.input=-1", "model.price.input"), ("model.price.output=4", "model.price.input")):
            said = swarm(*verb, "--set", setting)
            assert said.code == 2 and where in said.err and "names no setting" not in said.err, said.err
    assert swarm("fork", "one", "--at", 1, *runs, *prices, "--id", "two").code == 0
    assert {path.name for path in (place / "priced").iterdir()} == {"one", "two", "latest"}


def test_the_command_says_its_version() -> None:
    assert swarm("--version").out == f"swarmloom {__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['swarm', '-h']; from swarm.cli import main\ntry: main()\nfinally: print(*sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0 and "resume" in ran.stdout
    assert not {"ray", "torch", "transformers", "vllm", "networkx", "pydantic", "psycopg"} & set(ran.stdout.split())


def test_a_job_as_a_process(place: Path) -> None:
    process = start("run", place / "job.yaml", "--local", "--json", "--runs", place / "process")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["status"] == "done"


@pytest.mark.ray
def test_a_job_runs_on_ray_unless_told_otherwise(place: Path) -> None:
    said = swarm("run", place / "job.yaml", "--runs", place / "ray", "--json")
    assert said.code == 0, said.err
    assert "Ray dashboard: http://127.0.0.1:" in said.err
    assert [tuple(row["values"].values()) for row in said.document["rows"]] == ROWS
    assert swarm("replay", "latest", "--verify", "--runs", place / "ray").code == 0
