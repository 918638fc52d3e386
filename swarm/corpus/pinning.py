"""The inputs of a job as they were when it began.

Owns the choice of which sources make up the corpus, what is left out and why, and their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from swarm.corpus.cutting import MAX_TOKENS, MERGE_TOKENS
from swarm.corpus.media import Media
from swarm.corpus.reading import WHOLE_BYTES, document_of, open_spans
from swarm.corpus.sources import Skipped, Source, from_further_up, resolve
from swarm.corpus.spans import Document, Span, document_id
from swarm.errors import CorpusError
from swarm.spec import InputSpec
from swarm.window.tokens import Tokenizer


@dataclass(frozen=True, slots=True)
class Pinned:
    """A corpus: `sources` and `documents` belong together one by one and are in the order in which they are
    read.

    `skipped` is what inputs led to and is not read; `remarks` are sentences for people about what is read
    differently than they may expect.
    """

    sources: tuple[Source, ...]
    documents: tuple[Document, ...]
    skipped: tuple[Skipped, ...]
    remarks: tuple[str, ...]

    def spans(
        self, tokenizer: Tokenizer, max_tokens: int = MAX_TOKENS, merge_tokens: int = MERGE_TOKENS
    ) -> Iterator[tuple[Span, str]]:
        """All spans with their texts: documents in order, then by start.

        Raises:
            CorpusError: a source has changed or gone since it was pinned.
        """
        for source, document in zip(self.sources, self.documents, strict=True):
            yield from open_spans(source, tokenizer, max_tokens, merge_tokens, document)


def glance(inputs: Iterable[InputSpec], folder: Path | None = None) -> None:
    """Says at once what can be said of the inputs that were named, before anything slow: `pin` reads them all.

    Raises:
        CorpusError: one is missing, or is a small file that holds no text.
    """
    for source in resolve(inputs, folder):
        if isinstance(source, Source) and not source.found and source.file and source.file.stat().st_size <= WHOLE_BYTES:
            document_of(source)


def pin(inputs: Iterable[InputSpec], folder: Path | None = None) -> Pinned:
    """Reads every input once and pins it by digest.

    Documents of the same name have more of their paths in front, so that sources can be told apart.

    Raises:
        CorpusError: an input that was named is missing, empty or not text; or a folder, glob or package holds
            no text.
    """
    documents: dict[str, tuple[Source, Document]] = {}
    skipped: list[Skipped] = []
    items = list(inputs)
    for source in resolve(items, folder):
        if isinstance(source, Skipped):
            skipped.append(source)
            continue
        try:
            document = document_of(source)
        except CorpusError as problem:
            if not source.found:
                raise
            skipped.append(Skipped(source.path, f"{problem.message}. {problem.cure}"))
            continue
        if document.id in documents:
            skipped.append(Skipped(source.path, "has the name and the content of another document"))
            continue
        documents[document.id] = source, document
    if not documents:
        names = ", ".join(item.source for item in items)
        why = "; ".join(f"{one.path} {one.reason}" for one in skipped[:3])
        raise CorpusError(
            f"no text was found{f' ({why})' if why else ''}", names, "Name files that hold text."
        )
    found = _told_apart(list(documents.values()))
    apart = tuple(document for _, document in found)
    return Pinned(tuple(source for source, _ in found), apart, tuple(skipped), tuple(_remarks(apart)))


def _told_apart(found: list[tuple[Source, Document]]) -> list[tuple[Source, Document]]:
    """The same, with as many more folders in front of paths that several documents have as it takes to tell these apart."""
    while True:
        counts = Counter(document.path for _, document in found)
        apart = [_from_further_up(*one) if counts[one[1].path] > 1 else one for one in found]
        if apart == found:
            return found
        found = apart


def _from_further_up(source: Source, document: Document) -> tuple[Source, Document]:
    source = from_further_up(source)
    return source, replace(document, path=source.path, id=document_id(source.path, document.digest))


def _remarks(documents: Iterable[Document]) -> Iterator[str]:
    for document in documents:
        if document.size > WHOLE_BYTES and document.media != Media.PLAIN:
            yield (
                f"{document.path} has {document.size / 2**20:.1f} MiB, more than {WHOLE_BYTES >> 20}, "
                "and is cut as plain text"
            )
