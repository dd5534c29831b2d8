"""Change the embedding model while the database is used.

The new model's vectors are made beside those that are searched, as another generation (`pattern_core.catalog.metadata`). What is
written meanwhile is noted in a queue by whoever writes it, in the same commit, and embedded after. When the queue is
empty, one commit makes the new generation the active one: it holds only if nothing was noted in between, and every
commit that relies on the old one fails from then on. So no record is missed, and no search sees two models.

All that is done is done so that it can be done again: after a crash, what has its vectors already is passed over.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import attrs

from pattern_core.abc import Signature, Storage
from pattern_core.catalog.metadata import read_metadata
from pattern_core.catalog.tables import vectors_of
from pattern_core.embedding.model import Embeddings
from pattern_core.filters import Field
from pattern_core.schema import EMBEDDED, TABLES
from pattern_core.sessions.direct import Direct

from .building import Builder, Progress, ids_of
from .generations import abandon, drop_retired, reusable

__all__ = ["Estimate", "Outcome", "Progress", "abandon", "drop_retired", "estimate", "reembed"]

_SAMPLE: Final = 200
_TIMED: Final = 32
_CHARS_PER_TOKEN: Final = 4


def _ignore(_done: int, _total: int) -> None: ...


@attrs.frozen
class Estimate:
    """What making all vectors by another model would take.

    Attributes:
        current: What makes the vectors that are searched.
        target: What would make the new ones.
        records: How many records have a text, about.
        done: How many of them have their new vectors already, from a run that was cut off or a model that was used before.
        tokens: How many tokens the others have, about.
        too_long: How many of them have more tokens than the model reads, about.
        seconds: How long embedding them takes at the speed of a sample, about; None where all of the sample was cached.
        cost: What the provider asks for it, about; None where no price is configured.
    """

    current: Signature
    target: Signature
    records: int
    done: int
    tokens: int
    too_long: int
    seconds: float | None
    cost: float | None


@attrs.frozen
class Outcome:
    """What was done.

    Attributes:
        signature: What makes the vectors that are searched now.
        generation: The number of their generation.
        embedded: How many records were embedded anew.
        switched: Whether another model took over; False where the vectors were that model's already.
    """

    signature: Signature
    generation: int
    embedded: int
    switched: bool


async def estimate(session: Direct, target: Embeddings) -> Estimate:
    """Say what `reembed` would take. A few records are embedded, to see how long that takes.

    Args:
        session: The open database.
        target: The other model.

    Returns:
        The estimate.
    """
    storage, known = session.storage, await read_metadata(session.storage)
    signature = await target.signature()
    ids = {table.name: await ids_of(storage, table) for table in EMBEDDED}
    records = sum(map(len, ids.values()))
    found = known.building or reusable(known, signature)
    done = 0
    if found is not None and found.signature == signature:
        there = [vectors_of(table, found.number) for table in EMBEDDED]
        done = sum([await storage.count(vectors, Field("part") <= 1) for vectors in there])
    sample = await _texts(storage, ids, records)
    counts = await target.count_tokens(sample) or [len(text) // _CHARS_PER_TOKEN + 1 for text in sample]
    share = max(0, records - done) / max(1, len(sample))
    fitting = [text for text, count in zip(sample, counts, strict=True) if count <= (signature.max_tokens or count)]
    tokens = int(sum(counts) * share)
    price = target.policy.price_per_million_tokens
    return Estimate(
        current=session.active.signature,
        target=signature,
        records=records,
        done=min(done, records),
        tokens=tokens,
        too_long=round((len(sample) - len(fitting)) * share),
        seconds=await _seconds(target, fitting[:_TIMED], max(0, records - done)),
        cost=None if price is None else tokens * price / 1_000_000,
    )


async def _seconds(target: Embeddings, sample: Sequence[str], records: int) -> float | None:
    if not sample or not records:
        return 0.0
    before, start = target.embedded, time.perf_counter()
    await target.documents(sample)
    made = target.embedded - before
    return (time.perf_counter() - start) / made * records if made else None


async def _texts(storage: Storage, ids: dict[str, list[str]], records: int) -> list[str]:
    """Return the texts of records from everywhere."""
    step = max(1, records // _SAMPLE)
    texts = []
    for name, known in ids.items():
        rows = await storage.get(TABLES[name], known[::step])
        texts += [text for row in rows if row is not None and (text := TABLES[name].text(row)).strip()]
    return texts


async def reembed(
    session: Direct,
    target: Embeddings,
    *,
    again: bool = False,
    take_over: bool = False,
    progress: Progress = _ignore,
) -> Outcome:
    """Make all vectors by another model, and let it take over. Goes on where an earlier run was cut off.

    The session goes on with the new model; the old vectors are kept until they are dropped.

    Args:
        session: The open database. It may be used meanwhile, in other processes too.
        target: The other model. It belongs to the session from the moment that it takes over.
        again: Whether to make new vectors even where the model is the one that made those there are.
        take_over: Whether to go on with the work of a process that was at it a moment ago, and may still be.
        progress: Called while records are embedded.

    Returns:
        What was done.

    Raises:
        ReembedError: Another model's vectors are half made; another process is at it; or the new vectors do not verify.
        EmbeddingError: The model failed. What was made so far is kept.
    """
    builder = Builder(session, target, await target.signature(), progress)
    switched = await builder.begin(again=again, take_over=take_over)
    if switched:
        async with builder.working():
            await builder.fill()
            await builder.index()
            await builder.finish()
    made = builder.generation
    return Outcome(made.signature, made.number, builder.embedded, switched=switched)
