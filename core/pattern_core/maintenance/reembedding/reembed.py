"""A change of the embedding model while the database is in use.

The vectors of the new model are built beside the active ones, as another generation (`pattern_core.catalog.metadata`).
Writers queue every record that they change meanwhile, in the same commit, and the run embeds those records as well.
When the queue is empty, one commit makes the new generation active. That commit holds only if nothing was queued in
between, and every commit that relies on the previous generation fails from then on. So no record is missed, and no
search compares the vectors of two models.

Every step can be repeated: after a crash, records that already have their vectors are skipped.
"""

from __future__ import annotations

import attrs

from pattern_core.abc import Signature
from pattern_core.embedding.model import EmbeddingModel
from pattern_core.sessions.direct import DirectSession

from .run import Progress, ReembedRun

__all__ = ["Progress", "ReembedResult", "reembed"]


def _ignore(_done: int, _total: int) -> None: ...


@attrs.frozen
class ReembedResult:
    """The result of a re-embedding.

    Attributes:
        signature: The signature of the active generation.
        generation: The number of the active generation.
        embedded: How many records were embedded.
        switched: Whether the model was switched; False if the vectors were already those of the model.
    """

    signature: Signature
    generation: int
    embedded: int
    switched: bool


async def reembed(
    session: DirectSession,
    target: EmbeddingModel,
    *,
    again: bool = False,
    take_over: bool = False,
    progress: Progress = _ignore,
) -> ReembedResult:
    """Embed all records with another model, and switch to it. An interrupted run continues.

    The session then embeds with the new model. The previous vectors are kept until `drop_retired`.

    Args:
        session: The open database. It may be used meanwhile, in other processes too.
        target: The new model. It belongs to the session as soon as the switch is made.
        again: Whether to embed even if the model is that of the active generation.
        take_over: Whether to continue the run of a process that reported recently, and may still be alive.
        progress: Called while records are embedded.

    Returns:
        The result.

    Raises:
        ReembedError: A generation of another model is half built; another process builds it; or the new vectors do not
            verify.
        EmbeddingError: The model failed. Finished vectors are kept.
    """
    run = ReembedRun(session, target, await target.signature(), progress)
    switched = await run.begin(again=again, take_over=take_over)
    if switched:
        async with run.heartbeat():
            await run.fill()
            await run.index()
            await run.finish()
    made = run.generation
    return ReembedResult(made.signature, made.number, run.embedded, switched=switched)
