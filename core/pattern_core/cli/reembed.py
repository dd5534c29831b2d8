"""``pattern reembed``: another embedding model for a database that is there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .arguments import confirm, yes_option
from .base import Settings, VerbGroup
from .database import use_storage
from .output import Column, note, print_done, print_fields, print_json, print_table, shown_time
from .progress import progress

if TYPE_CHECKING:
    from pattern_core.abc import Storage
    from pattern_core.catalog.metadata import Generation, Metadata
    from pattern_core.config import Config
    from pattern_core.embedding.model import EmbeddingModel
    from pattern_core.maintenance.reembedding.estimate import ReembedEstimate
    from pattern_core.maintenance.reembedding.reembed import ReembedResult
    from pattern_core.sessions.direct import DirectSession

__all__ = ["reembed"]

T = TypeVar("T")


@click.group(
    cls=VerbGroup,
    examples="""
        pattern reembed plan
        pattern reembed run
        pattern reembed status
        pattern reembed drop
    """,
)
def reembed() -> None:
    """Change the embedding model: make all vectors by the configured one, and let it take over.

    Name the new model under [embeddings] in the configuration first. The old vectors are searched until the new ones are
    complete, and are kept until `drop`.
    """


@reembed.command("plan", examples="pattern reembed plan\npattern reembed plan --json")
@click.pass_obj
def plan(settings: Settings) -> None:
    """Show how many records and tokens there are to embed, how long it takes, and what it costs.

    A few records are embedded to see how long that takes. The cost is shown where price_per_million_tokens is set under
    [embeddings].
    """
    from pattern_core.maintenance.reembedding.estimate import estimate_reembedding

    found = _use(settings, estimate_reembedding)
    if settings.json:
        import attrs

        print_json({**attrs.asdict(found), "needed": found.current != found.target})
        return
    print_fields(_plan_in_words(found))
    if found.too_long:
        note(
            f"About {found.too_long:,} records are longer than {found.target.model} reads. Unless overflow is set under "
            f"[embeddings], the first of them stops the run."
        )
    if found.current == found.target:
        note("The configured model is the one that is in use: there is nothing to do.")


@reembed.command("run", examples="pattern reembed run\npattern reembed run --again")
@click.option("--again", is_flag=True, help="Make new vectors even where the model is the one that is in use.")
@click.pass_obj
def run(settings: Settings, again: bool) -> None:  # noqa: FBT001 - an option of the command line
    """Make the vectors, and switch when all are there.

    A run that was cut off goes on where it was. Other processes that share the database can use it meanwhile.
    """
    _run(settings, again=again)


@reembed.command("resume", examples="pattern reembed resume")
@click.pass_obj
def resume(settings: Settings) -> None:
    """Go on with a run that was cut off, even where its process was there a moment ago."""
    if _generations(settings).building is None:
        raise click.UsageError("No run was cut off. Begin one: pattern reembed run.")
    _run(settings, take_over=True)


@reembed.command("status", examples="pattern reembed status\npattern reembed status --json")
@click.pass_obj
def status(settings: Settings) -> None:
    """Show whose vectors there are: in use, in the making, or kept from before."""
    from pattern_core.catalog.tables import EMBEDDING_QUEUE, vector_table
    from pattern_core.schema import EMBEDDED

    async def work(storage: Storage, _: Config) -> tuple[list[tuple[Generation, int]], int]:
        from pattern_core.catalog.metadata import read_metadata

        found = []
        known = await read_metadata(storage)
        for each in known.generations:
            if each.state != "dropped":
                tables = [vector_table(table, each.number) for table in EMBEDDED]
                found.append((each, sum([await storage.count(table) for table in tables])))
        return found, await storage.count(EMBEDDING_QUEUE) if known.building else 0

    found, waiting = use_storage(settings, work)
    if settings.json:
        items = [_item(each, count) for each, count in found]
        print_json({"items": items, "waiting": waiting})
        return
    columns = [Column("number", number=True), Column("state"), Column("model", share=1, lines=3)]
    columns += [Column("vectors", number=True), Column("begun")]
    rows = [
        [str(each.number), _STATES[each.state], str(each.signature), f"{count:,}", shown_time(each.created_at)]
        for each, count in found
    ]
    print_table(columns, rows)
    for each, _ in found:
        if each.state == "building":
            seen = f"{each.worker} was seen at {shown_time(each.worker_seen_at)}"
            note(f"{waiting:,} records were written meanwhile and wait. {seen}. Go on: pattern reembed resume.")


@reembed.command("rollback", examples="pattern reembed rollback")
@yes_option
@click.pass_obj
def rollback(settings: Settings, yes: bool) -> None:  # noqa: FBT001 - an option of the command line
    """Give up a run that was cut off; or else go back to the model before.

    To go back, name the old model under [embeddings] again: what was written since is embedded by it, and nothing else.
    """
    known = _generations(settings)
    if known.building is not None:
        _abandon(settings, known.building, yes=yes)
        return
    retired = [each for each in known.generations if each.state == "retired"]
    if not retired:
        raise click.UsageError("There are no vectors of another model to go back to.")

    async def target(_: DirectSession, model: EmbeddingModel) -> Any:
        return await model.signature()

    if (configured := _use(settings, target)) not in [each.signature for each in retired]:
        names = " or ".join(str(each.signature) for each in retired)
        message = f"The configuration names {configured}. To go back, name {names} under [embeddings]."
        raise click.UsageError(message)
    _run(settings)


@reembed.command("drop", examples="pattern reembed drop --yes")
@yes_option
@click.pass_obj
def drop(settings: Settings, yes: bool) -> None:  # noqa: FBT001 - an option of the command line
    """Remove the vectors of models that were in use before. The way back is then to embed everything again."""
    from pattern_core.maintenance.reembedding.generations import drop_retired

    retired = [each for each in _generations(settings).generations if each.state == "retired"]
    if retired and not yes:
        confirm(f"Remove the vectors of {', '.join(str(each.signature) for each in retired)}?")

    async def work(session: DirectSession, _: EmbeddingModel) -> list[Generation]:
        return await drop_retired(session)

    dropped = _use(settings, work) if retired else []
    message = "".join(f"Removed the vectors of {each.signature}. " for each in dropped).strip() or "Nothing to remove."
    print_done(settings, message, {"dropped": [each.number for each in dropped]})


_STATES = {"active": "in use", "building": "in the making", "retired": "kept"}


def _plan_in_words(found: ReembedEstimate) -> dict[str, str]:
    words = {
        "from": str(found.current),
        "to": str(found.target),
        "records": f"{found.records:,}, {found.done:,} of them done" if found.done else f"{found.records:,}",
        "tokens": f"about {found.tokens:,}",
        "time": "not known: the sample was in the cache"
        if found.seconds is None
        else f"about {_duration(found.seconds)}",
    }
    return words if found.cost is None else words | {"cost": f"about {found.cost:,.2f}"}


def _duration(seconds: float) -> str:
    if seconds < 90:  # noqa: PLR2004 - minutes begin to read better
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _run(settings: Settings, *, again: bool = False, take_over: bool = False) -> None:
    from pattern_core.maintenance.reembedding.reembed import reembed as make
    from pattern_core.schema import EMBEDDED

    async def work(session: DirectSession, target: EmbeddingModel) -> ReembedResult:
        total = sum([await session.storage.count(table) for table in EMBEDDED])
        with progress(settings, "Embedding", total) as advance:
            before = 0

            def show(done: int, _: int) -> None:
                nonlocal before
                advance(done - before)
                before = done

            return await make(session, target, again=again, take_over=take_over, progress=show)

    done = _use(settings, work)
    data = {"switched": done.switched, "generation": done.generation, "embedded": done.embedded}
    if not done.switched:
        print_done(settings, f"Nothing to do: {done.signature} is in use.", data)
        return
    print_done(settings, f"{done.signature} is in use now; {done.embedded:,} records were embedded.", data)
    if not settings.json:
        note("The old vectors are kept: pattern reembed drop removes them, pattern reembed rollback leads back.")


def _abandon(settings: Settings, building: Generation, *, yes: bool) -> None:
    from pattern_core.maintenance.reembedding.generations import abandon

    if not yes:
        confirm(f"Give up the half-made vectors of {building.signature}?")

    async def work(storage: DirectSession, _: EmbeddingModel) -> object:
        return await abandon(storage)

    _use(settings, work)
    print_done(settings, f"The half-made vectors of {building.signature} are gone.", {"dropped": [building.number]})


def _generations(settings: Settings) -> Metadata:
    from pattern_core.catalog.metadata import read_metadata

    async def work(storage: Storage, _: Config) -> Metadata:
        return await read_metadata(storage)

    return use_storage(settings, work)


def _item(generation: Generation, vectors: int) -> dict[str, Any]:
    import attrs

    data = attrs.asdict(generation, filter=lambda field, _: field.name not in {"revision", "has_chunks"})
    return {**data, "vectors": vectors}


def _use(settings: Settings, work: Callable[[DirectSession, EmbeddingModel], Awaitable[T]]) -> T:
    """Open the database for a change of the model, do some work, and close it."""
    import asyncio

    from pattern_core.assembly.opening import open_to_reembed
    from pattern_core.config import load_config

    from .configured import is_missing

    async def run() -> T:
        config = load_config(settings.config)
        if is_missing(config):
            raise click.UsageError("There is no database yet. Just use it.")
        async with open_to_reembed(config) as (session, target):
            return await work(session, target)

    return asyncio.run(run())
