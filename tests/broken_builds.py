"""The broken builds that the tests must catch, as patches of the source.

Each is a fault that such systems have had. `tests/mutants.py` applies them to a copy of the tree, one at a time, and runs
the tests that are named here: each of them must fail. Nothing of this is in the shipped code. A patch names a piece of text
that must stand in its file exactly once; `test_broken_builds.py` says when one no longer fits. A fault that each store could
have for itself, or that has two halves, stands here as several builds of one number: it is caught if all of them are.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patch:
    """In `file`, `old` becomes `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class BrokenBuild:
    """One fault. `tests` are the names of those that must fail with it; `waits` says why there can be none yet."""

    number: int
    name: str
    patches: tuple[Patch, ...] = ()
    tests: tuple[str, ...] = ()
    waits: str = ""


MASTER, SQLITE, COORDINATOR, STATE = (
    "swarm/runtime/master.py", "swarm/store/sqlite.py", "swarm/coordinator/coordinator.py", "swarm/coordinator/state.py",
)  # fmt: skip
FAULTS, JITTER = "swarm/coordinator/faults.py", "jitter = int(identity(*which), 16) / float(1 << 64)"

BUILDS: tuple[BrokenBuild, ...] = (
    BrokenBuild(
        1, "acknowledges before the commit",
        (Patch(MASTER, "        await future\n", "        future.add_done_callback(asyncio.Future.exception)\n"),),
        ("tests/test_master.py::test_a_pull_is_not_acknowledged_by_a_commit_that_failed_before_its_own",
         "tests/test_master.py::test_pulls_of_one_round_share_a_commit_and_are_answered_after_it"),
    ),
    BrokenBuild(
        2, "synchronous = NORMAL",
        (Patch("swarm/store/connection.py", "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint",
               "PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint"),),
        ("tests/test_store_crashes.py::test_every_image_of_a_power_cut_holds_what_was_acknowledged",
         "tests/test_store.py::test_commits_are_on_the_disk_when_they_return"),
    ),
    BrokenBuild(
        2, "synchronous_commit = off (PostgreSQL)",
        (Patch("swarm/store/database.py", '"SET synchronous_commit = on"', '"SET synchronous_commit = off"'),),
        ("tests/test_store_postgres.py::test_commits_are_on_the_disk_when_they_return",
         "tests/test_store_postgres.py::test_a_server_stopped_the_hard_way_loses_nothing_and_its_writers_go_on"),
    ),
    BrokenBuild(
        3, "compares the epoch outside the append transaction",
        (Patch(SQLITE, '        writing.execute("BEGIN IMMEDIATE")\n        self._check_epoch()\n',
               '        self._check_epoch()\n        writing.execute("BEGIN IMMEDIATE")\n'),),
        ("tests/test_store_races.py::test_a_takeover_right_before_an_append_begins_is_seen_within_it",
         "tests/test_store_races.py::test_what_a_new_holder_appends_before_a_stale_one_stays_alone"),
    ),
    BrokenBuild(
        3, "compares no epoch in the append transaction (PostgreSQL)",
        (Patch("swarm/store/postgres.py", "WHERE number = %s AND epoch = %s AND seq = %s\"",
               "WHERE number = %s AND epoch >= 0 * %s AND seq = %s\""),),
        ("tests/test_store.py::test_a_writer_that_lost_its_hold_is_fenced",
         "tests/test_store_processes.py::test_a_process_that_was_frozen_past_its_hold_cannot_append"),
    ),
    BrokenBuild(
        4, "takes over without raising the epoch",
        (Patch(SQLITE, "UPDATE meta SET value = value + 1 WHERE name = 'epoch'",
               "UPDATE meta SET value = value + (value = 0) WHERE name = 'epoch'"),),
        ("tests/test_store.py::test_a_writer_that_lost_its_hold_is_fenced",
         "tests/test_store_processes.py::test_a_process_that_was_frozen_past_its_hold_cannot_append"),
    ),
    BrokenBuild(
        4, "takes over without raising the epoch (PostgreSQL)",
        (Patch("swarm/store/hold.py", "SET epoch = epoch + 1, holder", "SET epoch = greatest(epoch, 1), holder"),
         Patch("swarm/store/hold.py", "    return number, place, epoch + 1", "    return number, place, max(epoch, 1)")),
        ("tests/test_store.py::test_a_writer_that_lost_its_hold_is_fenced",
         "tests/test_store_processes.py::test_a_process_that_was_frozen_past_its_hold_cannot_append"),
    ),
    BrokenBuild(
        5, "takes a job up from a stale list, without a claim to it",
        (Patch("swarm/runtime/driver.py", '*(["--since", str(last)] if at is None else ["--at", str(at)])]', "]"),),
        ("tests/test_supervise.py::test_what_was_touched_just_now_or_has_moved_on_is_left_alone",
         "tests/test_recovery_claims.py::test_a_driver_is_told_where_the_log_ended_that_its_supervisor_saw"),
    ),
    BrokenBuild(
        5, "gives a job up from a stale list, without a claim to it",
        (Patch("swarm/runtime/caretaker.py", "store.last() != at:", "store.last() < at:"),),
        ("tests/test_recovery_claims.py::test_a_job_that_has_moved_on_is_not_given_up",
         "tests/test_recovery_claims.py::test_a_job_that_has_moved_on_is_not_paused"),
    ),
    BrokenBuild(
        6, "swallows an error of the store while recovering",
        (Patch("swarm/runtime/supervise.py",
               '            return Seen(run.id, "error", _words(error))\n', "            return None\n"),
         Patch("swarm/runtime/supervise.py", '                return Seen(run.id, "error", f"{status.detail}; ',
               '                return None and Seen(run.id, "error", f"{status.detail}; ')),
        ("tests/test_supervise.py::test_a_store_that_fails_is_told_and_looked_at_again",
         "tests/test_supervise.py::test_a_crash_loop_is_left_paused_and_stays_so"),
    ),
    BrokenBuild(
        7, "a new master hands out the fencing tokens of the old one",
        (Patch(STATE, "    state.ledger.forget()\n", "    state.ledger.forget()\n    state.token = 0\n"),),
        ("tests/test_coordinator.py::test_a_new_master_ends_every_lease_and_its_tokens_go_on_rising",
         "tests/test_simulator.py::test_faults_without_end_break_no_promise"),
    ),
    BrokenBuild(
        8, "the sweep for orphans adopts a job that is just being started",
        (Patch("swarm/runtime/supervise.py", "        if quiet < (wanted := quiet_before(vain)):", "        if False:"),),
        ("tests/test_supervise.py::test_what_was_touched_just_now_or_has_moved_on_is_left_alone",
         "tests/test_supervise.py::test_supervise_once_says_what_it_did"),
    ),
    BrokenBuild(
        9, "decides by hash()", (Patch(FAULTS, JITTER, "jitter = abs(hash(which)) / float(1 << 64)"),),
        ("tests/test_simulator.py::test_the_order_of_hashes_does_not_show",),
    ),
    BrokenBuild(
        9, "decides by the order of a set",
        (Patch(COORDINATOR, "        for row in [row for row in self.state.tasks.values() if row.token and row.host == host]:\n",
               "        held = {row.id for row in self.state.tasks.values() if row.token and row.host == host}\n"
               "        for row in map(self.state.tasks.__getitem__, held):\n"),),
        ("tests/test_simulator.py::test_the_order_of_hashes_does_not_show",),
    ),
    BrokenBuild(
        9, "decides by the clock of the machine", (Patch(FAULTS, JITTER, "jitter = __import__('time').time() % 1.0"),),
        ("tests/test_simulator.py::test_the_same_seed_gives_the_same_log",),
    ),
    BrokenBuild(
        9, "decides by random", (Patch(FAULTS, JITTER, "jitter = __import__('random').random()"),),
        ("tests/test_simulator.py::test_the_same_seed_gives_the_same_log",),
    ),
    BrokenBuild(
        10, "the key of a call holds the attempt's number",
        (Patch("swarm/runtime/calls.py", "key = call_key(self._job, task, turn,",
               'key = call_key(self._job, f"{task}:{doing.work.brief.attempt}", turn,'),),
        ("tests/test_intents.py::test_a_paid_call_that_is_made_again_has_the_key_that_it_had",
         "tests/test_model_faults.py::test_a_person_who_wants_to_be_asked_pays_nothing_twice_unasked"),
    ),
    BrokenBuild(
        10, "the key of a call's record holds the attempt's number",
        (Patch(COORDINATOR, 'key=f"{body.task}:CallFinished:{body.turn}:{body.sample}"',
               'key=f"{body.task}:CallFinished:{body.turn}:{body.sample}:{row.attempt}"'),),
        ("tests/test_coordinator.py::test_a_job_of_one_task",),
    ),
    BrokenBuild(
        11, "writes an intent after its call",
        (Patch("swarm/runtime/calls.py", "            if not await self._intents.declare(*doing.take()):\n",
               "            if doing is None:\n"),
         Patch("swarm/runtime/calls.py", "await self._completed(Request(key, prompt, sampling, channel))\n",
               "await self._completed(Request(key, prompt, sampling, channel))\n"
               "            if self.billed:\n                await self._intents.declare(*doing.take())\n")),
        ("tests/test_intents.py::test_the_intent_of_a_paid_call_is_durable_before_the_call",),
    ),
    # There is no id that all jobs share: a job's numbers are its own, and its one writer commits them in order. What is left
    # of the listed fault is a reader that takes other jobs' events for its own.
    BrokenBuild(
        12, "reads other jobs' events along with its own (PostgreSQL)",
        (Patch("swarm/store/postgres.py", "FROM swarmloom.events WHERE job = %s AND seq > %s AND seq <= %s",
               "FROM swarmloom.events WHERE job >= 0 * %s AND seq > %s AND seq <= %s"),),
        ("tests/test_jobs_apart.py::test_who_follows_a_log_sees_its_own_numbers_without_a_gap",),
    ),
    BrokenBuild(
        13, "skips checksums",
        (Patch("swarm/store/records.py", "cause, kind, version, key, payload) == checksum)\n    except",
               "cause, kind, version, key, payload) is not None)\n    except"),),
        ("tests/test_store_damage.py::test_a_damaged_tail_is_refused_then_cut_with_a_copy_kept",
         "tests/test_store_damage.py::test_a_reader_stops_at_the_damaged_record"),
    ),
    BrokenBuild(
        14, "takes a snapshot and a log that do not belong together",
        (Patch("swarm/store/snapshots.py", "    if record != checksum:\n", "    if record is None:\n"),),
        ("tests/test_snapshots.py::test_a_snapshot_that_is_damaged_or_of_another_log_is_never_used",),
    ),
    BrokenBuild(
        15, "acknowledges a whole group although its append failed",
        (Patch(MASTER, "                    future.set_exception(error)\n", "                    future.set_result(None)\n"),),
        ("tests/test_master.py::test_what_is_not_durable_is_not_acknowledged",),
    ),
    BrokenBuild(
        16, "ignores an error while syncing",
        (Patch(SQLITE, '        writing.execute("COMMIT")\n        self._bodies.',
               '        with suppress(apsw.IOError):\n            writing.execute("COMMIT")\n        self._bodies.'),),
        ("tests/test_store_crashes.py::test_a_failing_disk_costs_nothing_that_was_acknowledged",),
    ),
    BrokenBuild(
        17, "takes an append without an answer for one that failed, and repeats it",
        (Patch(MASTER, "            self.store.append(events, bodies)\n        except StoreError as error:\n",
               "            try:\n                self.store.append(events, bodies)\n            except StoreError:\n"
               "                self.store.append(events, bodies)\n        except StoreError as error:\n"),),
        ("tests/test_lost_replies.py::test_an_append_without_an_answer_is_not_repeated",),
    ),
    BrokenBuild(
        18, "lets Ray repeat the calls of an actor that writes",
        (Patch("swarm/runtime/actors.py", "max_restarts=0, max_task_retries=0", "max_restarts=-1, max_task_retries=-1"),),
        ("tests/test_cluster_faults.py::test_ray_neither_restarts_a_master_nor_repeats_its_calls",),
    ),
    BrokenBuild(
        19, "a stream that goes on gives once more what was delivered",
        (Patch("swarm/api.py", "after = event.seq\n", "pass\n"),),
        ("tests/test_api.py::test_events_come_once_each_in_order_until_the_report",),
    ),
    BrokenBuild(
        20, "reads an older event with a wrong default",
        (Patch("swarm/payload.py", '("CallFinished", 1): lambda fields: {**fields, "cached": False}',
               '("CallFinished", 1): lambda fields: {**fields, "cached": True}'),),
        ("tests/test_golden_logs.py::test_a_golden_log_still_means_what_it_meant",),
    ),
    BrokenBuild(
        21, "bounds no longer what waits at a host: hands out more than it asked for",
        (Patch(COORDINATOR, "row.next, min(most, row.stop - row.next)\n", "row.next, row.stop - row.next\n"),),
        ("tests/test_range_leases.py::test_a_range_is_admitted_as_it_is_asked_for",),
    ),
    BrokenBuild(
        22, "loads an adapter in the place of one that requests still use",
        (Patch("swarm/models/vllm.py", "int(served.digest[:7], 16) + 1", "1"),),
        ("tests/test_adapters.py::test_each_adapter_has_a_number_of_its_own_that_depends_on_its_digest_alone",
         "tests/test_adapters.py::test_requests_under_way_at_once_are_answered_by_their_own_adapters"),
    ),
    BrokenBuild(
        23, "falls back to pickle",
        (Patch("swarm/payload.py", "        fields = msgpack.unpackb(payload, raw=False, strict_map_key=True, max_ext_len=0)\n",
               "        try:\n"
               "            fields = msgpack.unpackb(payload, raw=False, strict_map_key=True, max_ext_len=0)\n"
               "        except ValueError:\n"
               "            import pickle\n\n"
               "            fields = pickle.loads(payload)\n"),),
        ("tests/test_no_pickle.py::test_a_pickle_is_refused_and_never_run",
         "tests/test_no_pickle.py::test_no_module_reads_pickles"),
    ),
)  # fmt: skip
