"""``pattern reembed``: another embedding model for an existing database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pattern_core.cli.commands import Settings, VerbGroup
from pattern_core.cli.database import use_storage
from pattern_core.cli.options import confirm, yes_option
from pattern_core.cli.output import Column, note, print_done, print_fields, print_json, print_table, shown_time
from pattern_core.cli.progress import progress

if TYPE_CHECKING:
    from pattern_core.abc import Signature, Storage
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
    """Change the embedding model: embed all records with the configured model, then switch to it.

    First name the new model under [embeddings] in the configuration. Searches use the previous vectors until the new ones
    are complete. The previous vectors are kept until `drop`.
    """


@reembed.command("plan", examples="pattern reembed plan\npattern reembed plan --json")
@click.pass_obj
def plan(settings: Settings) -> None:
    """Show what a run would embed, its time and its cost.

    It embeds a few records to measure the time. The cost is shown if price_per_million_tokens is set under [embeddings].
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
            f"About {found.too_long:,} records are over the token limit of {found.target.model}. Unless overflow is set "
            f"under [embeddings], the first of them stops the run."
        )
    if found.current == found.target:
        note("The configured model is in use already: there is nothing to do.")


@reembed.command("run", examples="pattern reembed run\npattern reembed run --again")
@click.option("--again", is_flag=True, help="Embed again even if the model is in use already.")
@click.pass_obj
def run(settings: Settings, again: bool) -> None:  # noqa: FBT001 - an option of the command line
    """Build the new vectors, and switch to them when all are there.

    An interrupted run continues. Other processes can use the database meanwhile.
    """
    _run(settings, again=again)


@reembed.command("resume", examples="pattern reembed resume")
@click.pass_obj
def resume(settings: Settings) -> None:
    """Continue an interrupted run.

    It takes the run over, even if its process reported a moment ago.
    """
    if _generations(settings).building is None:
        raise click.UsageError("No run was interrupted. Start one with `pattern reembed run`.")
    _run(settings, take_over=True)


@reembed.command("status", examples="pattern reembed status\npattern reembed status --json")
@click.pass_obj
def status(settings: Settings) -> None:
    """Show the generations of vectors: in use, being built, or kept."""
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
    columns += [Column("vectors", number=True), Column("started")]
    rows = [
        [str(each.number), _STATES[each.state], str(each.signature), f"{count:,}", shown_time(each.created_at)]
        for each, count in found
    ]
    print_table(columns, rows)
    for each, _ in found:
        if each.state == "building":
            seen = f"{each.worker} last reported at {shown_time(each.worker_seen_at)}"
            note(f"{waiting:,} records written meanwhile are waiting. {seen}. To continue: pattern reembed resume.")


@reembed.command("rollback", examples="pattern reembed rollback")
@yes_option
@click.pass_obj
def rollback(settings: Settings, yes: bool) -> None:  # noqa: FBT001 - an option of the command line
    """Abandon an interrupted run; or else go back to a previous model.

    To go back, first name the previous model under [embeddings] again. Only records that changed since are embedded. The
    vectors that `run --again` replaced cannot be brought back: they are of the same model.
    """
    known = _generations(settings)
    if known.building is not None:
        _abandon(settings, known.building, yes=yes)
        return
    kept = [each.signature for each in known.generations if each.state == "retired"]
    previous = [each for each in kept if each != known.in_use.signature]
    if kept and not previous:
        message = "The kept vectors are of the model in use. `pattern reembed drop` removes them."
        raise click.UsageError(message)
    if not previous:
        raise click.UsageError("There are no vectors of a previous model to go back to.")

    async def target(_: DirectSession, model: EmbeddingModel) -> Any:
        return await model.signature()

    if (configured := _use(settings, target)) not in previous:
        names = " or ".join(map(str, previous))
        message = f"The configuration names {configured}. To go back, name {names} under [embeddings]."
        raise click.UsageError(message)
    _run(settings)


@reembed.command("drop", examples="pattern reembed drop --yes")
@yes_option
@click.pass_obj
def drop(settings: Settings, yes: bool) -> None:  # noqa: FBT001 - an option of the command line
    """Remove the vectors of previous models. Going back then means embedding everything again."""
    from pattern_core.maintenance.reembedding.generations import drop_retired

    retired = [each for each in _generations(settings).generations if each.state == "retired"]
    if retired and not yes:
        confirm(f"Remove the vectors of {', '.join(str(each.signature) for each in retired)}?")

    async def work(session: DirectSession, _: EmbeddingModel) -> list[Generation]:
        return await drop_retired(session)

    dropped = _use(settings, work) if retired else []
    message = "".join(f"Removed the vectors of {each.signature}. " for each in dropped).strip() or "Nothing to remove."
    print_done(settings, message, {"dropped": [each.number for each in dropped]})


_STATES = {"active": "in use", "building": "being built", "retired": "kept"}


def _plan_in_words(found: ReembedEstimate) -> dict[str, str]:
    words = {
        "from": str(found.current),
        "to": str(found.target),
        "records": f"{found.records:,}, {found.done:,} of them done" if found.done else f"{found.records:,}",
        "tokens": f"about {found.tokens:,}",
        "time": "unknown: the sample was in the cache"
        if found.seconds is None
        else f"about {_duration(found.seconds)}",
    }
    return words if found.cost is None else words | {"cost": f"about {found.cost:,.2f}"}


def _duration(seconds: float) -> str:
    if seconds < 90:  # noqa: PLR2004 - minutes are easier to read
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _run(settings: Settings, *, again: bool = False, take_over: bool = False) -> None:
    from pattern_core.maintenance.reembedding.reembed import reembed as make
    from pattern_core.schema import EMBEDDED

    async def work(session: DirectSession, target: EmbeddingModel) -> tuple[Signature, ReembedResult]:
        previous = session.active.signature
        total = sum([await session.storage.count(table) for table in EMBEDDED])
        with progress(settings, "Embedding", total) as advance:
            before = 0

            def show(done: int, _: int) -> None:
                nonlocal before
                advance(done - before)
                before = done

            return previous, await make(session, target, again=again, take_over=take_over, progress=show)

    previous, done = _use(settings, work)
    data = {"switched": done.switched, "generation": done.generation, "embedded": done.embedded}
    if not done.switched:
        print_done(settings, f"Nothing to do: {done.signature} is in use.", data)
        return
    print_done(settings, f"{done.signature} is in use now. {done.embedded:,} records were embedded.", data)
    if not settings.json:
        way_back = "" if previous == done.signature else ", `pattern reembed rollback` goes back to them"
        note(f"The previous vectors are kept: `pattern reembed drop` removes them{way_back}.")


def _abandon(settings: Settings, building: Generation, *, yes: bool) -> None:
    from pattern_core.maintenance.reembedding.generations import abandon

    if not yes:
        confirm(f"Abandon the half-built vectors of {building.signature}?")

    async def work(storage: DirectSession, _: EmbeddingModel) -> object:
        return await abandon(storage)

    _use(settings, work)
    print_done(settings, f"Removed the half-built vectors of {building.signature}.", {"dropped": [building.number]})


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
    """Open the database to change its model, run work, and close it."""
    import asyncio

    from pattern_core.assembly.opening import open_to_reembed
    from pattern_core.cli.configured import is_missing
    from pattern_core.config import load_config

    async def run() -> T:
        config = load_config(settings.config)
        if is_missing(config):
            raise click.UsageError("There is no database yet. The first use creates it with the configured model.")
        async with open_to_reembed(config) as (session, target):
            return await work(session, target)

    return asyncio.run(run())
