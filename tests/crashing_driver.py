"""A driver that kills itself without warning after its N-th commit: `python crashing_driver.py SPEC ROOT ID COMMITS`.

With an ID that exists it resumes that run. It says when its work begins, and how many commits it took if it came to the end:
with COMMITS 0 it kills itself at none. Used by tests of what a crash leaves behind.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from swarm.events import Event
from swarm.runtime.local import work_locally
from swarm.runtime.session import Session, check
from swarm.spec import parse_spec
from swarm.store.folder import RunFolder
from swarm.store.sqlite import SqliteWriter


class DyingStore(SqliteWriter):
    """A writer whose process is gone right after, or in odd cases right before, its N-th commit."""

    commits = 0

    def append(self, events: Sequence[Event], bodies: Mapping[str, bytes]) -> None:
        type(self).commits -= 1
        if self.commits == 0:
            if len(events) % 2:
                super().append(events, bodies)
            os.kill(os.getpid(), signal.SIGKILL)
        super().append(events, bodies)


def main(spec_file: str, root: str, id: str, commits: str) -> None:
    run = RunFolder(Path(root), id)
    DyingStore.commits = int(commits)
    if run.log.is_file():
        session = Session.resume(run)
    else:
        session = Session.create(*check(parse_spec(yaml.safe_load(Path(spec_file).read_text(encoding="utf-8")))), run)
    session.store.__class__ = DyingStore
    print("begun", flush=True)
    asyncio.run(work_locally(session, agents=4))
    print(int(commits) - DyingStore.commits, flush=True)
    session.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
