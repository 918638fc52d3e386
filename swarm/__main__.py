"""`python -m swarm` is the command `swarm`."""

from __future__ import annotations

from swarm.cli import main

main()
