"""The pure core: state, leases, budgets, decisions."""

from swarm.coordinator.coordinator import Coordinator
from swarm.coordinator.leases import Grant, Report
from swarm.coordinator.state import JobState, Phase

__all__ = ["Coordinator", "Grant", "JobState", "Phase", "Report"]
