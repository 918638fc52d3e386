"""Names that follow from what they name: ids of tasks and notes, the hashes that bodies go by, the body of a reason, and nouns
by their number; and the numbers that people name things by.

Owns nothing else.
"""

from __future__ import annotations

import hashlib
import re
import uuid

_IN_A_BODY = re.compile(r"(?:person|model|protocol|unread|unverified|crash loop):([0-9a-f]+)")

IN_VAIN = {"unread": "no passage was read", "unverified": "no row was verified"}
"""What it means that all tasks of a kind were given up, by the kind of the reason."""

LARGEST = 10**12 - 1
"""The largest number that people may give an event, a turn or a place in a list by: no log has more of them."""

_DRAFT = re.compile(r"\..+\.[0-9a-f]{32}")


def draft_name(name: str) -> str:
    """What a file or a run is called as long as it is not whole."""
    return f".{name}.{uuid.uuid4().hex}"


def is_draft(name: str) -> bool:
    """Whether `draft_name` made this name."""
    return _DRAFT.fullmatch(name) is not None


def identity(*parts: object) -> str:
    """An id that depends only on what it is made from: 16 hexadecimal digits."""
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).hexdigest()


def range_task(range_id: str, index: int) -> str:
    """The id of the task that a range holds for a span.

    Ids of a range follow one another, so that the keys made of them stand side by side in the store's index.
    """
    return f"{range_id[:8]}{index:08x}"


def body_hash(data: bytes) -> str:
    """The name of a body: blake2b, 128 bits, hexadecimal."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def reason_body(reason: str) -> str:
    """The name of the body that holds the words of a reason: one that a person, a model, a protocol or a task gave goes
    as `person:HASH`, `model:HASH`, `protocol:HASH`, `unread:HASH` or `unverified:HASH`, and what a driver said that did not come
    up as `crash loop:HASH`. Empty where the reason is in words itself."""
    found = _IN_A_BODY.fullmatch(reason)
    return found[1] if found else ""


def plain(text: str) -> str:
    """The text with a `?` for each lone surrogate, which neither a log nor a request can hold: half a character of an output that
    was cut off, or a byte of a name in another code."""
    return text.encode("utf-8", "replace").decode()


def is_number(text: str) -> bool:
    """Whether a text is a whole number of LARGEST at most."""
    return re.fullmatch("[0-9]{1,12}", text) is not None


def counted(count: int, noun: str) -> str:
    """A number and its noun as people read them: 1 document, 2,000 queries, 1.2 M tokens."""
    if count != 1:
        noun = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun}" if count < 1e6 else f"{count / 1e6:,.1f} M {noun}"
