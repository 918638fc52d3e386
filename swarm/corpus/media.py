"""Which kind of text a file holds, told from its name.

Owns the list of kinds and of endings. It never looks into a file.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import PurePosixPath


class Media(StrEnum):
    """The kinds of text that are cut each in their own way."""

    PLAIN = "text/plain"
    MARKDOWN = "text/markdown"
    RST = "text/x-rst"
    HTML = "text/html"
    PYTHON = "text/x-python"
    CODE = "text/x-code"


_ENDINGS = {
    Media.MARKDOWN: "md markdown mdown mkd mdx",
    Media.RST: "rst rest",
    Media.HTML: "html htm xhtml",
    Media.PYTHON: "py pyi pyw",
    Media.CODE: "c h cc cpp cxx hh hpp hxx cs java kt kts scala groovy go rs swift m mm js mjs cjs jsx ts "
    "tsx vue php pl pm rb lua r jl hs ml mli ex exs erl clj sql sh bash zsh ps1 proto thrift zig d dart nim "
    "sol css scss tf v sv",
}
_BY_ENDING = {ending: media for media, endings in _ENDINGS.items() for ending in endings.split()}


def media_of(path: str) -> Media:
    """The kind of text that a file of this name holds; plain text if its ending says nothing."""
    return _BY_ENDING.get(PurePosixPath(path).suffix.lower().removeprefix("."), Media.PLAIN)
