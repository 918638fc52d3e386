"""Where the data that ships with the package lies: roles, protocols, adapters, templates, examples.

Owns one function. In a checkout the top-level folders are the source; in a wheel their copy stands in `_shipped`.
"""

from __future__ import annotations

from pathlib import Path


def shipped(folder: str) -> Path:
    """The folder `roles`, `protocols` or `examples` that ships with this package."""
    inside = Path(__file__).parent / "_shipped" / folder
    return inside if inside.is_dir() else Path(__file__).parent.parent / folder
