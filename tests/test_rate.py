"""The bucket of an endpoint by stepping its clock, and the gate that many calls pass in few messages."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from swarm.errors import ModelError
from swarm.models.rate import CREEP, LONGEST_HOLD, PATIENCE_SECONDS, SLOWEST, Asked, Bucket, Gate, ask
from swarm.spec import Rate


def bucket(requests: float | None = None, tokens: float | None = None) -> Bucket:
    return Bucket(Rate(requests_per_minute=requests, tokens_per_minute=tokens), random.Random(0))


def out_within(one: Bucket, seconds: float, tokens: int = 1) -> int:
    """How many calls go out in that time, if there are always more that want to."""
    count = 0
    while (wait := one.enter(0.0, tokens)) <= min(seconds, PATIENCE_SECONDS):
        count += wait <= seconds
    return count


def test_a_bucket_without_limits_holds_nobody() -> None:
    one = bucket()
    assert [one.enter(0.0, 10**9) for _ in range(1000)] == [0.0] * 1000


@pytest.mark.parametrize(("limits", "tokens"), [((60.0, None), 1), ((None, 6000.0), 100)], ids=["requests", "tokens"])
def test_no_more_goes_out_in_a_minute_than_is_allowed(limits: tuple[float | None, float | None], tokens: int) -> None:
    assert 54 <= out_within(bucket(*limits), 50.0, tokens) <= 60


def test_waits_are_even_and_whoever_waited_goes() -> None:
    one = bucket(60.0)
    waits = [one.enter(0.0, 1) for _ in range(20)]
    later = [wait for wait in waits if wait]
    assert [b - a for a, b in pairwise(later)] == pytest.approx([1.0] * (len(later) - 1))
    assert one.enter(later[0], 1, again=True) == 0.0


def test_a_call_that_would_wait_for_long_takes_no_place() -> None:
    one = bucket(1.0)
    for _ in range(3):
        one.enter(0.0, 1)
    far = one.enter(0.0, 1)
    assert far > PATIENCE_SECONDS and one.enter(0.0, 1) == far


def test_the_endpoints_own_word_is_obeyed() -> None:
    one = bucket()
    waiting = one.enter(0.0, 1)
    one.refused(1.0, 30.0)
    assert waiting == 0.0 and one.enter(2.0, 1) == pytest.approx(29.0)
    one.refused(2.0, 40.0)
    assert one.shut == 42.0, "of several words the last one to let anybody in holds"
    one.refused(3.0, 5.0)
    assert one.shut == 42.0
    assert one.enter(42.0, 1, again=True) == 0.0


def test_whoever_waited_for_a_gate_that_was_shut_meanwhile_waits_again() -> None:
    one = bucket(60.0)
    while not (wait := one.enter(0.0, 1)):
        pass
    one.refused(wait / 2, 20.0)
    assert one.enter(wait, 1, again=True) >= 20.0 - wait / 2


def test_refusals_without_a_word_hold_for_longer_each_time_within_bounds() -> None:
    one, now, holds = bucket(), 0.0, []
    for _ in range(12):
        one.enter(now, 1)
        one.refused(now, 0.0)
        holds.append(one.shut - now)
        now = one.shut
    for number, hold in enumerate(holds):
        assert 0.5 <= hold / min(LONGEST_HOLD, 2.0**number) <= 1.5
    assert len({round(hold, 6) for hold in holds[-4:]}) == 4, "drawn at random, so that many callers do not come at once"


def test_a_storm_is_one_refusal_and_halves_the_pace_once() -> None:
    one = bucket()
    for _ in range(100):
        one.enter(0.0, 1)
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
    assert one.pace == SLOWEST + 200 * CREEP and out_within(one, 50.0) <= 60


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


class Sends:
    """The other side of a gate: a bucket whose clock stands, and a count of messages."""

    def __init__(self, waits: Sequence[float] = ()) -> None:
        self.asked: list[Asked] = []
        self.waits = list(waits)
        self.bucket = bucket()

    async def send(self, asked: Asked) -> list[float]:
        self.asked.append(asked)
        await asyncio.sleep(0)
        return [self.waits.pop(0) for _ in asked.calls] if self.waits else ask(self.bucket, 0.0, asked)


def test_calls_of_one_moment_pass_in_one_message_which_tells_of_earlier_answers() -> None:
    async def scene() -> None:
        other = Sends()
        gate = Gate(other.send)
        gate.answered()
        gate.answered()
        await asyncio.gather(*[gate.enter(10) for _ in range(50)])
        assert [(len(asked.calls), asked.answered) for asked in other.asked] == [(50, 2)]
        await gate.refused(7.0)
        assert other.asked[-1].refused == (7.0,)

    asyncio.run(scene())


def test_a_call_waits_comes_again_and_goes_or_is_told_that_it_would_take_too_long() -> None:
    async def scene() -> None:
        other = Sends([0.001, 0.0])
        await Gate(other.send).enter(10)
        assert [list(asked.calls) for asked in other.asked] == [[(10, False)], [(10, True)]]
        with pytest.raises(ModelError, match="100 s until") as caught:
            await Gate(Sends([100.0]).send).enter(10)
        assert (caught.value.kind, caught.value.after, caught.value.retryable) == ("overloaded", 100.0, True)

    asyncio.run(scene())


def test_an_error_on_the_way_reaches_every_call() -> None:
    async def broken(asked: Asked) -> list[float]:
        raise ConnectionError("gone")

    async def scene() -> None:
        gate = Gate(broken)
        errors = await asyncio.gather(*[gate.enter(1) for _ in range(3)], return_exceptions=True)
        assert [type(error) for error in errors] == [ConnectionError] * 3

    asyncio.run(scene())
