"""What people are told: when, how often, in which ways, and what happens when it does not get through."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from swarm import events as ev
from swarm.cli.driving import account_lines
from swarm.coordinator.notices import EACH
from swarm.errors import SpecError, SwarmError
from swarm.events import body_hash
from swarm.protocol import AddTask, Decision, Finish, View
from swarm.report import gather
from swarm.report.notices import notices
from swarm.runtime.caretaker import Caretaker
from swarm.runtime.outbox import ATTEMPTS, SAID_BYTES, WAY_SECONDS, Outbox, post_webhook, run_command
from swarm.runtime.supervise import Supervisor
from swarm.store.folder import read_status
from swarm.testing.invariants import LogWatch
from tests.commands import swarm
from tests.desk import Desk, Plain, called, done, failed, readers
from tests.jobs import events_of, job, run, state_of, write_sources
from tests.test_budget import given, over, writer_at_the_end


class Receiver:
    """A webhook of this machine: what was posted to it, and how it answers."""

    def __init__(self, status: int = 200) -> None:
        self.status, self.posted, self.keys = status, list[dict[str, Any]](), list[str]()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"receiver": self}))
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def occasions(self) -> list[str]:
        return [one["occasion"] for one in self.posted]


class _Handler(BaseHTTPRequestHandler):
    receiver: Receiver

    def do_POST(self) -> None:
        self.receiver.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.receiver.keys.append(self.headers.get("Authorization", ""))
        self.send_response(self.receiver.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


def due(events: Sequence[ev.Event]) -> list[str]:
    return [event.body.notice for event in events if isinstance(event.body, ev.NoticeDue)]


def sent(events: Sequence[ev.Event]) -> list[tuple[str, str]]:
    return [(event.body.notice, event.body.way) for event in events if isinstance(event.body, ev.NoticeSent)]


WAYS: dict[str, Any] = {"notify": {"command": ["true"]}}

# ---- when ----


def test_a_job_with_nobody_to_tell_tells_nobody() -> None:
    desk = Desk(Plain(readers(1)))
    desk.pull(done(desk.one()))
    assert desk.state.status == "done" and not due(desk.log)


def test_the_end_is_told_once() -> None:
    desk = Desk(Plain(readers(1)), **WAYS)
    desk.pull(done(desk.one()))
    assert due(desk.log) == ["finished"] and desk.log[-1].key == "notice:finished"
    desk = Desk(Plain(readers(1)), **WAYS)
    desk.keep(desk.core.end(desk.now, "failed", "no luck"))
    assert due(desk.log) == ["failed"] and desk.last(ev.NoticeDue).reason == "no luck"


def test_each_share_of_a_limit_is_told_once() -> None:
    desk = Desk(Plain(readers(8)), budget={"calls": 10, "reserve": 0}, **WAYS)
    for _ in range(8):
        grant = desk.one()
        desk.pull(done(grant, *called(grant)), want=0)
    assert sorted(due(desk.log)) == ["budget:calls:50", "budget:calls:80", "finished"]


def test_the_shares_of_the_seconds_are_told_when_they_are_used_though_no_call_ends() -> None:
    desk = Desk(Plain(readers(8)), budget={"seconds": 100, "reserve": 0}, **WAYS)
    desk.one()
    for seconds, count in ((49, 0), (1, 1), (29, 1), (1, 2), (19, 2), (1, 3)):
        desk.now += seconds
        desk.keep(desk.core.look(desk.now)[0])
        assert len(due(desk.log)) == count
    assert due(desk.log) == ["budget:seconds:50", "budget:seconds:80", "budget:seconds:100"]


def test_a_lower_share_is_never_told_after_a_higher_one() -> None:
    """The end over a budget is paid from the reserve, after people were told of the whole."""
    desk = Desk(Plain(readers(8), then=writer_at_the_end), budget={"calls": 12, "reserve": 0.3}, **WAYS)
    while (grant := desk.one()).role == "reader":
        desk.pull(done(grant, *called(grant)), want=0)
    desk.pull(done(grant, *(body for sample in range(4) for body in called(grant, sample=sample))), want=0)
    assert desk.state.total().calls >= 10 and desk.state.status == "budget"
    assert [notice for notice in due(desk.log) if notice.startswith("budget")] == ["budget:calls:50", "budget:calls:100"]


def test_the_shares_of_a_limit_that_was_changed_are_told_anew() -> None:
    desk = over(Desk(Plain(readers(), then=writer_at_the_end), budget={"calls": 6, "reserve": 0}, **WAYS))
    before = len(due(desk.log))
    assert [notice for notice in due(desk.log) if notice.startswith("budget")] == ["budget:calls:50", "budget:calls:100"]
    over(given(desk, "calls=+2"))
    told = [notice for notice in due(desk.log)[before:] if notice.startswith("budget")]
    assert told == ["budget:calls=8:50", "budget:calls=8:100"]
    assert len(set(due(desk.log))) == len(due(desk.log)), "by its key each is delivered once"


def test_tasks_given_up_are_told_one_by_one_and_then_more_rarely() -> None:
    desk = Desk(Plain(readers(8)), **WAYS)
    for _ in range(3):
        desk.pull(failed(desk.one(), kind="malformed", retryable=False), want=0)
    assert due(desk.log) == ["quarantine:1", "quarantine:2", "quarantine:3"]


def test_tasks_given_up_in_one_go_are_told_of_as_one_by_one() -> None:
    """Over a hundred of them: each of the first ten, and the hundredth."""
    many = AddTask("reader")
    wanted = [f"quarantine:{number}" for number in (*range(1, EACH + 1), 100)]
    for size in (1, 6, 110):
        desk = Desk(Plain(*[many] * 110), **WAYS)
        grants = desk.pull(want=110)
        for at in range(0, 110, size):
            desk.pull(*[failed(one, kind="malformed", retryable=False) for one in grants[at : at + size]], want=0)
        told = [event.body for event in desk.log if isinstance(event.body, ev.NoticeDue)]
        quarantined = [body for body in told if body.occasion == "quarantine"]
        assert [body.notice for body in quarantined] == wanted, size
        assert [body.reason.split(":")[1] for body in quarantined] == [one.task for one in (*grants[:10], grants[99])]


def test_a_task_given_up_after_a_draft_was_taken_back_is_told_of() -> None:
    def then(view: View, event: ev.Event) -> Decision:
        if isinstance(event.body, ev.BudgetReached):
            return Decision({}, [AddTask("writer", calls=1)])
        return Decision({}, [Finish()] if view.ended and view.ended.role == "writer" else [])

    desk = Desk(Plain(readers(8), then=then), budget={"calls": 6, "reserve": 0.3}, **WAYS)
    while (grant := desk.one()).role == "reader":
        desk.pull(done(grant, *called(grant)), want=0)
    desk.pull(failed(grant, kind="malformed", retryable=False), want=0)
    assert desk.state.status == "budget" and "quarantine:1" in due(desk.log)
    desk.keep(desk.core.change_budget(desk.now, "me", {"calls": None}))
    desk.pull(failed(desk.resumed().one(), kind="malformed", retryable=False), want=0)
    assert len(desk.state.failed) == 1 and due(desk.log)[-1] == "quarantine:2"


def test_a_refusal_waits_for_a_person_and_a_persons_pause_does_not() -> None:
    desk = Desk(Plain(readers(2)), **WAYS)
    desk.pull(failed(desk.one(), kind="refused", retryable=False), want=0)
    assert [desk.last(ev.NoticeDue).occasion, len(due(desk.log))] == ["waiting", 1]
    desk = Desk(Plain(readers(2)), **WAYS)
    desk.keep(desk.core.pause(desk.now, "lunch"))
    assert not due(desk.log)


# ---- how ----


def test_a_notice_of_a_spent_budget_is_in_words(tmp_path: Path, receiver: Receiver) -> None:
    spec = job(write_sources(tmp_path), budget={"calls": 5}, notify={"webhook": receiver.url})
    run(spec, tmp_path / "runs", agents=1)
    said = {one["occasion"]: one["text"] for one in receiver.posted}
    assert said == {"budget": "100 % of budget.calls", "waiting": "the budget of 5 calls is reached"}


def test_both_ways_get_it_and_the_secrets_stay_secret(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", receiver.url)
    monkeypatch.setenv("HOOK_KEY", "s3cret")
    told = tmp_path / "told.json"
    script = f"import sys; open({str(told)!r}, 'a').write(sys.stdin.read() + chr(10))"
    notify = {"command": [sys.executable, "-c", script], "webhook": "env:HOOK", "key": "env:HOOK_KEY"}
    folder = run(job(write_sources(tmp_path), notify=notify), tmp_path / "runs")
    events = events_of(folder)
    assert sorted(sent(events)) == [("finished", "command"), ("finished", "webhook")]
    (posted,) = receiver.posted
    assert posted == json.loads(told.read_text()) and receiver.keys == ["Bearer s3cret"]
    assert posted["id"] == f"{folder.id}:finished" and posted["status"] == "done" and posted["run"] == str(folder.path)
    stored = b"".join(path.read_bytes() for path in folder.path.rglob("*") if path.is_file())
    assert b"s3cret" not in stored and receiver.url.encode() not in stored
    watch = LogWatch()
    for event in events:
        watch.see(event)


def test_what_does_not_get_through_is_tried_again_and_then_no_more(tmp_path: Path, receiver: Receiver) -> None:
    receiver.status = 503
    spec = job(write_sources(tmp_path), notify={"webhook": receiver.url, "command": ["/no/such/program"]})
    folder = run(job(write_sources(tmp_path)), tmp_path / "runs", id="one")
    now = time.time() + 10

    def clock() -> float:
        return now

    with Caretaker.take(folder, clock=clock) as keeper:
        keeper.append([ev.NoticeDue(notice="finished", occasion="finished", reason="done", ways=spec.notify.ways())], {})
        outbox = Outbox(folder, spec, keeper.state, keeper.store, keeper.append, clock)
        waits = []
        while keeper.state.outbox:
            asyncio.run(outbox.deliver())
            before, now = now, max((row.retry_at for row in keeper.state.outbox.values()), default=now)
            waits.append(now - before)
    assert [round(wait) for wait in waits[:4]] == [2, 4, 8, 16] and len(receiver.posted) == ATTEMPTS
    assert {one["id"] for one in receiver.posted} == {"one:finished"}
    failures = [event.body for event in events_of(folder) if isinstance(event.body, ev.NoticeFailed)]
    assert len(failures) == 2 * ATTEMPTS and failures[-1].retry_at is None
    with folder.reader() as reader:
        words = {reader.body(body.error).decode() for body in failures}
    assert words == {"the webhook answers 503", "/no/such/program cannot be run: No such file or directory"}


def test_a_command_that_hangs_holds_up_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    notify = {"command": ["sh", "-c", f"echo $$ >> {pids}; sleep 300 & echo $! >> {pids}; wait; true"]}
    spec = job(write_sources(tmp_path), notify=notify)
    folder = run(job(tmp_path / "code"), tmp_path / "runs", id="one")
    with Caretaker.take(folder) as keeper:
        for number in range(5):
            left = ev.NoticeDue(notice=f"question:{number}", occasion="waiting", reason="why?", ways=("command",))
            keeper.append([left], {})
        outbox = Outbox(folder, spec, keeper.state, keeper.store, keeper.append, patience=0.5)
        began = time.monotonic()
        asyncio.run(outbox.deliver())
        assert time.monotonic() - began < 5.0
        attempts = [row.attempts for row in keeper.state.outbox.values()]
    assert sorted(attempts) in ([0, 0, 0, 0, 1], [0, 0, 0, 1, 1]), "those behind one that hangs wait for the next time"
    with folder.reader() as reader:
        failures = [event.body for event in reader.read() if isinstance(event.body, ev.NoticeFailed)]
        assert {reader.body(body.error).decode() for body in failures} == {"the command took longer than 0.5 s"}
    end = time.monotonic() + 10
    while any(map(lives, pids.read_text().split())):
        assert time.monotonic() < end, "the command, or what it started, lives on"
        subprocess.run(["sleep", "0.05"], check=True)


def test_a_command_that_hangs_keeps_no_webhook_from_its_notices_nor_from_a_later_one(
    tmp_path: Path, receiver: Receiver
) -> None:
    spec = job(write_sources(tmp_path), notify={"webhook": receiver.url, "command": ["sleep", "300"]})
    folder, later = run(job(tmp_path / "code"), tmp_path / "runs", id="one"), "question:9"
    with Caretaker.take(folder) as keeper:

        def fall_due(notice: str) -> None:
            keeper.append([ev.NoticeDue(notice=notice, occasion="waiting", reason="?", ways=spec.notify.ways())], {})

        async def deliver() -> None:
            all_sent = asyncio.Event()

            def append(bodies: list[ev.Body], texts: Mapping[str, bytes]) -> None:
                keeper.append(bodies, texts)
                if not any(row.way == "webhook" for row in keeper.state.outbox.values()):
                    all_sent.set()

            outbox = Outbox(folder, spec, keeper.state, keeper.store, append, patience=4.0)
            delivering = asyncio.create_task(outbox.deliver())
            async with asyncio.timeout(8):
                await all_sent.wait()
                all_sent.clear()
                fall_due(later)
                await all_sent.wait()
            delivering.cancel()
            await asyncio.wait([delivering])

        for number in range(4):
            fall_due(f"question:{number}")
        asyncio.run(deliver())
        assert [row.attempts for row in keeper.state.outbox.values()] == [0] * 5, "the command was still at its first"
    wanted = [*(f"question:{number}" for number in range(4)), later]
    assert sent(events_of(folder)) == [(notice, "webhook") for notice in wanted], "once each, in order"
    assert [one["id"] for one in receiver.posted] == [f"one:{notice}" for notice in wanted]


def test_a_notice_is_sent_once_although_another_state_hears_of_it(tmp_path: Path, receiver: Receiver) -> None:
    spec = job(write_sources(tmp_path), notify={"webhook": receiver.url})
    folder, heard = run(job(tmp_path / "code"), tmp_path / "runs", id="one"), list[ev.Body]()
    with Caretaker.take(folder) as keeper:
        keeper.append([ev.NoticeDue(notice="question:1", occasion="waiting", reason="?", ways=("webhook",))], {})
        outbox = Outbox(folder, spec, keeper.state, keeper.store, lambda bodies, texts: heard.extend(bodies), patience=1.0)
        asyncio.run(outbox.deliver())
    assert [one["id"] for one in receiver.posted] == ["one:question:1"] and len(heard) == 1


def test_with_a_command_that_always_hangs_each_notice_gets_its_tries(tmp_path: Path) -> None:
    spec = job(write_sources(tmp_path), notify={"command": ["sleep", "300"]})
    folder, now = run(job(tmp_path / "code"), tmp_path / "runs", id="one"), time.time()
    with Caretaker.take(folder) as keeper:
        for number in range(3):
            left = ev.NoticeDue(notice=f"question:{number}", occasion="waiting", reason="?", ways=("command",))
            keeper.append([left], {})
        outbox = Outbox(folder, spec, keeper.state, keeper.store, keeper.append, lambda: now, patience=0.05)
        for _ in range(3):
            now += 3600.0  # each may be tried again
            asyncio.run(outbox.deliver())
        attempts = [row.attempts for row in keeper.state.outbox.values()]
    assert min(attempts) >= 1 and max(attempts) - min(attempts) <= 1


def lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_command_that_leaves_a_child_behind_has_told_once_it_ends(tmp_path: Path) -> None:
    told, child = tmp_path / "told", tmp_path / "child"
    script = f"cat >> {told}; echo >> {told}; echo no trouble >&2; sleep 300 & echo $! > {child}; exit 0"
    began = time.monotonic()
    try:
        folder = run(job(write_sources(tmp_path), notify={"command": ["sh", "-c", script]}), tmp_path / "runs")
        assert time.monotonic() - began < WAY_SECONDS
        os.kill(int(child.read_text()), 0)
    finally:
        os.kill(int(child.read_text()), signal.SIGKILL)
    assert sent(events_of(folder)) == [("finished", "command")]
    assert [json.loads(line)["occasion"] for line in told.read_text().splitlines()] == ["finished"], "once"


def test_whatever_keeps_a_notice_from_getting_through_is_a_failed_delivery(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that no library knows, and a program that no system can be given."""
    monkeypatch.setenv("ALL_PROXY", "nonsense://127.0.0.1:9")
    spec = job(write_sources(tmp_path), notify={"webhook": receiver.url, "command": ["no\0program"]})
    folder = run(job(write_sources(tmp_path)), tmp_path / "runs", id="one")
    with Caretaker.take(folder) as keeper:
        keeper.append([ev.NoticeDue(notice="finished", occasion="finished", reason="done", ways=spec.notify.ways())], {})
        asyncio.run(Outbox(folder, spec, keeper.state, keeper.store, keeper.append).deliver())
        assert [row.attempts for row in keeper.state.outbox.values()] == [1, 1], "both are tried again"
        failures = [event.body for event in keeper.store.read() if isinstance(event.body, ev.NoticeFailed)]
        words = sorted(keeper.store.body(body.error).decode() for body in failures)
    assert words == ["the command failed (ValueError)", "the webhook failed (ValueError)"] and not receiver.posted


@pytest.mark.skipif(find_spec("socksio") is not None, reason="what such a proxy needs is installed")
def test_a_proxy_that_needs_a_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(SwarmError, match=r"^the webhook cannot be called: .*'socksio' package is not installed"):
        asyncio.run(post_webhook(job(Path("x"), notify={"webhook": "https://x/secret"}).notify, {}))


def test_the_last_words_of_a_command_that_fails_are_told() -> None:
    noisy = ("sh", "-c", "seq 100000 >&2; echo no such phone >&2; exit 3")
    with pytest.raises(SwarmError, match=r"^sh ended with exit code 3: .* 100000 no such phone$") as caught:
        asyncio.run(run_command(noisy, {}))
    assert len(caught.value.message) < 400


def test_a_command_that_says_too_much_has_no_room_for_it() -> None:
    with pytest.raises(SwarmError, match="exit code 7"):
        asyncio.run(run_command(("sh", "-c", f"head -c {SAID_BYTES + 1} /dev/zero >&2 && exit 0; exit 7"), {}))


def test_what_a_dead_driver_did_not_tell_the_supervisor_tells(tmp_path: Path, receiver: Receiver) -> None:
    folder = run(job(write_sources(tmp_path), notify={"webhook": receiver.url}), tmp_path / "runs", id="one")
    left = ev.NoticeDue(notice="question:1", occasion="waiting", reason="why?", ways=("webhook",))
    with Caretaker.take(folder) as keeper:
        keeper.append([left], {})
    supervisor = Supervisor([str(folder.root)])
    (seen,) = asyncio.run(supervisor.look())
    assert (seen.what, seen.detail) == ("told", "1 of 1 notices") and receiver.occasions() == ["finished", "waiting"]
    assert asyncio.run(supervisor.look()) == [] == asyncio.run(Supervisor([str(folder.root)]).look())
    assert receiver.occasions() == ["finished", "waiting"], "once"
    status = read_status(folder)
    assert status.status == "done", "whoever only writes something down changes nothing"
    watch = LogWatch()
    for event in events_of(folder):
        watch.see(event)


def test_a_notice_waits_its_time_though_its_log_is_ahead_of_the_clock(tmp_path: Path, receiver: Receiver) -> None:
    """How long it has waited before this supervisor came, nobody can say: it is tried at once, and from then on in turn."""
    folder = run(job(write_sources(tmp_path), notify={"webhook": receiver.url}), tmp_path / "runs", id="one")
    receiver.status, ahead, passed = 503, time.time() + 86400, 0.0
    left = ev.NoticeDue(notice="question:1", occasion="waiting", reason="why?", ways=("webhook",))
    failed = ev.NoticeFailed(notice="question:1", way="webhook", error=body_hash(b"x"), retry_at=ahead + 60)
    with Caretaker.take(folder, clock=lambda: ahead) as keeper:
        keeper.append([left], {})
        keeper.append([failed], {body_hash(b"x"): b"x"})
    supervisor = Supervisor([str(folder.root)], ticks=lambda: passed)
    tried = []
    for _ in range(8):
        tried.append(len(asyncio.run(supervisor.look())))
        passed += 1.0
    assert tried == [1, 0, 0, 0, 0, 1, 0, 0], "after its second failure it waits 4 s from the next look on"
    receiver.status = 200
    (seen,) = asyncio.run(Supervisor([str(folder.root)]).look())
    assert (seen.what, seen.detail) == ("told", "1 of 1 notices"), "as one that looks once does"


@pytest.mark.parametrize(
    ("notify", "says"),
    [
        ({"command": ["/no/such/program"]}, r"notify\.command: '/no/such/program' is no program(.|\n)*make it executable"),
        ({"command": [__file__]}, r"notify\.command: .* is no program"),
        ({"webhook": "env:NO_SUCH_HOOK"}, r"notify\.webhook: the environment variable NO_SUCH_HOOK is not set\n  set it"),
        ({"webhook": "https://x/", "key": "env:NO_SUCH_KEY"}, r"notify\.key: the environment variable NO_SUCH_KEY is not set"),
    ],
)
def test_what_can_reach_nobody_is_known_before_anything_is_spent(tmp_path: Path, notify: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        run(job(write_sources(tmp_path), notify=notify), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_what_nobody_was_told_is_said_with_the_reason(tmp_path: Path) -> None:
    folder = run(job(write_sources(tmp_path)), tmp_path / "runs", id="one")
    dead, down = b"tell.sh ended with exit code 3: no such phone", b"the webhook answers 503"
    ways = ("command", "webhook")
    with Caretaker.take(folder) as keeper:
        for notice in ("question:1", "question:2", "finished"):
            keeper.append([ev.NoticeDue(notice=notice, occasion=notice.partition(":")[0], reason="x", ways=ways)], {})
            gone = ev.NoticeFailed(notice=notice, way="command", error=body_hash(dead), retry_at=None)
            keeper.append([gone], {body_hash(dead): dead})
        waits = ev.NoticeFailed(notice="finished", way="webhook", error=body_hash(down), retry_at=time.time() + 9)
        first = waits.model_copy(update={"notice": "question:1"})
        keeper.append([first, ev.NoticeSent(notice="question:1", way="webhook"), waits], {body_hash(down): down})
    said = [
        f"3 notices by command (question, finished): {dead.decode()}; not tried again",
        "1 notice by webhook (question): not tried yet",
        f"1 notice by webhook (finished): {down.decode()}",
    ]
    status = swarm("status", "one", "--runs", folder.root)
    assert all(f"  not told  {line}\n" in status.out for line in said)
    document = swarm("status", "one", "--runs", folder.root, "--json").document
    assert [one["way"] for one in document["untold"]] == ["command", "command", "webhook", "command", "webhook"]
    lines = account_lines(folder, state_of(folder), job(tmp_path / "code"), None, None)
    assert [line for line in lines if "told" in line] == [f"not told: {line}" for line in said]
    with folder.reader() as reader:
        (warning,) = [one for one in notices(gather(reader, held=False)) if one.title == "Not told"]
    assert all(line in warning.text for line in said)


def test_what_was_never_tried_counts_as_not_told_once_nobody_works_on_the_job(tmp_path: Path) -> None:
    folder = run(job(write_sources(tmp_path)), tmp_path / "runs", id="one")

    def not_told() -> bool:
        swarm("report", "one", "--runs", folder.root)
        last = "\n".join(account_lines(folder, state_of(folder), spec, None, None))
        said = [swarm("status", "one", "--runs", folder.root).out, folder.report_markdown.read_text(), last]
        (found,) = {"1 notice by webhook (waiting): not tried yet" in words for words in said}
        return found

    spec = job(tmp_path / "code")
    with Caretaker.take(folder) as keeper:
        keeper.append([ev.NoticeDue(notice="waiting:7", occasion="waiting", reason="x", ways=("webhook",))], {})
        assert not not_told(), "whoever works on it may be about to"
    assert not_told()


def test_nothing_of_a_notice_is_half_said() -> None:
    for notify, words in (
        ({"webhook": "ftp://x"}, "http"),
        ({"webhook": "https://u:p@x/"}, "user or password"),
        ({"webhook": "https://x/", "key": "s3cret"}, "plain text"),
        ({"key": "env:KEY"}, "webhook"),
        ({"command": [" "]}, "without a program"),
    ):
        with pytest.raises(SpecError, match=words) as caught:
            job(Path("x"), notify=notify)
        assert "s3cret" not in str(caught.value)
