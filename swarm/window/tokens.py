"""Counting and encoding text with a model's own tokenizer.

Owns the `Tokenizer` interface and its two forms: exact (a `tokenizer.json`) and approximate (an endpoint
whose tokenizer is not known). It does not decide what goes into a window. Text that comes from a corpus, a
model or a person is encoded with `special=False` and can never become a control token, whatever it says.
"""

from __future__ import annotations

import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from swarm.errors import WindowError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer as Backend

REMEMBERED_COUNTS = 65_536


class Tokenizer(Protocol):
    """What the corpus and the window ask of a tokenizer."""

    @property
    def digest(self) -> str:
        """Hex digest of what decides the tokens; two tokenizers with the same digest agree on every text."""

    @property
    def exact(self) -> bool:
        """Whether counts are those of the model, or an estimate that tends to be too high."""

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Token ids of `text`. Only with `special=True` does `<|im_end|>` become a control token."""

    def count(self, text: str) -> int:
        """Number of tokens of `text`, encoded with `special=False`."""

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Character range of each token of `text`, in order; `len(offsets(text)) == count(text)`."""

    def __hash__(self) -> int:
        """By identity: what has been measured with a tokenizer is remembered beside it."""


class Counts:
    """A bounded memory of token counts, keyed by the text's hash so that it holds no text."""

    def __init__(self, size: int = REMEMBERED_COUNTS) -> None:
        self._size = size
        self._counts: dict[bytes, int] = {}

    def get(self, text: str) -> tuple[bytes, int | None]:
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        return key, self._counts.get(key)

    def put(self, key: bytes, tokens: int) -> int:
        if len(self._counts) >= self._size:
            del self._counts[next(iter(self._counts))]
        self._counts[key] = tokens
        return tokens


class FileTokenizer:
    """The tokenizer of a model, read from its `tokenizer.json` (or from the folder that holds one)."""

    exact = True

    def __init__(self, path: str | Path) -> None:
        file = Path(path)
        if file.is_dir():
            file = file / "tokenizer.json"
        try:
            raw = file.read_bytes()
        except OSError as problem:
            raise WindowError(
                f"cannot read the tokenizer: {problem.strerror}",
                str(file),
                "Give a tokenizer.json of the model.",
            ) from problem
        self.digest = hashlib.sha256(raw).hexdigest()
        with_controls = _controls_marked(raw, file)
        self._special = _backend(with_controls, file)
        self._plain = _backend(with_controls, file)
        self._plain.encode_special_tokens = True
        controls = {
            number: token.content
            for number, token in self._plain.get_added_tokens_decoder().items()
            if token.special
        }
        self._controls = frozenset(controls)
        strings = sorted(filter(None, controls.values()), key=len, reverse=True)
        self._control_strings = re.compile("|".join(re.escape(string) for string in strings) or r"(?!)")
        self._counts = Counts()

    @property
    def controls(self) -> frozenset[int]:
        """Ids that only `special=True` may yield."""
        return self._controls

    def encode(self, text: str, special: bool = False) -> list[int]:
        if special:
            return list(self._special.encode(text, add_special_tokens=False).ids)
        return [token for part, _ in self._encoded(text) for token in part.ids]

    def count(self, text: str) -> int:
        key, known = self._counts.get(text)
        if known is not None:
            return known
        return self._counts.put(key, sum(len(part.ids) for part, _ in self._encoded(text)))

    def offsets(self, text: str) -> list[tuple[int, int]]:
        return [
            (start + shift, end + shift) for part, shift in self._encoded(text) for start, end in part.offsets
        ]

    def _encoded(self, text: str) -> list[tuple[Encoding, int]]:
        """Encodings of `text` in order, each with the offset it begins at; none holds a control token."""
        whole = self._plain.encode(_encodable(text), add_special_tokens=False)
        if self._controls.isdisjoint(whole.ids):
            return [(whole, 0)]
        # The plain vocabulary holds the control string: cut inside it, so that it is not seen whole.
        cuts = [0, *(match.start() + 1 for match in self._control_strings.finditer(text)), len(text)]
        parts = [
            (self._plain.encode(_encodable(text[start:end]), add_special_tokens=False), start)
            for start, end in pairwise(cuts)
            if start < end
        ]
        if any(not self._controls.isdisjoint(part.ids) for part, _ in parts):
            raise WindowError(
                "this tokenizer turns plain text into a control token",
                "model",
                "Use a tokenizer.json whose control tokens are longer than one character.",
            )
        return parts


class ApproximateTokenizer:
    """An estimate for endpoints whose tokenizer is not known: 3 letters, 1 digit or 2 other bytes a token.

    Rounded up for each run of a kind; runs of white space, but not single blanks, count like letters. For
    English and for code this is 1.2 to 2.2 times what SmolLM2's tokenizer counts (Python's documentation and
    asyncio), for scripts that this model hardly knows 0.7 to 1. The ids are those of no model.
    """

    exact = False
    digest = hashlib.sha256(b"swarmloom approximate tokenizer 1").hexdigest()

    def encode(self, text: str, special: bool = False) -> list[int]:
        return [0] * self.count(text)

    def count(self, text: str) -> int:
        if text.isascii():
            return sum(-(-len(piece) // _bytes_per_token(piece)) for piece in _PIECES.findall(text))
        return sum(-(-len(_bytes(piece)) // _bytes_per_token(piece)) for piece in _PIECES.findall(text))

    def offsets(self, text: str) -> list[tuple[int, int]]:
        ranges: list[tuple[int, int]] = []
        for match in _PIECES.finditer(text):
            piece, start, end = match.group(), match.start(), match.end()
            width = _bytes_per_token(piece)
            if piece.isascii():
                ranges.extend((at, min(at + width, end)) for at in range(start, end, width))
                continue
            owner = [start + index for index, char in enumerate(piece) for _ in _bytes(char)]
            for at in range(0, len(owner), width):
                ranges.append((owner[at], owner[min(at + width, len(owner)) - 1] + 1))
        return ranges


_PIECES = re.compile(r"[A-Za-z]+|[0-9]+|[^A-Za-z0-9\s]+|\s{2,}|[^\S ]| (?!\S)")


def _bytes_per_token(piece: str) -> int:
    first = piece[0]
    if first.isspace() or (first.isascii() and first.isalpha()):
        return 3
    return 1 if "0" <= first <= "9" else 2


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _encodable(text: str) -> str:
    """`text` with lone surrogates, which no tokenizer takes, as U+FFFD; lengths and offsets stay the same."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udfff]", "�", text)
    return text


def _controls_marked(raw: bytes, file: Path) -> str:
    """The tokenizer's JSON with every added token that has visible characters marked as a control token.

    Some models ship strings such as `<tool_call>` as added but not special; text from a corpus must not
    become those either.
    """
    try:
        data = json.loads(raw)
        for token in data.get("added_tokens") or []:
            token["special"] = token["special"] or bool(token["content"].strip())
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        raise WindowError(
            f"this is not a tokenizer.json: {problem}", str(file), "Give a tokenizer.json of the model."
        ) from problem
    return json.dumps(data, ensure_ascii=False)


def _backend(data: str, file: Path) -> Backend:
    from tokenizers import Tokenizer as Backend

    try:
        backend = Backend.from_str(data)
    except Exception as problem:  # the library raises nothing narrower
        raise WindowError(
            f"this is not a tokenizer.json: {problem}", str(file), "Give a tokenizer.json of the model."
        ) from problem
    backend.no_truncation()
    backend.no_padding()
    return backend
