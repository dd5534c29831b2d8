"""The rows in which the vectors of a record are kept.

A record whose text the model reads as a whole, or whose text was cut off, has one row, part 0. One whose text was cut
into chunks has a row for each, parts 1 to n. The ids of the rows follow from the record's, so they need no looking up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from pattern_core.abc import Row
from pattern_core.errors import ValidationError
from pattern_core.schema import Table

from .model import Embedded, Embeddings

__all__ = ["Parts", "embed_parts", "hash_text", "part_id", "part_ids", "part_rows", "record_of"]

_DIGITS: Final = 4
_MOST: Final = 16**_DIGITS - 1
_SUFFIX: Final = 1 + _DIGITS


@attrs.frozen
class Parts:
    """What the text of a record became in one generation.

    Attributes:
        generation: The number of the generation.
        signature: The digest of the signature of the model that made the vectors.
        text_hash: What `hash_text` makes of the text.
        embedded: The vectors; None for a blank text.
    """

    generation: int
    signature: str
    text_hash: str
    embedded: Embedded | None


def hash_text(text: str) -> str:
    """Return what tells a text from all others: 128 bits of BLAKE2b, in hexadecimal."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


async def embed_parts(embeddings: Embeddings, generation: int, texts: Sequence[str]) -> list[Parts]:
    """Embed the texts of records; a blank one has no vectors.

    Args:
        embeddings: The model of the generation.
        generation: Its number.
        texts: The texts.

    Returns:
        What each of them became.
    """
    wanted = [text for text in texts if text.strip()]
    made = iter(await embeddings.documents(wanted))
    digest = (await embeddings.signature()).digest if wanted else ""
    return [Parts(generation, digest, hash_text(text), next(made) if text.strip() else None) for text in texts]


def part_id(record_id: str, part: int) -> str:
    """Return the id of the row of a part."""
    return f"{record_id}#{part:0{_DIGITS}x}"


def record_of(part_id: str) -> str:
    """Return the id of the record that a part belongs to."""
    return part_id[:-_SUFFIX]


def part_ids(record_ids: Iterable[str], heads: Iterable[Row | None]) -> list[str]:
    """Return the ids of all rows that some records have.

    Args:
        record_ids: The records.
        heads: What was found of their parts 0 and 1.
    """
    found = [row["id"] for row in heads if row is not None]
    chunked = {record_of(row["id"]): row["parts"] for row in heads if row is not None and row["part"] == 1}
    further = [part_id(id, part) for id in record_ids for part in range(2, chunked.get(id, 0) + 1)]
    return [*found, *further]


def part_rows(table: Table, record: Mapping[str, object], parts: Parts) -> list[Row]:
    """Return the rows that hold the vectors of a record.

    Args:
        table: The record's table.
        record: The record's ``id``, ``revision`` and partition.
        parts: What its text became.

    Raises:
        ValidationError: The text has too many chunks.
    """
    if parts.embedded is None:
        return []
    vectors, spans = parts.embedded.vectors, parts.embedded.spans
    if len(vectors) > _MOST:
        message = f"the text has {len(vectors):,} chunks, and a record holds up to {_MOST:,}; divide it among several"
        raise ValidationError(message, where=table.name)
    return [
        {
            "id": part_id(str(record["id"]), part),
            "revision": record["revision"],  # of two states of a record, the later one is told by it
            "partition": record[str(table.partition)],
            "part": part,
            "parts": len(vectors),
            "begins_at": None if span is None else span[0],
            "ends_at": None if span is None else span[1],
            "text_hash": parts.text_hash,
            "signature": parts.signature,
            "embedding": vector,
        }
        for part, vector, span in zip(_numbers(vectors), vectors, spans, strict=True)
    ]


def _numbers(vectors: Sequence[object]) -> range:
    return range(1) if len(vectors) == 1 else range(1, len(vectors) + 1)
