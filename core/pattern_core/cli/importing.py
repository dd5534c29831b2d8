"""``pattern memory import``: a text or Markdown file becomes memories."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from .arguments import find_agent, read_file
from .base import Settings, Verb
from .database import use_database
from .output import print_done
from .progress import progress

if TYPE_CHECKING:
    from pattern_core.database import Database

__all__ = ["import_file"]

CHUNK: Final = 64
"""How many memories are embedded and written at a time."""
MAX_CHARS: Final = 800
"""How long a memory gets: about one subject, and whole within what small embedding models read (256 tokens)."""
SUFFIXES: Final = {".md", ".markdown", ".mdown"}

Labelled = tuple[str, str]


@click.command(
    "import",
    cls=Verb,
    examples="""
        pattern memory import Archive notes.md
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
@click.pass_obj
def import_file(
    settings: Settings,
    agent: str,
    file: str,
    markdown: bool | None,  # noqa: FBT001 - an option of the command line
    max_chars: int,
    prefix: str | None,
) -> None:
    """Split a FILE into memories, one for each section or paragraph; - reads standard input.

    Importing a file again writes only what has changed in it. What is no longer in the file stays remembered.
    """
    from pattern_core.splitting import split_text

    text = read_file(file)
    if markdown is None:
        markdown = Path(file).suffix.lower() in SUFFIXES
    start = prefix if prefix is not None else ("stdin" if file == "-" else Path(file).name)

    def split(content: str, most: int) -> list[Labelled]:
        return [(block.label, block.content) for block in split_text(content, markdown=bool(markdown), max_chars=most)]

    blocks = [(f"{start}: {label}" if start else label, content) for label, content in split(text, max_chars)]

    async def work(db: Database) -> dict[str, int]:
        found = await find_agent(db, agent)
        counts = {"added": 0, "changed": 0, "unchanged": 0}
        with progress(settings, f"Importing into {found.name}", len(blocks)) as advance:
            for chunk in _chunks(blocks):
                fitting = await _fit(db, chunk, split)
                for state, count in (await _remember(db, found.id, fitting)).items():
                    counts[state] += count
                advance(len(chunk))
        return counts

    counts = use_database(settings, work, load_model=bool(blocks))
    said = ", ".join(f"{count:,} {state}" for state, count in counts.items())
    print_done(settings, f"Imported {file} into {agent}: {said}.", counts)


def _chunks(blocks: Sequence[Labelled]) -> Iterator[Sequence[Labelled]]:
    return (blocks[start : start + CHUNK] for start in range(0, len(blocks), CHUNK))


async def _remember(db: Database, agent_id: str, blocks: Sequence[Labelled]) -> dict[str, int]:
    """Write some blocks, and count what came of them."""
    from pattern_core.clock import utc_now

    start = utc_now()
    memories = await db.memories.upsert_many(agent_id, [{"label": label, "content": text} for label, text in blocks])
    written = [each for each in memories if each.updated_at > start]
    added = sum(each.revision == 1 for each in written)
    return {"added": added, "changed": len(written) - added, "unchanged": len(memories) - len(written)}


async def _fit(db: Database, blocks: Sequence[Labelled], split: Callable[[str, int], list[Labelled]]) -> list[Labelled]:
    """Split the blocks further that have more tokens than the model reads."""
    limit = (await db.embeddings.signature()).max_tokens
    embedder = db.embeddings.loaded
    if limit is None or embedder is None or not blocks or db.config.overflow != "error":
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
