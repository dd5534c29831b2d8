"""Chunks: the embedded text of a record, and the rows in which its vectors are stored.

A text within the model's limit, or truncated to it, has one row, number 0. A chunked text has a row for each chunk,
numbers 1 to n. The ids of the rows follow from the record's id, so they need no lookup.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from pattern_core.abc import Row
from pattern_core.errors import ValidationError
from pattern_core.schema import Table

from .fitting import TextVectors
from .model import EmbeddingModel

__all__ = ["EmbeddedText", "chunk_id", "chunk_ids", "chunk_rows", "embed_texts", "hash_text", "record_id_of"]

_DIGITS: Final = 4
_MOST: Final = 16**_DIGITS - 1
_SUFFIX: Final = 1 + _DIGITS


@attrs.frozen
class EmbeddedText:
    """The text of a record, embedded for one generation.

    Attributes:
        generation: The number of the generation.
        signature: The digest of the signature of the model that made the vectors.
        text_hash: The hash of the text, as `hash_text` returns it.
        chunks: The vectors; None for a blank text.
    """

    generation: int
    signature: str
    text_hash: str
    chunks: TextVectors | None


def hash_text(text: str) -> str:
    """Return the hash of a text: 128 bits of BLAKE2b, in hexadecimal."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


async def embed_texts(embeddings: EmbeddingModel, generation: int, texts: Sequence[str]) -> list[EmbeddedText]:
    """Embed the texts of records. A blank text has no vectors.

    Args:
        embeddings: The model of the generation.
        generation: The number of the generation.
        texts: The texts.

    Returns:
        The embedded texts, in the order given.
    """
    wanted = [text for text in texts if text.strip()]
    made = iter(await embeddings.embed_documents(wanted))
    digest = (await embeddings.signature()).digest if wanted else ""
    return [EmbeddedText(generation, digest, hash_text(text), next(made) if text.strip() else None) for text in texts]


def chunk_id(record_id: str, number: int) -> str:
    """Return the id of the row that holds one chunk of a record."""
    return f"{record_id}#{number:0{_DIGITS}x}"


def record_id_of(chunk_id: str) -> str:
    """Return the id of the record that a chunk belongs to."""
    return chunk_id[:-_SUFFIX]


def chunk_ids(record_ids: Iterable[str], heads: Iterable[Row | None]) -> list[str]:
    """Return the ids of all chunk rows of some records.

    Args:
        record_ids: The records.
        heads: The rows that were found for the chunks 0 and 1 of the records.

    Returns:
        The ids of the rows that exist.
    """
    found = [row["id"] for row in heads if row is not None]
    chunked = {record_id_of(row["id"]): row["parts"] for row in heads if row is not None and row["part"] == 1}
    further = [chunk_id(id, number) for id in record_ids for number in range(2, chunked.get(id, 0) + 1)]
    return [*found, *further]


def chunk_rows(table: Table, record: Mapping[str, object], embedded: EmbeddedText) -> list[Row]:
    """Return the rows that hold the vectors of a record.

    Args:
        table: The record's table.
        record: The record's ``id``, ``revision`` and partition.
        embedded: The embedded text of the record.

    Returns:
        The rows, none for a blank text.

    Raises:
        ValidationError: The text has too many chunks.
    """
    if embedded.chunks is None:
        return []
    vectors, spans = embedded.chunks.vectors, embedded.chunks.spans
    if len(vectors) > _MOST:
        message = f"the text has {len(vectors):,} chunks, and a record holds up to {_MOST:,}. Split it into records."
        raise ValidationError(message, where=table.name)
    return [
        {
            "id": chunk_id(str(record["id"]), number),
            "revision": record["revision"],  # tells the later of two states of a record
            "partition": record[str(table.partition)],
            "part": number,
            "parts": len(vectors),
            "begins_at": None if span is None else span[0],
            "ends_at": None if span is None else span[1],
            "text_hash": embedded.text_hash,
            "signature": embedded.signature,
            "embedding": vector,
        }
        for number, vector, span in zip(_numbers(vectors), vectors, spans, strict=True)
    ]


def _numbers(vectors: Sequence[object]) -> range:
    return range(1) if len(vectors) == 1 else range(1, len(vectors) + 1)
