"""The blackboard graph."""

from swarm.board.graph import Board

__all__ = ["Board"]
