"""The estimate of a re-embedding: records, tokens, time and cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import attrs

from pattern_core.abc import Signature, Storage
from pattern_core.catalog.metadata import read_metadata
from pattern_core.catalog.tables import vector_table
from pattern_core.embedding.model import EmbeddingModel
from pattern_core.filters import Field
from pattern_core.schema import EMBEDDED, TABLES
from pattern_core.sessions.direct import DirectSession

from .generations import reusable
from .run import read_ids

__all__ = ["ReembedEstimate", "estimate_reembedding"]

_SAMPLE: Final = 200
_TIMED: Final = 32
_CHARS_PER_TOKEN: Final = 4


@attrs.frozen
class ReembedEstimate:
    """The estimated work of a re-embedding. Numbers are approximate.

    Attributes:
        current: The signature of the active generation.
        target: The signature of the new model.
        records: How many records have a text.
        done: How many of them already have vectors of the new model, from an interrupted run or from earlier use.
        tokens: How many tokens the others have.
        too_long: How many of the others are over the model's token limit.
        seconds: How long embedding them takes, at the speed of a sample; None if the whole sample was cached.
        cost: The price of embedding them; None if no price is configured.
    """

    current: Signature
    target: Signature
    records: int
    done: int
    tokens: int
    too_long: int
    seconds: float | None
    cost: float | None


async def estimate_reembedding(session: DirectSession, target: EmbeddingModel) -> ReembedEstimate:
    """Estimate what `reembed` would do. It embeds a small sample to measure the speed.

    Args:
        session: The open database.
        target: The new model.

    Returns:
        The estimate.
    """
    storage, metadata = session.storage, await read_metadata(session.storage)
    signature = await target.signature()
    ids = {table.name: await read_ids(storage, table) for table in EMBEDDED}
    records = sum(map(len, ids.values()))
    found = metadata.building or reusable(metadata, signature)
    done = 0
    if found is not None and found.signature == signature:
        tables = [vector_table(table, found.number) for table in EMBEDDED]
        done = sum([await storage.count(vectors, Field("part") <= 1) for vectors in tables])
    sample = await _texts(storage, ids, records)
    counts = await target.count_tokens(sample) or [len(text) // _CHARS_PER_TOKEN + 1 for text in sample]
    share = max(0, records - done) / max(1, len(sample))
    fitting = [text for text, count in zip(sample, counts, strict=True) if count <= (signature.max_tokens or count)]
    tokens = int(sum(counts) * share)
    price = target.policy.price_per_million_tokens
    return ReembedEstimate(
        current=session.active.signature,
        target=signature,
        records=records,
        done=min(done, records),
        tokens=tokens,
        too_long=round((len(sample) - len(fitting)) * share),
        seconds=await _seconds(target, fitting[:_TIMED], max(0, records - done)),
        cost=None if price is None else tokens * price / 1_000_000,
    )


async def _seconds(target: EmbeddingModel, sample: Sequence[str], records: int) -> float | None:
    if not sample or not records:
        return 0.0
    before, start = target.embedded, time.perf_counter()
    await target.embed_documents(sample)
    made = target.embedded - before
    return (time.perf_counter() - start) / made * records if made else None


async def _texts(storage: Storage, ids: dict[str, list[str]], records: int) -> list[str]:
    """Return the texts of a sample of records from everywhere."""
    step = max(1, records // _SAMPLE)
    texts = []
    for name, known in ids.items():
        rows = await storage.get(TABLES[name], known[::step])
        texts += [text for row in rows if row is not None and (text := TABLES[name].text(row)).strip()]
    return texts
