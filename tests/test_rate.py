"""The bucket and the turnstile of an endpoint by stepping their clock, and the gate that many calls pass in few messages."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from swarm.errors import ModelError
from swarm.models.rate import (
    ASK_SECONDS,
    BURST_SECONDS,
    CREEP,
    LONGEST_HOLD,
    PATIENCE_SECONDS,
    SILENT_SECONDS,
    SLOWEST,
    Asked,
    Bucket,
    Gate,
    Let,
    Turnstile,
)
from swarm.spec import Rate
from tests.jumping_clock import run


def bucket(requests: float | None = None, tokens: float | None = None) -> Bucket:
    return Bucket(Rate(requests_per_minute=requests, tokens_per_minute=tokens), random.Random(0))


def times(one: Bucket, seconds: float, tokens: int = 1) -> list[float]:
    """When calls go out until then, if there are always more that want to."""
    now, out = 0.0, []
    while (now := now + one.wait(now)) <= seconds:
        one.take(now, tokens)
        out.append(now)
        assert len(out) < 100_000
    return out


def test_a_bucket_without_limits_holds_nobody() -> None:
    one = bucket()
    for _ in range(1000):
        assert one.wait(0.0) == 0.0
        one.take(0.0, 10**9)


@pytest.mark.parametrize(("limits", "tokens"), [((60.0, None), 1), ((None, 6000.0), 100)], ids=["requests", "tokens"])
def test_no_more_goes_out_in_a_minute_than_is_allowed(limits: tuple[float | None, float | None], tokens: int) -> None:
    assert 54 <= len(times(bucket(*limits), 50.0, tokens)) <= 60


def test_calls_go_out_evenly_after_what_was_saved_up() -> None:
    out = times(bucket(60.0), 20.0)
    burst = round(BURST_SECONDS) + 1
    assert out[:burst] == [0.0] * burst and out[burst:] == pytest.approx([float(second) for second in range(1, 21)])


def test_the_endpoints_own_word_is_obeyed() -> None:
    one = bucket()
    assert one.wait(0.0) == 0.0
    one.refused(1.0, 30.0)
    assert one.wait(2.0) == pytest.approx(29.0)
    one.refused(2.0, 40.0)
    assert one.shut == 42.0, "of several words the last one to let anybody in holds"
    one.refused(3.0, 5.0)
    assert one.shut == 42.0
    assert one.wait(42.0) == 0.0
    one.take(42.0, 1)
    assert one.wait(42.0) > 0.0, "what comes first after it comes in no burst"


def test_refusals_without_a_word_hold_for_longer_each_time_within_bounds() -> None:
    one, now, holds = bucket(), 0.0, []
    for _ in range(12):
        one.take(now, 1)
        one.refused(now, 0.0)
        holds.append(one.shut - now)
        now = one.shut
    for number, hold in enumerate(holds):
        assert 0.5 <= hold / min(LONGEST_HOLD, 2.0**number) <= 1.5
    assert len({round(hold, 6) for hold in holds[-4:]}) == 4, "drawn at random, so that many callers do not come at once"


def test_a_storm_is_one_refusal_and_halves_the_pace_once() -> None:
    one = bucket()
    for _ in range(100):
        one.take(0.0, 1)
    for _ in range(100):
        one.refused(1.0, 0.0)
    assert one.pace == 60.0 * 100 / 2
    one.refused(one.shut, 0.0)
    assert one.pace < 60.0 * 100 / 4


def test_answers_let_the_pace_creep_up_to_what_is_allowed() -> None:
    one = bucket(60.0)
    now = 0.0
    for _ in range(20):
        one.refused(now, 0.0)
        now = one.shut
    assert one.pace == SLOWEST
    for _ in range(200):
        one.answered()
    assert one.pace == SLOWEST + 200 * CREEP and len(times(one, 50.0)) <= 60


def test_the_lowest_of_several_limits_holds_as_long_as_the_job_is_there_that_names_it() -> None:
    one, low, high = bucket(), Rate(requests_per_minute=60.0, tokens_per_minute=1000.0), Rate(requests_per_minute=6000.0)
    one.name(0.0, Rate(requests_per_minute=600.0), until=100.0)
    one.name(0.0, low, until=100.0)
    one.name(0.0, high, until=100.0)
    assert one.rate == low
    one.name(10.0, low, until=50.0)
    one.name(99.0, high, until=199.0)
    assert one.rate == low, "another job said it as well, and its calls take longer"
    one.name(100.0, high, until=200.0)
    assert one.rate == high, "nobody has named the others for so long"
    one.name(110.0, low, until=150.0)
    assert one.rate == low
    one.name(200.0, Rate(), until=300.0)
    assert one.rate == Rate(), "and the last of them may know of none"


class Crowd:
    """Hosts of several jobs before one turnstile, whose calls are answered as soon as they are let out. What the bucket had
    saved up, the first to ask has had."""

    def __init__(self, rate: Bucket, **hosts: tuple[float, int, int]) -> None:
        """Host → its job's weight, how many callers it has, and what each call may take."""
        self.turnstile, self.hosts = Turnstile(rate), hosts
        self.numbers = {host: list(range(callers)) for host, (_, callers, _) in hosts.items()}
        self.out: Counter[str] = Counter()
        self.now = 0.0
        self.go_on(5.0)
        self.out.clear()

    def ask(self, host: str) -> Let:
        weight, _, tokens = self.hosts[host]
        job = host.partition("_")[0]
        let = self.turnstile.ask(self.now, Asked(host, job, weight, [(number, tokens) for number in self.numbers[host]]))
        for number in let.calls:
            self.numbers[host].remove(number)
            self.numbers[host].append(number + 1_000_000)  # the caller's next call
        self.out[job] += len(let.calls)
        return let

    def go_on(self, seconds: float, step: float = 0.25) -> None:
        """Every host asks in each step, in turns."""
        until = self.now + seconds
        while self.now < until:
            for host in self.hosts:
                self.ask(host)
            self.now += step


@pytest.mark.parametrize(("weights", "expected"), [((1.0, 1.0), 0.5), ((1.0, 3.0), 0.75), ((9.0, 1.0), 0.1)])
@pytest.mark.parametrize("step", [0.25, 1.0])
def test_what_an_endpoint_allows_goes_to_jobs_by_weight_whoever_has_more_callers(
    weights: tuple[float, float], expected: float, step: float
) -> None:
    crowd = Crowd(bucket(600.0), a_1=(weights[0], 128, 10), a_2=(weights[0], 128, 10), b_1=(weights[1], 32, 10))
    crowd.go_on(60.0, step)
    assert crowd.out["b"] / crowd.out.total() == pytest.approx(expected, abs=0.02)
    assert 590 <= crowd.out.total() <= 610, "and no place is lost"


def test_tokens_are_what_is_shared() -> None:
    crowd = Crowd(bucket(600.0), long=(1.0, 64, 900), short=(1.0, 64, 100))
    crowd.go_on(60.0)
    assert crowd.out["short"] / crowd.out["long"] == pytest.approx(9.0, rel=0.1)


def test_a_limit_of_tokens_holds_for_all_jobs_together() -> None:
    crowd = Crowd(bucket(tokens=60_000.0), a=(1.0, 64, 100), b=(1.0, 64, 100))
    crowd.go_on(60.0)
    assert 590 <= crowd.out.total() <= 610


def test_what_a_job_leaves_over_goes_to_the_others() -> None:
    crowd = Crowd(bucket(600.0), a=(1.0, 64, 10), idle=(9.0, 0, 10))
    crowd.go_on(60.0)
    assert crowd.out["a"] >= 590


def test_the_calls_of_a_host_that_has_died_or_has_given_them_up_take_no_turns() -> None:
    crowd = Crowd(bucket(600.0), alive=(1.0, 64, 10), dead=(1.0, 64, 10))
    del crowd.hosts["dead"]
    crowd.go_on(60.0)
    assert crowd.out["alive"] >= 590 - SILENT_SECONDS * 10 / 2
    crowd.hosts["other"] = (1.0, 64, 10)
    crowd.numbers["other"] = list(range(64))
    crowd.ask("other")
    crowd.numbers["other"] = []
    assert crowd.ask("other").calls == []
    before = crowd.out["alive"]
    crowd.go_on(10.0)
    assert crowd.out["alive"] - before >= 98


def test_a_message_that_is_lost_costs_a_place_and_no_call() -> None:
    crowd = Crowd(bucket(600.0), a=(1.0, 20, 10))
    calls = crowd.numbers["a"].copy()
    assert crowd.turnstile.ask(crowd.now, Asked("a", "a", 1.0, [(number, 10) for number in calls])).calls  # nobody hears it
    crowd.go_on(5.0)
    assert not set(calls) & set(crowd.numbers["a"])


def test_a_call_that_was_let_out_is_let_out_once_though_its_host_asks_later() -> None:
    crowd = Crowd(bucket(60.0), a=(1.0, 20, 10))
    crowd.hosts["b"], crowd.numbers["b"] = (1.0, 1, 10), [0]
    while crowd.ask("b").calls:
        pass
    waiting, crowd.now = crowd.numbers["b"].copy(), crowd.now + 3.0
    crowd.ask("a")
    assert crowd.ask("b").calls == waiting, "its turn came when another asked"
    assert crowd.turnstile.accounts()["b"].waiting == 0, "and it does not stand in the line again"
    assert crowd.turnstile.ask(crowd.now, Asked("b", "b", 1.0)) == Let([], crowd.turnstile.bucket.wait(crowd.now))


def test_calls_that_were_let_out_and_have_not_heard_of_it_wait_while_the_endpoint_is_shut() -> None:
    crowd = Crowd(bucket(60.0), a=(1.0, 2, 10))
    while crowd.ask("a").calls:
        pass
    calls, crowd.now = crowd.numbers["a"].copy(), crowd.now + 3.0
    crowd.turnstile.ask(crowd.now, Asked("b", "b", 1.0))  # lets them out
    crowd.turnstile.ask(crowd.now, Asked("b", "b", 1.0, (), 0, (10.0,)))
    assert crowd.ask("a").calls == []
    crowd.now += 10.0
    assert crowd.ask("a").calls == calls and not crowd.turnstile.ask(crowd.now, Asked("a", "a", 1.0)).calls
    assert crowd.turnstile.accounts()["a"].longest == pytest.approx(3.5, abs=0.5)
    assert not crowd.turnstile._hosts and not crowd.turnstile._turns, "nothing is kept of who waits for nothing"


def test_the_longest_wait_is_told_also_of_calls_that_gave_up() -> None:
    crowd = Crowd(bucket(60.0), a=(1.0, 20, 10))
    crowd.hosts["b"], crowd.numbers["b"] = (0.001, 2, 10), [0, 1]
    crowd.go_on(20.0)
    crowd.numbers["b"] = []
    crowd.ask("b")
    assert crowd.turnstile.accounts()["b"].longest == pytest.approx(20.0, abs=1.0)


class Sends:
    """The other side of a gate: a turnstile by the loop's clock, and what it was asked. A message takes `seconds`, and so does
    its answer."""

    def __init__(self, rate: Bucket | None = None, seconds: float = 0.0) -> None:
        self.asked: list[Asked] = []
        self.turnstile, self.seconds = Turnstile(rate or bucket()), seconds

    async def send(self, asked: Asked) -> Let:
        self.asked.append(asked)
        await asyncio.sleep(self.seconds)
        let = self.turnstile.ask(now(), asked)
        await asyncio.sleep(self.seconds)
        return let

    def gate(self, job: str = "job", weight: float = 2.0) -> Gate:
        return Gate(job, weight, self.send)

    def calls(self) -> list[list[tuple[int, int]]]:
        return [list(asked.calls) for asked in self.asked]


def now() -> float:
    return asyncio.get_running_loop().time()


def test_calls_of_one_moment_pass_in_one_message_which_tells_of_earlier_answers() -> None:
    async def scene() -> None:
        other = Sends()
        other.turnstile.bucket.pace = 1e9
        gate = other.gate()
        gate.answered()
        gate.answered()
        await asyncio.gather(*[gate.enter(10) for _ in range(50)])
        await gate.enter(10)
        assert [(len(asked.calls), asked.answered) for asked in other.asked] == [(50, 2), (1, 0)]
        assert other.turnstile.bucket.pace == 1e9 + 2 * CREEP
        assert (other.asked[0].job, other.asked[0].weight) == ("job", 2.0)
        gate.refused(7.0)
        await asyncio.sleep(0.1)
        assert list(other.asked[-1].refused) == [7.0] and other.turnstile.bucket.shut == 1007.0
        assert len(other.asked) == 3

    run(scene())


def test_a_host_asks_anew_while_its_calls_wait_and_whenever_another_comes() -> None:
    async def scene() -> None:
        other = Sends(bucket(60.0))
        gate = other.gate()
        await asyncio.gather(*[gate.enter(10) for _ in range(8)])
        assert now() == pytest.approx(1002.0), "six at once, and then one each second"
        asked = len(other.asked)
        waiting = asyncio.create_task(gate.enter(10))
        await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        await gate.enter(20)
        assert other.calls()[asked : asked + 2] == [[(8, 10)], [(8, 10), (9, 20)]]
        await waiting

    run(scene())


def test_a_call_does_not_wait_for_long() -> None:
    async def scene() -> None:
        shut = Sends()
        shut.turnstile.bucket.refused(now(), 100.0)
        with pytest.raises(ModelError, match="100 s until the next call may go") as caught:
            await shut.gate().enter(10)
        assert (caught.value.kind, caught.value.after, caught.value.retryable) == ("overloaded", 70.0, True)
        assert now() == 1000.0
        slow = Sends(bucket(6.0))
        gate = slow.gate()
        ended = await asyncio.gather(*[gate.enter(10) for _ in range(20)], return_exceptions=True)
        late = [one for one in ended if isinstance(one, ModelError)]
        assert 12 <= len(late) <= 14 and now() == pytest.approx(1000.0 + PATIENCE_SECONDS, abs=ASK_SECONDS)
        assert {(one.kind, one.after) for one in late} == {("overloaded", 0.0)}
        assert "no turn for this call within 60 s" in str(late[0])
        await asyncio.sleep(0.1)
        assert slow.calls()[-1] == [], "their turns are others' at once"

    run(scene())


def test_a_call_that_gives_up_is_told_of_at_once() -> None:
    async def scene() -> None:
        other = Sends(bucket(60.0))
        gate = other.gate()
        calls = [asyncio.create_task(gate.enter(10)) for _ in range(10)]
        await asyncio.sleep(0.1)
        waiting = [call for call in calls if not call.done()]
        assert len(waiting) == 4
        for call in waiting:
            call.cancel()
        await asyncio.sleep(0.1)
        assert other.calls() == [[(number, 10) for number in range(10)], []]

    run(scene())


@pytest.mark.parametrize(
    ("per_minute", "tasks", "callers"), [(10.0, 64, 64), (60.0, 300, 64), (600.0, 600, 512), (6000.0, 9000, 256)]
)
@pytest.mark.parametrize("seconds", [0.0, 0.005, 0.3])
def test_no_place_is_lost_though_calls_give_up_and_come_again(
    per_minute: float, tasks: int, callers: int, seconds: float
) -> None:
    async def scene() -> None:
        other = Sends(bucket(per_minute), seconds)
        gate, slots = other.gate(), asyncio.Semaphore(callers)

        async def task() -> None:
            while True:
                async with slots:
                    try:
                        await gate.enter(10)
                    except ModelError as error:
                        assert error.after == 0.0
                    else:
                        await asyncio.sleep(0.2)
                        return
                await asyncio.sleep(1.0)

        await asyncio.gather(*[task() for _ in range(tasks)])
        ideal = (tasks * 60.0 / per_minute) - BURST_SECONDS
        assert now() - 1000.0 <= 1.05 * ideal + 3.0 + 10 * seconds

    run(scene())


async def callers(gate: Gate, count: int, until: float, tokens: int = 10) -> int:
    """How many calls go out until then, if so many callers make one after the other."""
    out = 0

    async def caller() -> None:
        nonlocal out
        while now() < until:
            try:
                await gate.enter(tokens)
                out += 1
                await asyncio.sleep(0.2)
            except ModelError as error:
                await asyncio.sleep(error.after + 1.0)

    await asyncio.gather(*[caller() for _ in range(count)])
    return out


def test_no_call_is_told_twice_while_the_answers_of_others_are_under_way() -> None:
    async def scene() -> None:
        other = Sends(bucket(120.0), seconds=0.4)

        async def host(number: int) -> int:
            await asyncio.sleep(0.17 * number)
            return await callers(other.gate(f"job-{number}", 1.0), 8, 1120.0)

        out = await asyncio.gather(*[host(number) for number in range(10)])
        assert sum(out) == sum(one.calls for one in other.turnstile.accounts().values())

    run(scene())


@pytest.mark.parametrize(
    ("limit", "tokens"), [(bucket(0.8), 10), (bucket(tokens=6000.0), 8000), (bucket(tokens=6000.0), 4000)],
    ids=["seldom", "long", "at once"],
)  # fmt: skip
def test_shares_hold_also_where_the_next_place_is_minutes_away(limit: Bucket, tokens: int) -> None:
    async def scene() -> None:
        other = Sends(limit, seconds=0.01)
        light, heavy = await asyncio.gather(
            *[callers(other.gate(job, weight), 8, 13_000.0, tokens) for job, weight in (("light", 1.0), ("heavy", 3.0))]
        )
        assert light / (light + heavy) == pytest.approx(0.25, abs=0.02)
        assert light + heavy >= 0.97 * (160 if tokens == 10 else 1_200_000 / tokens)

    run(scene())


def test_a_call_that_gives_up_while_it_is_let_out_leaves_its_place_to_another() -> None:
    async def scene() -> None:
        answers, asked = [Let([], 1.0), Let([0], 1.0)], 0

        async def send(_: Asked) -> Let:
            nonlocal asked
            asked += 1
            await asyncio.sleep(0.2)
            return answers.pop(0)

        gate = Gate("job", 1.0, send)
        first, second = asyncio.create_task(gate.enter(10)), asyncio.create_task(gate.enter(10))
        while asked < 2:
            await asyncio.sleep(0.1)
        first.cancel()
        await second
        assert first.cancelled() and now() == pytest.approx(1001.4), "with the answer that was meant for the other"

    run(scene())


def test_an_error_on_the_way_reaches_every_call_and_what_was_to_be_said_is_said_later() -> None:
    async def scene() -> None:
        other, broken = Sends(), True
        other.turnstile.bucket.pace = 60.0

        async def send(asked: Asked) -> Let:
            await asyncio.sleep(0.2)
            if broken:
                raise ConnectionError("gone")
            return await other.send(asked)

        gate = Gate("job", 1.0, send)
        gate.answered()
        gate.refused(1.0)
        calls = [asyncio.create_task(gate.enter(1)) for _ in range(3)]
        await asyncio.sleep(0.1)
        later = asyncio.create_task(gate.enter(2))
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in errors] == [ConnectionError] * 3
        broken = False
        await later
        assert other.calls()[0] == [(3, 2)]
        assert (other.asked[0].answered, list(other.asked[0].refused)) == (1, [1.0])

    run(scene())
