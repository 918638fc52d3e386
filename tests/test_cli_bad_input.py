"""What people get wrong: one clear message, an exit code, and nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from swarm.testing.endpoint import Endpoint
from tests.commands import ROOT, Said, job_file, swarm
from tests.jobs import write_sources

BABBLING = """
from swarm.protocol import Failed, find_protocol

module, _ = find_protocol("map_reduce")


class Babbling(module.MapReduce):
    def turn(self, task, material, transcript):
        if task.role == "verifier" and transcript and material.passages[0].number % {every} == 0:
            return Failed("babbles")
        return super().turn(task, material, transcript)


def create(spec):
    return Babbling(spec, module.Options.model_validate(spec.protocol.options))
"""
"""map_reduce, but no verifier judges the rows of one passage in so many."""
SCRIPTED = {"engine": "scripted", "name": "raises"}


def refused(folder: Path, *arguments: object, **changes: Any) -> Said:
    """Runs a job that is wrong, and checks that it left nothing."""
    path = job_file(folder, changes.pop("source", None) or write_sources(folder), **changes)
    said = swarm("run", path, "--local", "--runs", folder / "runs", *arguments)
    assert said.code != 0 and said.out == ""
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said.err
    assert "Traceback" not in said.err
    assert not (folder / "runs").exists() or not list((folder / "runs").iterdir())
    return said


# ---- inputs ----


def test_a_missing_file(tmp_path: Path) -> None:
    said = refused(tmp_path, source=tmp_path / "nowhere.txt")
    assert said.code == 2 and "nowhere.txt" in said.err and "reading" not in said.err, "it is said at once"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no text"),
        (b" \n\n", "no text"),
        (bytes(range(256)) * 40, "not UTF-8"),
        (b"\x00\x01\x02" * 900, "bad.txt"),
    ],
    ids=["empty", "blank", "binary", "controls"],
)
def test_a_file_without_text(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "bad.txt").write_bytes(content)
    said = refused(tmp_path, source=tmp_path / "bad.txt")
    assert said.code == 2 and f"error: {tmp_path}/bad.txt: " in said.err and words in said.err and "reading" not in said.err


def test_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Über Äcker und Flüsse.\n".encode("latin-1") * 20)
    said = refused(tmp_path, source=tmp_path / "latin.txt")
    assert said.code == 2 and "latin.txt" in said.err and "UTF-8" in said.err


@pytest.mark.parametrize(("size", "exact"), [(1_500_000, True), (50_000_000, False)])
def test_a_single_line_of_megabytes_is_read_in_pieces(tmp_path: Path, size: int, exact: bool) -> None:
    """What a plan reads of 50 MB is a sample; tests/test_corpus_read.py reads all of it, which is slow."""
    text = "one word after the other "
    (tmp_path / "line.txt").write_text(text * (size // len(text)))
    found = swarm("plan", job_file(tmp_path, tmp_path / "line.txt"), "--json").document["input"]
    assert found["spans"] > size // 1000 and found["exact"] is exact


def test_files_of_a_folder_that_cannot_be_read_are_skipped_and_reported(tmp_path: Path) -> None:
    source = write_sources(tmp_path)
    (source / "garbage.py").write_bytes(bytes(range(256)))
    (source / "gone.py").symlink_to(tmp_path / "nowhere.py")
    (source / "latin.txt").write_bytes("Größe".encode("latin-1"))
    said = swarm("run", job_file(tmp_path, source), "--local", "--runs", tmp_path / "runs", "--json")
    left_out = "left out: 2 × is not UTF-8 text; 1 × No such file or directory"
    assert said.code == 0 and left_out in said.err
    skipped = {Path(one["path"]).name: one["reason"] for one in said.document["skipped"]}
    assert skipped.keys() == {"garbage.py", "gone.py", "latin.txt"} and "iconv" in skipped["latin.txt"]


# ---- jobs ----


def test_no_job_file(tmp_path: Path) -> None:
    said = swarm("run", tmp_path / "no.yaml", "--runs", tmp_path / "runs")
    assert said.code == 2 and "no.yaml" in said.err and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b\n", "name: [", "\x00", "name: a\n\tb: c\n"])
def test_a_job_file_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    said = swarm("run", tmp_path / "job.yaml", "--runs", tmp_path / "runs")
    assert said.code == 2 and "job.yaml" in said.err and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protocol": {"options": {"span_tokens": 5000}}}, ["protocol.options.span_tokens", "lower it"]),
        ({"protocol": {"options": {"spantokens": 50}}}, ["spantokens", "span_tokens"]),
        ({"protocol": "no_such"}, ["no_such", "map_reduce"]),
        ({"protocol": "nowhere.py"}, ["nowhere.py"]),
        ({"roles": {"nobody": "x.md"}}, ["roles.nobody", "reader"]),
        ({"roles": {"reader": "x.md"}}, ["roles.reader", "there is no file", "x.md"]),
        ({"model": {"engine": "abacus"}}, ["model.engine", "abacus", "vllm"]),
        ({"model": {"engine": "scripted", "nam": "raises"}}, ["model.nam", "name"]),
        ({"model": {"engine": "openai", "name": "x"}}, ["url"]),
        ({"model": {"engine": "openai", "name": "x", "url": "http://h/v1", "key": "sk-secret"}}, ["env:NAME"]),
        ({"model": {"engine": "transformers", "name": "./no"}}, ["model.name", "there is no folder", "/no", "check the path"]),
        ({"model": {**SCRIPTED, "tokenizer": "./loop"}}, ["model.tokenizer", "there is no folder", "/loop"]),
        ({"answer": {"columns": {"a": "b"}, "gold": "loop"}}, ["answer.gold", "loop cannot be read"]),
        ({"inputs": ["loop"]}, ["/loop: cannot be read", "Check the path"]),
        ({"roles": {"reader": "loop"}}, ["roles.reader", "there is no file", "/loop"]),
        ({"protocol": "./loop/x.py"}, ["protocol", "/loop/x.py", "map_reduce"]),
        ({"inputs": ["python:os.path"]}, ["python:os.path", "os is a module and no package", "Write python:os"]),
        ({"inputs": ["https://me:sk-secret@host/x"]}, ["https://…@host/x", "Download it"]),
        ({"answer": {"columns": {}}}, ["answer", "column"]),
        ({"answer": {"columns": {"function": "its name"}, "by": "other"}}, ["by", "other", "function"]),
        ({"answer": {"columns": {"function": " "}}}, ["answer.columns.function", "is blank", "say what"]),
        ({"model": {**SCRIPTED, "weights": {"raeder": "base"}}}, ["model.weights.raeder", "their channels: reader"]),
        ({"budget": {"tokens": 0}}, ["budget.tokens", "0"]),
        ({"budget": {"calls": 0}}, ["budget.calls"]),
        ({"budget": {"tokens": 100}}, ["budget.tokens", "100", "swarm plan"]),
        ({"budget": {"tokens": 700}}, ["budget.tokens", "700", "role reader", "at least"]),
        ({"budget": {"seconds": 0.001}}, ["budget.seconds", "0.001", "give at least 1"]),
        ({"budget": {"disk": 10}}, ["budget.disk", "10", "give at least 65536"]),
        ({"budget": {"calls": 1}}, ["budget.calls", "role reader", "at least 5"]),
        ({"budget": {"calls": 2}}, ["budget.calls", "role reader", "at least 5"]),
        ({"budget": {"calls": 2}, "protocol": "rolling"}, ["budget.calls", "at least"]),
        ({"budget": {"money": 1e-9}, "model": {**SCRIPTED, "price": {"input": 1, "output": 2}}}, ["budget.money", "at least"]),
        ({"budget": {"money": 1}}, ["model.price"]),
        ({"roles": {"reader": "/bin/ls"}}, ["roles.reader", "/bin/ls", "UTF-8"]),
        ({"inputs": ["a\0b"]}, ["inputs.0", "NUL"]),
        ({"seed": 2**64}, ["seed"]),
        ({"answer": {"columns": {"a": "b"}, "gold": "nowhere.jsonl"}}, ["answer.gold", "nowhere.jsonl", "ast:raises"]),
        ({"answer": {"columns": {"a": "b"}, "gold": "/bin/ls"}}, ["answer.gold", "UTF-8"]),
        ({"inputs": ["~nobody-here/a"]}, ["~nobody-here/a", "cannot be read"]),
        ({"protocol": "nosuch.module"}, ["nosuch.module", "map_reduce"]),
        ({"protocol": ".."}, ["'..'", "map_reduce"]),
        ({"protocol": "./src"}, ["./src", "map_reduce"]),
        ({"answer": {"columns": {"temperature": 5}}}, ["answer.columns.temperature", "5"]),
        ({"answer": {"columns": {"function": [1]}}}, ["answer.columns.function", "1"]),
        ({"question": " "}, ["question"]),
        ({"name": "Über uns"}, ["name"]),
        ({"inputs": []}, ["inputs"]),
        ({"colour": "red"}, ["colour", "question"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_wrong_setting_is_named_with_its_cure(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    (tmp_path / "loop").symlink_to("loop")
    said = refused(tmp_path, **changes)
    assert said.code == (1 if "there is no folder" in words else 2), "weights that are not there are no bad usage"
    assert all(word in said.err for word in words), said.err
    assert "sk-secret" not in said.err


def test_errors_are_a_document_too(tmp_path: Path) -> None:
    path = job_file(tmp_path, tmp_path / "nowhere.txt")
    said = swarm("run", path, "--local", "--runs", tmp_path / "runs", "--json")
    assert said.code == 2 and said.document["error"]["kind"] == "CorpusError"
    assert said.document["error"]["exit_code"] == 2 and "error: " in said.err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def create(spec:\n", "it cannot be imported (FILE, line 1): SyntaxError"),
        ("import json\nimport no_such_thing\n", "it cannot be imported (FILE, line 2): ModuleNotFoundError"),
        ("raise SystemExit(3)\n", "it cannot be imported (FILE, line 1): SystemExit: 3"),
        ("def create(spec):\n    return spec.nothing\n", "its create(spec) failed (FILE, line 2): AttributeError"),
        ("def create(spec):\n    return None\n", "FILE made has no right `name`"),
        ("class P:\n    name = 'p'\n    roles = ()\ndef create(spec):\n    return P()\n", "FILE made has no right `roles`"),
        (
            "class P:\n    name, roles, note_kinds, span_tokens = 'p', ('reader',), {}, 'x'\ndef create(spec):\n    return P()\n",
            "FILE made has no right `span_tokens`",
        ),
    ],
)
def test_a_protocol_file_with_a_mistake_is_its_writers_to_mend(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    said = refused(tmp_path, protocol=str(tmp_path / "mine.py"))
    assert said.code == 2 and "error: protocol: " in said.err and "fault of the program" not in said.err
    assert says.replace("FILE", str(tmp_path / "mine.py")) in said.err, said.err


def test_a_setting_that_is_given_twice_is_not_dropped_without_a_word(tmp_path: Path) -> None:
    path = job_file(tmp_path, write_sources(tmp_path))
    path.write_text(path.read_text() + "\nbudget: {calls: 5}\nbudget: {seconds: 100}\n")
    said = swarm("plan", path)
    assert said.code == 2 and "gives 'budget' twice, again in line" in said.err and str(path) in said.err
    said = swarm("plan", job_file(tmp_path, tmp_path), "--set", "budget={calls: 5, calls: 6}")
    assert said.code == 2 and "--set budget: gives 'calls' twice" in said.err


# ---- where it runs ----


def test_an_id_that_exists(tmp_path: Path) -> None:
    options = (job_file(tmp_path, write_sources(tmp_path)), "--local", "--runs", tmp_path / "runs", "--id", "one")
    assert swarm("run", *options).code == 0
    before = (tmp_path / "runs" / "one" / "log.sqlite").read_bytes()
    said = swarm("run", *options)
    assert said.code == 1 and "exists already" in said.err and "reading" not in said.err
    assert swarm("run", *options, "--id", "bad id").code == 2
    assert (tmp_path / "runs" / "one" / "log.sqlite").read_bytes() == before


def test_an_id_that_is_no_name(tmp_path: Path) -> None:
    assert refused(tmp_path, "--id", "../up").code == 2
    path = job_file(tmp_path, tmp_path / "code")
    for command in (("run", path, "--local"), ("ask", "What?", path, "--local"), ("submit", path), ("fork", "one", "--at", "0")):
        said = swarm(*command, "--runs", tmp_path / "runs", "--id", "")
        assert said.code == 2 and "--id" in said.err and "is empty" in said.err, command


def test_a_key_that_is_blank_makes_no_job_of_its_own(tmp_path: Path) -> None:
    for key, words in (("", "is empty"), ("  ", "is blank")):
        said = swarm("submit", job_file(tmp_path, tmp_path), "--address", "http://127.0.0.1:1", "--key", key)
        assert said.code == 2 and "key" in said.err and words in said.err


def test_an_id_is_looked_at_before_the_inputs(tmp_path: Path) -> None:
    assert "cannot name a run" in refused(tmp_path, "--id", "../up", source=tmp_path / "nowhere.txt").err
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "notes.txt").write_text("somebody's own")
    path = job_file(tmp_path, tmp_path / "nowhere.txt")
    assert "exists already" in swarm("run", path, "--local", "--runs", tmp_path / "runs", "--id", "one").err


def test_a_folder_called_latest_is_remarked_on(tmp_path: Path) -> None:
    (tmp_path / "runs" / "latest").mkdir(parents=True)
    said = swarm("run", job_file(tmp_path, write_sources(tmp_path)), "--local", "--runs", tmp_path / "runs")
    assert said.code == 0 and "`latest` does not lead to this run" in said.err


@pytest.mark.ray
def test_a_cluster_that_does_not_answer(tmp_path: Path) -> None:
    path = job_file(tmp_path, write_sources(tmp_path))
    said = swarm("run", path, "--address", "127.0.0.1:1", "--runs", tmp_path / "runs")
    assert said.code == 1 and "127.0.0.1:1" in said.err and "does not answer" in said.err
    assert not (tmp_path / "runs").exists()
    assert swarm("run", path, "--address", "x", "--local").code == 2


@pytest.mark.ray
@pytest.mark.parametrize(
    "address", ["head:", "head:0", "head:65536", "head:²", "head:" + "1" * 5000, "a..b:80", "ray://a..b:80"]
)
def test_what_is_no_address_of_a_cluster(tmp_path: Path, address: str) -> None:
    said = swarm("run", job_file(tmp_path, write_sources(tmp_path)), "--address", address, "--runs", tmp_path / "runs")
    assert said.code == 1 and f"error: Ray at {address}: is no address\n  give HOST:PORT of the head node" in said.err


def test_no_space_for_the_run(tmp_path: Path) -> None:
    """A file system of 300 KB, in a name space of its own."""
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no name spaces here")
    runs = tmp_path / "runs"
    runs.mkdir()
    path = job_file(tmp_path, write_sources(tmp_path, copies=60))
    command = (
        f"mount -t tmpfs -o size=300k none {runs} && exec {sys.executable} -m swarm run {path} --local --runs {runs}"
    )
    ran = subprocess.run([unshare, "-rm", "sh", "-c", command], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1 and "no space left" in ran.stderr, ran.stderr
    assert "Traceback" not in ran.stderr


# ---- endpoints ----


def answered_so(behaviour: str, folder: Path, **settings: Any) -> Said:
    """A job on an endpoint that behaves so on every call."""
    with Endpoint(behaviour=behaviour, **settings) as endpoint:
        model = {"engine": "openai", "name": "any", "url": endpoint.url, "timeout_s": 1.0}
        path = job_file(folder, write_sources(folder), model=model)
        return swarm("run", path, "--local", "--runs", folder / "runs", "--id", "one")


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("401", "does not accept the key"),
        ("404", "does not know the model"),
        ("429", "too many requests"),
        ("500", "answers 500"),
        ("nonsense", "answers nonsense"),
        ("empty", "answers nonsense"),
        ("hang", "model.timeout_s"),
    ],
)
def test_an_endpoint_that_gives_no_answers_pauses_the_job(tmp_path: Path, behaviour: str, words: str) -> None:
    said = answered_so(behaviour, tmp_path)
    assert said.code == 1 and words in said.err, said.err
    assert "resume with: swarm resume one" in said.err


def test_an_endpoint_that_refuses_the_key_at_once(tmp_path: Path) -> None:
    said = answered_so("ok", tmp_path, key="right")
    assert said.code == 1 and "does not accept the key" in said.err
    assert f"resume with: swarm resume one --runs {tmp_path / 'runs'}\n" in said.err


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "http://xn--/v1"])
def test_an_endpoint_that_is_not_there(tmp_path: Path, url: str) -> None:
    path = job_file(tmp_path, write_sources(tmp_path), model={"engine": "openai", "name": "any", "url": url})
    said = swarm("run", path, "--local", "--runs", tmp_path / "runs", "--id", "one")
    assert said.code == 1 and f"{url} does not answer" in said.err
    assert "resume with: swarm resume one" in said.err
    assert "resume with: swarm resume one" in swarm("resume", "one", "--local", "--runs", tmp_path / "runs").err


@pytest.mark.parametrize("protocol", ["map_reduce", "rolling"])
def test_a_passage_that_fits_no_window(tmp_path: Path, protocol: str) -> None:
    (tmp_path / "long.txt").write_text("One word after the other. " * 2400)
    options = {"name": protocol, "options": {"span_tokens": 5000}}
    said = refused(tmp_path, source=tmp_path / "long.txt", protocol=options)
    role = {"map_reduce": "reader", "rolling": "notetaker"}[protocol]
    assert said.code == 2 and "protocol.options.span_tokens" in said.err and f"window of role {role}" in said.err


def test_a_verifier_that_cannot_hold_what_it_judges(tmp_path: Path) -> None:
    role = (ROOT / "roles" / "verifier.md").read_text(encoding="utf-8").replace("window: 768", "window: 100")
    (tmp_path / "small.md").write_text(role)
    said = refused(tmp_path, roles={"verifier": str(tmp_path / "small.md")})
    assert said.code == 2 and "roles.verifier" in said.err and "window of role verifier has 100" in said.err
    unused = {"name": "map_reduce", "options": {"span_tokens": 160, "verify": False}}
    path = job_file(tmp_path, write_sources(tmp_path), roles={"verifier": str(tmp_path / "small.md")}, protocol=unused)
    assert swarm("plan", path).code == 0, "nobody is asked to judge"


@pytest.mark.parametrize(
    ("old", "new", "where", "says"),
    [
        ("reads: [word]", "reads: [wrod]", "mine.md: reads", "'wrod' is no kind of note of protocol map_reduce"),
        ("writes: [row, rejected]", "writes: [rwo]", "mine.md: writes", "its kinds: finding, headline"),
        ("weights: reader", "weights: raeder", "mine.md: weights", "give model.weights.raeder, or write one of: none, reader"),
        ("\nYou read", "", "roles.reader", "has no prompt"),
    ],
)
def test_a_role_file_that_names_what_there_is_not(tmp_path: Path, old: str, new: str, where: str, says: str) -> None:
    text = (ROOT / "roles" / "reader.md").read_text(encoding="utf-8")
    (tmp_path / "mine.md").write_text(text.replace(old, new) if new else text.partition(old)[0] + "\n")
    said = refused(tmp_path, roles={"reader": str(tmp_path / "mine.md")})
    assert said.code == 2 and where in said.err and says in said.err, said.err
    if "raeder" in new:
        given = {**SCRIPTED, "weights": {"raeder": "base"}}
        path = job_file(tmp_path, tmp_path / "code", roles={"reader": str(tmp_path / "mine.md")}, model=given)
        assert swarm("plan", path).code == 0, "its own channel, which the job gives weights"


def test_a_role_that_is_made_from_a_shipped_one_may_name_what_that_one_does(tmp_path: Path) -> None:
    text = (ROOT / "roles" / "reducer.md").read_text(encoding="utf-8")
    (tmp_path / "mine.md").write_text(text + "\nBe brief.\n")
    roles = {"reducer": str(tmp_path / "mine.md")}
    assert swarm("plan", job_file(tmp_path, write_sources(tmp_path), protocol="rolling", roles=roles)).code == 0


def test_a_typo_in_the_roles_of_the_working_folder_or_of_a_fork_is_seen_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = job_file(tmp_path, write_sources(tmp_path))
    assert swarm("run", path, "--local", "--runs", tmp_path / "runs", "--id", "one").code == 0
    text = (ROOT / "roles" / "reader.md").read_text(encoding="utf-8")
    (tmp_path / "roles").mkdir()
    (tmp_path / "roles" / "reader.md").write_text(text.replace("writes: [row,", "writes: [rwo,"))
    changed = ("--set", f"roles.reader={tmp_path / 'roles' / 'reader.md'}")
    for change in (changed, ("--set", "model.weights.nobody=base")):
        said = swarm("fork", "one", "--at", 0, *change, "--local", "--runs", tmp_path / "runs", "--id", "two")
        assert said.code == 2 and ("'rwo' is no kind" in said.err or "'nobody'" in said.err), said.err
    monkeypatch.chdir(tmp_path)
    said = swarm("plan", path)
    assert said.code == 2 and "roles/reader.md: writes: 'rwo' is no kind of note" in said.err, said.err


@pytest.mark.parametrize(
    ("answer", "gold", "says"),
    [
        ({"columns": {"name": "a class", "base": "what it derives from"}}, "ast:raises", "function and exception"),
        ({"statements": True}, "ast:raises", "statements in prose cannot be scored"),
        ({"statements": True}, '{"text": "x"}', "statements in prose cannot be scored"),
        ({"columns": {"name": "a class"}}, '{"name": "A"}\n{"class": "B"}', "line 2 of the gold gold.jsonl is no row"),
        ({"columns": {"name": "a class"}}, '{"name": "A"}\n{"name": 3}', "line 2 of the gold gold.jsonl is no row: it has no"),
        ({"columns": {"name": "a class"}}, "\n", "the gold gold.jsonl holds no row"),
        ({"columns": {"name": "a class"}}, '{"name": "A", "document": "a.py"}\n{"name": "B"}', "some rows of the gold"),
    ],
)
def test_a_gold_that_the_answer_cannot_be_scored_against(
    tmp_path: Path, answer: dict[str, Any], gold: str, says: str
) -> None:
    if gold != "ast:raises":
        (tmp_path / "gold.jsonl").write_text(gold)
        gold = str(tmp_path / "gold.jsonl")
    said = refused(tmp_path, answer={**answer, "gold": gold})
    assert said.code == 2 and "answer.gold" in said.err and says in said.err


@pytest.mark.parametrize("protocol", ["map_reduce", "rolling"])
def test_a_model_whose_every_answer_is_useless(tmp_path: Path, protocol: str) -> None:
    """It answers each call, and not one passage is read: that is no empty answer."""
    path = job_file(
        tmp_path, write_sources(tmp_path), model={"engine": "scripted", "name": "echo"},
        protocol={"name": protocol, "options": {"span_tokens": 160}},
    )  # fmt: skip
    said = swarm("run", path, "--local", "--runs", tmp_path / "runs", "--id", "one")
    words = " ".join(said.out.split() + said.err.split())
    assert said.code == 1 and "failed (no passage was read: roles." in words and "is no list of rows" in words
    assert "given up: roles." in words and "(`swarm logs one --kind TaskFailed" in words
    report = (tmp_path / "runs" / "one" / "report.md").read_text(encoding="utf-8")
    assert "Status: **failed**" in report and "no passage was read: roles." in report
    said = swarm("status", "one", "--runs", tmp_path / "runs", "--json")
    assert said.document["status"] == "failed" and said.document["detail"].startswith("no passage was read: roles.")
    assert "no list of rows" in swarm("logs", "one", "--runs", tmp_path / "runs", "--kind", "JobEnded").out
    assert swarm("replay", "one", "--verify", "--runs", tmp_path / "runs").code == 0
    assert swarm("doctor", "--runs", tmp_path / "runs").code == 0


@pytest.mark.parametrize(("every", "left"), [(1, 0), (2, 1)], ids=["all", "some"])
def test_verifiers_that_are_given_up(tmp_path: Path, every: int, left: int) -> None:
    """Rows that nobody could judge are no answer, and are counted beside one."""
    own = tmp_path / "babbling.py"
    own.write_text(BABBLING.format(every=every))
    path = job_file(tmp_path, write_sources(tmp_path), protocol={"name": str(own), "options": {"span_tokens": 160}})
    said = swarm("run", path, "--local", "--runs", tmp_path / "runs", "--id", "one")
    words = " ".join(said.out.split() + said.err.split())
    document = json.loads((tmp_path / "runs" / "one" / "answer.json").read_text(encoding="utf-8"))
    unjudged = document["unjudged"]
    assert said.code == (0 if left else 1) and unjudged["rows"] >= 1 and (unjudged["rows"] < unjudged["of"]) == bool(left)
    assert f"not verified: {unjudged['rows']} of {unjudged['of']} rows: roles.verifier: the output babbles" in words
    report = (tmp_path / "runs" / "one" / "report.md").read_text(encoding="utf-8")
    assert f"{unjudged['rows']} of {unjudged['of']} rows w" in report and "not verified" in report
    if left:
        assert document["status"] == "done" and document["rows"]
    else:
        assert "failed (no row was verified: roles.verifier: the output babbles" in words and not document["rows"]
        assert "Status: **failed**" in report and document["reason"].startswith("no row was verified: roles.verifier")
        said = swarm("status", "one", "--runs", tmp_path / "runs", "--json")
        assert said.document["detail"].startswith("no row was verified: roles.verifier")
    assert swarm("replay", "one", "--verify", "--runs", tmp_path / "runs").code == 0


def test_a_job_goes_on_when_the_endpoint_is_mended(tmp_path: Path) -> None:
    with Endpoint(behaviour="401") as endpoint:
        model = {"engine": "openai", "name": "any", "url": endpoint.url}
        path = job_file(tmp_path, write_sources(tmp_path), model=model)
        options = ("--local", "--runs", tmp_path / "runs")
        assert swarm("run", path, *options, "--id", "one").code == 1
        assert swarm("status", "one", *options[1:], "--json").document["status"] == "paused"
        endpoint.behaviour = "ok"
        said = swarm("resume", "one", *options, "--json")
    assert said.code == 0 and len(said.document["rows"]) == 4


def test_a_run_spoils_nothing_outside_its_folder(tmp_path: Path) -> None:
    path = job_file(tmp_path, write_sources(tmp_path))
    before = snapshot(tmp_path / "code")
    assert swarm("run", path, "--local", "--runs", tmp_path / "runs").code == 0
    assert snapshot(tmp_path / "code") == before
    assert yaml.safe_load(path.read_text())["name"] == "raises"


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
