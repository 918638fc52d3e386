"""The null work of `swarm bench overhead` on other frameworks, in the same run: LangGraph, AutoGen core and plain Ray.

Owns one small program for each. The work is the same: take a passage, make a row of its first word and first line. What a
framework keeps of it differs, and the rows say so: only LangGraph with its SQLite saver has anything durable after a step.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypedDict

from swarm.errors import ClusterError

MOST = 2000
"""Steps that a peer carries at most: enough for a rate, and the slower ones take seconds for it."""
EXTRA = "pip install 'swarmloom[peers]'"


class Reading(TypedDict):
    """The state of a LangGraph run."""

    text: str
    row: str


def null_work(text: str) -> str:
    """A row of a passage's first word and first line."""
    line = text.lstrip().partition("\n")[0]
    return f"{line.partition(' ')[0]}\t{line[:60]}"


def run_peers(folder: Path, texts: Sequence[str]) -> list[Mapping[str, Any]]:
    """A row of figures for each peer, plain Ray included."""
    from swarm.runtime.plain import plain_rates

    texts = texts[:MOST]
    rows = named_peers(folder, texts)
    try:
        rates = plain_rates(null_work, texts)
    except ClusterError as error:
        return [*rows, {"shell": "plain Ray", "durable": "no", "missing": error.message}]
    return rows + [_row(name, texts, "no", rate) for name, rate in rates.items()]


def named_peers(folder: Path, texts: Sequence[str]) -> list[Mapping[str, Any]]:
    """A row of figures for each other framework; for one that is not installed, the command that adds it."""
    rows: list[Mapping[str, Any]] = []
    peers: tuple[tuple[str, str, Callable[[], float]], ...] = (
        ("LangGraph", "no", lambda: _langgraph(texts, None)),
        ("LangGraph + SQLite", "each step", lambda: _langgraph(texts, folder / "langgraph.sqlite")),
        ("AutoGen core", "no", lambda: _autogen(texts)),
    )
    for name, durable, carry in peers:
        try:
            rows.append(_row(name, texts, durable, carry()))
        except ImportError as missing:
            rows.append({"shell": name, "durable": durable, "missing": f"{missing.name or missing}: {EXTRA}"})
    return rows


def _row(name: str, texts: Sequence[str], durable: str, rate: float) -> Mapping[str, Any]:
    return {"shell": name, "steps": len(texts), "steps_per_s": round(rate, 1), "durable": durable}


def _timed(carry: Callable[[], object], steps: int) -> float:
    began = time.perf_counter()
    carry()
    return steps / (time.perf_counter() - began)


def _langgraph(texts: Sequence[str], log: Path | None) -> float:
    """One graph of one node; each passage is a thread of its own. With a log each step is durable before it returns."""
    from langgraph.checkpoint.sqlite import SqliteSaver
    from langgraph.graph import END, START, StateGraph

    graph = StateGraph(Reading)
    graph.add_node("read", lambda state: {"row": null_work(state["text"])})
    graph.add_edge(START, "read")
    graph.add_edge("read", END)

    def carry(compiled: Any, how: Mapping[str, Any]) -> None:
        for number, text in enumerate(texts):
            compiled.invoke({"text": text}, {"configurable": {"thread_id": str(number)}}, **how)

    if log is None:
        compiled = graph.compile()
        return _timed(lambda: carry(compiled, {}), len(texts))
    with closing(sqlite3.connect(log, check_same_thread=False)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        saved = graph.compile(checkpointer=SqliteSaver(connection))
        return _timed(lambda: carry(saved, {"durability": "sync"}), len(texts))


def _autogen(texts: Sequence[str]) -> float:
    """One agent of the single-threaded runtime, a message a passage, all sent at once."""
    from swarm.bench.autogen_agent import answer_all

    return _timed(lambda: asyncio.run(answer_all(null_work, texts)), len(texts))
