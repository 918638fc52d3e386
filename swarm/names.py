"""Names that follow from what they name: ids of tasks and notes, and the hashes that bodies go by.

Owns nothing else.
"""

from __future__ import annotations

import hashlib


def identity(*parts: object) -> str:
    """An id that depends only on what it is made from: 16 hexadecimal digits."""
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).hexdigest()


def body_hash(data: bytes) -> str:
    """The name of a body: blake2b, 128 bits, hexadecimal."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
