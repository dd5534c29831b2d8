"""``pattern memory import``: a text or Markdown file becomes memories."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .arguments import find_agent, note_if_inactive, read_file, reworded
from .base import Settings, Verb
from .database import use_database
from .output import note, print_done
from .progress import progress

if TYPE_CHECKING:
    from pattern_core.database import Database

__all__ = ["import_file"]

CHUNK: Final = 64
"""How many memories are embedded and written at a time."""
MAX_CHARS: Final = 800
"""How long a memory gets: about one subject, and whole within what small embedding models read (256 tokens)."""
SUFFIXES: Final = {".md", ".markdown", ".mdown"}
SOURCE: Final = "source"
"""The entry of a memory's metadata that tells the file it comes from."""

Labelled = tuple[str, str]


@click.command(
    "import",
    cls=Verb,
    examples="""
        pattern memory import Archive notes.md
        pattern memory import Archive notes.md --prune
        pattern memory import Archive diary.txt --max-chars 400
        man bash | pattern memory import Archive - --prefix bash
    """,
)
@click.argument("agent")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--markdown/--text", default=None, help="What the file holds. [default: from its name]")
@click.option(
    "--max-chars", type=click.IntRange(min=40), default=MAX_CHARS, show_default=True, help="Length of a memory."
)
@click.option("--prefix", help="What the labels begin with. [default: the file's name]")
@click.option("--prune", is_flag=True, help="Forget what an earlier import of the file wrote and it no longer holds.")
@click.pass_obj
def import_file(
    settings: Settings,
    agent: str,
    file: str,
    markdown: bool | None,  # noqa: FBT001 - an option of the command line
    max_chars: int,
    prefix: str | None,
    prune: bool,  # noqa: FBT001 - as above
) -> None:
    """Split a FILE into memories, one for each section or paragraph; - reads standard input.

    Importing a file again writes only what has changed in it. What is no longer in the file stays remembered, unless
    --prune is given. Each memory keeps the path of its file, so files of one name do not get in each other's way.
    """
    from pattern_core.embedding.splitting import split_text
    from pattern_core.errors import PatternError

    text = read_file(file)
    if markdown is None:
        markdown = Path(file).suffix.lower() in SUFFIXES
    wanted = prefix if prefix is not None else ("stdin" if file == "-" else Path(file).name)
    # What comes through a pipe has no name but the one that it is given.
    source = f"stdin: {wanted}" if file == "-" else str(Path(file).resolve())

    def split(content: str, most: int) -> list[Labelled]:
        return [(block.label, block.content) for block in split_text(content, markdown=bool(markdown), max_chars=most)]

    blocks = split(text, max_chars)

    async def work(db: Database) -> dict[str, int]:
        found = await find_agent(db, agent)
        note_if_inactive(found)
        start = await _choose_prefix(db, found.id, source, _prefixes(wanted, file, named=prefix is not None), blocks)
        if start != wanted:
            note(f'Another file has the prefix "{wanted}": the labels of this one begin with "{start}".')
        before = await _imported(db, found.id, source)
        counts = {"added": 0, "changed": 0, "unchanged": 0}
        held: set[str] = set()
        done = 0
        with progress(settings, f"Importing into {found.name}", len(blocks)) as advance:
            for chunk in _chunks(blocks):
                named = [(f"{start}: {label}" if start else label, content) for label, content in chunk]
                try:
                    fitting = await _fit(db, named, split)
                    held.update(label for label, _ in fitting)
                    for state, count in (await _remember(db, found.id, source, fitting, before)).items():
                        counts[state] += count
                except PatternError as error:
                    raise reworded(error, f"{error} {_so_far(done, len(blocks), counts)}") from error.__cause__
                done += len(chunk)
                advance(len(chunk))
        older = [id for label, (id, _) in before.items() if label not in held]
        return counts | {"older": len(older), "pruned": await _forget(db, older) if prune else 0}

    counts = use_database(settings, work, load_model=bool(blocks))
    said = _in_words(counts)
    if counts["older"]:
        pruned = f"{counts['pruned']:,} older ones of this file were forgotten"
        said += (
            f"; {pruned}" if prune else f"; {counts['older']:,} older ones of this file remain (--prune removes them)"
        )
    print_done(settings, f"Imported {file} into {agent}: {said}.", counts)


def _in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[state]:,} {state}" for state in ("added", "changed", "unchanged"))


def _so_far(done: int, total: int, counts: Mapping[str, int]) -> str:
    """Say what an import that fails has written."""
    return (
        f"Before that, the first {done:,} of {total:,} blocks of the file were imported ({_in_words(counts)}). Import it "
        f"again, and it goes on behind them."
    )


def _prefixes(wanted: str, file: str, *, named: bool) -> Iterator[str]:
    """Yield what the labels of a file could begin with: what is wanted, then that with ever more of the file's path."""
    yield wanted
    if file != "-":
        folder = f"{wanted}/" if named and wanted else ""
        parts = Path(os.path.abspath(file)).parts  # noqa: PTH100 - the name that was given, also where it is a link
        for count in range(1 if named else 2, len(parts) + 1):
            yield folder + Path(*parts[-count:]).as_posix()


async def _choose_prefix(
    db: Database, agent_id: str, source: str, prefixes: Iterator[str], blocks: Sequence[Labelled]
) -> str:
    """Return the prefix that the file has from an earlier import, or else the first that no other file has."""
    from pattern_core.filters import Field

    recorded = Field("metadata")[SOURCE]
    mine, others = recorded == source, ~recorded.is_null() & (recorded != source)
    free: list[str] = []
    for prefix in prefixes:
        labels = (
            Field("label").startswith(f"{prefix}: ") if prefix else Field("label").in_([each for each, _ in blocks])
        )
        scope = (Field("agent_id") == agent_id) & labels
        if await db.memories.list(scope & mine, limit=1):
            return prefix
        if not await db.memories.list(scope & others, limit=1):
            free.append(prefix)
    if not free:
        raise click.UsageError("The labels would be those of another file. Choose what they begin with: --prefix.")
    return free[0]


async def _imported(db: Database, agent_id: str, source: str) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Read what earlier imports of a file have written: for each label the id and the metadata."""
    from pattern_core.filters import Field

    where = (Field("agent_id") == agent_id) & (Field("metadata")[SOURCE] == source)
    return {each.label: (each.id, each.metadata) async for each in db.memories.iterate(where, page=1000)}


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))


async def _remember(
    db: Database,
    agent_id: str,
    source: str,
    blocks: Sequence[Labelled],
    before: Mapping[str, tuple[str, Mapping[str, Any]]],
) -> dict[str, int]:
    """Write some blocks, and count what came of them. What else the metadata hold stays."""
    from pattern_core.filters import Field
    from pattern_core.support.clock import utc_now

    metadata = {label: before[label][1] for label, _ in blocks if label in before}
    if unknown := [label for label, _ in blocks if label not in before]:
        where = (Field("agent_id") == agent_id) & Field("label").in_(unknown)
        metadata |= {each.label: each.metadata for each in await db.memories.list(where, limit=len(unknown))}
    start = utc_now()
    given = [
        {"label": label, "content": content, "metadata": {**metadata.get(label, {}), SOURCE: source}}
        for label, content in blocks
    ]
    memories = await db.memories.upsert_many(agent_id, given)
    written = [each for each in memories if each.updated_at > start]
    added = sum(each.revision == 1 for each in written)
    return {"added": added, "changed": len(written) - added, "unchanged": len(memories) - len(written)}


async def _forget(db: Database, ids: Sequence[str]) -> int:
    """Delete memories, and return how many there were."""
    deleted = 0
    for chunk in _chunks(ids):
        async with db.transaction() as transaction:
            for id in chunk:
                deleted += sum((await transaction.memories.delete(id)).values())
    return deleted


async def _fit(db: Database, blocks: Sequence[Labelled], split: Callable[[str, int], list[Labelled]]) -> list[Labelled]:
    """Split the blocks further that have more tokens than the model reads."""
    limit = (await db.embeddings.signature()).max_tokens
    embedder = db.embeddings.loaded
    if limit is None or embedder is None or not blocks or db.config.policy.overflow != "error":
        return list(blocks)
    fitting: list[Labelled] = []
    for block, tokens in zip(blocks, await embedder.count_tokens([content for _, content in blocks]), strict=True):
        label, content = block
        most = min(len(content) // 2, len(content) * limit // tokens)
        if tokens <= limit or most == 0:
            fitting.append(block)
            continue
        parts = [part for _, part in split(content, most)]
        named = [(f"{label} [{number}/{len(parts)}]", part) for number, part in enumerate(parts, start=1)]
        fitting += await _fit(db, named, split)
    return fitting
