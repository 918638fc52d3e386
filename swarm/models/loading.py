"""Loading weights in a thread that nobody has to wait for.

Owns the one thing that `asyncio.to_thread` lacks: whoever stops waiting has left. A thread cannot be ended from outside, and
an import, a download or an engine's start may take minutes; neither the event loop nor the interpreter waits for these.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_left: list[threading.Thread] = []


async def load(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `function` returns or raises, called in a thread of its own. Cancelled, it leaves the thread behind."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: list[T], error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result[0])

    def work() -> None:
        result, failed = [], None
        try:
            result.append(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  whoever waits is told, whatever it is
            failed = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, failed)

    thread = threading.Thread(target=work, name="swarm-loading", daemon=True)
    thread.start()
    try:
        return await future
    except asyncio.CancelledError:
        _left.append(thread)
        raise


def left_loading() -> bool:
    """Whether a load was ever left behind in this process. Its interpreter cannot be trusted to end in order: native code
    that is cut off in a thread aborts, and that of an engine which was ended while it started may hang."""
    return bool(_left)
