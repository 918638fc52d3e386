"""swarmloom: swarms of agents with bounded windows, on a Ray cluster, with answers that cite their evidence."""

__version__ = "0.1.0"
