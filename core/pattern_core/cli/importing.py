"""``pattern memory import``: text and Markdown files become memories."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from .commands import Settings, Verb
from .database import use_database
from .lookup import find_agent, note_if_inactive, reworded
from .output import note, print_done
from .progress import progress
from .values import read_file

if TYPE_CHECKING:
    from pattern_core.database import Database

__all__ = ["import_files"]

CHUNK: Final = 64
"""How many memories are embedded and written at a time."""
MAX_CHARS: Final = 800
"""The default length of a memory: about one subject, and within the token limit of small models (256 tokens)."""
SUFFIXES: Final = {".md", ".markdown", ".mdown"}
"""The suffixes of Markdown files."""
TEXTS: Final = SUFFIXES | {".txt", ".text"}
"""The suffixes of the files that are imported from a folder."""
SOURCE: Final = "source"
"""The entry of a memory's metadata that names the file."""
_COUNTED: Final = ("added", "changed", "unchanged", "older", "pruned")

Labeled = tuple[str, str]
"""A label and a content."""
Split = Callable[[str, int], list[Labeled]]
"""Splits a text into blocks of at most so many characters."""


class _File(NamedTuple):
    """A file to import.

    Attributes:
        path: The path as it was given; ``-`` for standard input.
        label: The wanted prefix of the labels.
        source: A text that identifies the file among all imported ones.
        is_named: Whether the prefix was given on the command line.
        split: Splits a text of this file.
        blocks: The labels and contents of its blocks.
    """

    path: str
    label: str
    source: str
    is_named: bool
    split: Split
    blocks: list[Labeled]


@click.command(
    "import",
    cls=Verb,
    examples="""
        pattern memory import Archive notes.md
        pattern memory import Archive notes/ diary.txt
        pattern memory import Archive *.md --prune
        man bash | pattern memory import Archive - --prefix bash
    """,
)
@click.argument("agent")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(exists=True, allow_dash=True))
@click.option("--markdown/--text", default=None, help="The format. [default: from the file's name]")
@click.option(
    "--max-chars", type=click.IntRange(min=40), default=MAX_CHARS, show_default=True, help="Length of a memory."
)
@click.option("--prefix", help="The beginning of the labels. [default: the file's name]")
@click.option("--prune", is_flag=True, help="Delete memories of earlier imports whose text the file no longer has.")
@click.pass_obj
def import_files(
    settings: Settings,
    agent: str,
    files: tuple[str, ...],
    markdown: bool | None,  # noqa: FBT001 - an option of the command line
    max_chars: int,
    prefix: str | None,
    prune: bool,  # noqa: FBT001 - as above
) -> None:
    """Split each FILE into memories, one for each section or paragraph.

    A folder stands for all text and Markdown files in it, - for standard input. Importing a file again writes only what
    has changed in it. Memories of sections that are no longer in the file stay, unless --prune is given. Each memory
    keeps the path of its file, so files with the same name do not mix.
    """
    from pattern_core.errors import PatternError

    paths = list(_expand(files))
    prepared = [_prepare(path, markdown, max_chars, prefix, several=len(paths) > 1) for path in paths]

    async def work(db: Database) -> list[dict[str, int]]:
        found = await find_agent(db, agent)
        note_if_inactive(found)
        done: list[dict[str, int]] = []
        with progress(settings, f"Importing into {found.name}", sum(len(each.blocks) for each in prepared)) as advance:
            for each in prepared:
                try:
                    done.append(await _import(db, found.id, each, advance, prune=prune))
                except PatternError as error:
                    if len(prepared) == 1:
                        raise
                    message = f"{each.path}: {error} {len(done):,} of {len(prepared):,} files are imported."
                    raise reworded(error, message) from error.__cause__
        return done

    done = use_database(settings, work, load_model=any(each.blocks for each in prepared))
    counts = {name: sum(each[name] for each in done) for name in _COUNTED}
    what = paths[0] if len(paths) == 1 else f"{len(paths):,} files"
    data = counts if len(paths) == 1 else {"files": len(paths), **counts}
    print_done(settings, f"Imported {what} into {agent}: {_in_words(counts)}{_about_older(counts, prune=prune)}.", data)


def _expand(files: Sequence[str]) -> Iterator[str]:
    """Yield the files that the command line names, each once; raise `click.UsageError` for a folder without any."""
    seen: set[str] = set()
    for path in files:
        if path == "-" and len(files) > 1:
            raise click.UsageError("Standard input (-) cannot be imported together with files.")
        found = [path]
        if path != "-" and Path(path).is_dir():
            below = Path(path).rglob("*")
            found = sorted(
                str(each)
                for each in below
                if each.suffix.lower() in TEXTS and each.is_file() and not _is_hidden(each.relative_to(path))
            )
            if not found:
                raise click.UsageError(f"{path} has no text or Markdown files ({', '.join(sorted(TEXTS))}).")
        for each in found:
            if (real := os.path.realpath(each)) not in seen:
                seen.add(real)
                yield each


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _prepare(path: str, markdown: bool | None, max_chars: int, prefix: str | None, *, several: bool) -> _File:  # noqa: FBT001
    """Read and split a file, so that one that cannot be read stops the import before anything is written."""
    from pattern_core.embedding.splitting import split_text

    is_markdown = Path(path).suffix.lower() in SUFFIXES if markdown is None else markdown

    def split(content: str, most: int) -> list[Labeled]:
        return [(block.label, block.content) for block in split_text(content, markdown=is_markdown, max_chars=most)]

    name = "stdin" if path == "-" else Path(path).name
    label = name if prefix is None else f"{prefix}/{name}" if several and prefix else prefix
    # Standard input has no name but its prefix.
    source = f"stdin: {label}" if path == "-" else str(Path(path).resolve())
    return _File(path, label, source, prefix is not None, split, split(read_file(path), max_chars))


async def _import(
    db: Database, agent_id: str, file: _File, advance: Callable[[int], None], *, prune: bool
) -> dict[str, int]:
    """Write the memories of a file, and return the counts."""
    from pattern_core.errors import PatternError

    start = await _choose_prefix(db, agent_id, file)
    if start != file.label:
        note(f'Another file has the prefix "{file.label}", so labels of {file.path} begin with "{start}".')
    before = await _imported(db, agent_id, file.source)
    counts = {"added": 0, "changed": 0, "unchanged": 0}
    kept: set[str] = set()
    done = 0
    for chunk in _chunks(file.blocks):
        labeled = [(f"{start}: {label}" if start else label, content) for label, content in chunk]
        try:
            fitting = await _fit(db, labeled, file.split)
            kept.update(label for label, _ in fitting)
            for state, count in (await _write(db, agent_id, file.source, fitting, before)).items():
                counts[state] += count
        except PatternError as error:
            raise reworded(error, f"{error} {_so_far(done, len(file.blocks), counts)}") from error.__cause__
        done += len(chunk)
        advance(len(chunk))
    older = [id for label, (id, _) in before.items() if label not in kept]
    return counts | {"older": len(older), "pruned": await _delete(db, older) if prune else 0}


def _in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[state]:,} {state}" for state in ("added", "changed", "unchanged"))


def _about_older(counts: Mapping[str, int], *, prune: bool) -> str:
    if not counts["older"]:
        return ""
    if prune:
        return f"; {counts['pruned']:,} older ones were deleted"
    return f"; {counts['older']:,} older ones remain (--prune deletes them)"


def _so_far(done: int, total: int, counts: Mapping[str, int]) -> str:
    """Return what an import that fails has written, in words."""
    return (
        f"Before that, the first {done:,} of {total:,} blocks of the file were imported ({_in_words(counts)}). Import it "
        f"again to continue."
    )


def _prefixes(file: _File) -> Iterator[str]:
    """Yield possible prefixes of a file's labels: the wanted one, then that with more and more of the file's path."""
    yield file.label
    if file.path != "-":
        folder = f"{file.label}/" if file.is_named and file.label else ""
        parts = Path(os.path.abspath(file.path)).parts  # noqa: PTH100 - the given name, also of a link
        for count in range(1 if file.is_named else 2, len(parts) + 1):
            yield folder + Path(*parts[-count:]).as_posix()


async def _choose_prefix(db: Database, agent_id: str, file: _File) -> str:
    """Return the prefix of an earlier import of the file, or else the first one that no other file has."""
    from pattern_core.filters import Field

    recorded = Field("metadata")[SOURCE]
    mine, others = recorded == file.source, ~recorded.is_null() & (recorded != file.source)
    free: list[str] = []
    for prefix in _prefixes(file):
        labels = (
            Field("label").startswith(f"{prefix}: ")
            if prefix
            else Field("label").in_([each for each, _ in file.blocks])
        )
        scope = (Field("agent_id") == agent_id) & labels
        if await db.memories.list(scope & mine, limit=1):
            return prefix
        if not await db.memories.list(scope & others, limit=1):
            free.append(prefix)
    if not free:
        raise click.UsageError("Another file has these labels. Choose their beginning with --prefix.")
    return free[0]


async def _imported(db: Database, agent_id: str, source: str) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Return the memories of earlier imports of a file: for each label the id and the metadata."""
    from pattern_core.filters import Field

    where = Field("metadata")[SOURCE] == source
    return {
        each.label: (each.id, each.metadata) async for each in db.memories.iterate(where, agent_id=agent_id, page=1000)
    }


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))


async def _write(
    db: Database,
    agent_id: str,
    source: str,
    blocks: Sequence[Labeled],
    before: Mapping[str, tuple[str, Mapping[str, Any]]],
) -> dict[str, int]:
    """Write some blocks, and return the counts. Other entries of the metadata stay."""
    from pattern_core.filters import Field
    from pattern_core.support.clock import utc_now

    metadata = {label: before[label][1] for label, _ in blocks if label in before}
    if unknown := [label for label, _ in blocks if label not in before]:
        found = await db.memories.list(Field("label").in_(unknown), agent_id=agent_id, limit=len(unknown))
        metadata |= {each.label: each.metadata for each in found}
    start = utc_now()
    given = [
        {"label": label, "content": content, "metadata": {**metadata.get(label, {}), SOURCE: source}}
        for label, content in blocks
    ]
    memories = await db.memories.upsert_many(agent_id, given)
    written = [each for each in memories if each.updated_at > start]
    added = sum(each.revision == 1 for each in written)
    return {"added": added, "changed": len(written) - added, "unchanged": len(memories) - len(written)}


async def _delete(db: Database, ids: Sequence[str]) -> int:
    """Delete memories, and return their number."""
    deleted = 0
    for chunk in _chunks(ids):
        async with db.transaction() as transaction:
            for id in chunk:
                deleted += sum((await transaction.memories.delete(id)).values())
    return deleted


async def _fit(db: Database, blocks: Sequence[Labeled], split: Split) -> list[Labeled]:
    """Split those blocks further that are over the model's token limit."""
    limit = (await db.embeddings.signature()).max_tokens
    embedder = db.embeddings.loaded
    if limit is None or embedder is None or not blocks or db.config.policy.overflow != "error":
        return list(blocks)
    fitting: list[Labeled] = []
    for block, tokens in zip(blocks, await embedder.count_tokens([content for _, content in blocks]), strict=True):
        label, content = block
        most = min(len(content) // 2, len(content) * limit // tokens)
        if tokens <= limit or most == 0:
            fitting.append(block)
            continue
        parts = [part for _, part in split(content, most)]
        labeled = [(f"{label} [{number}/{len(parts)}]", part) for number, part in enumerate(parts, start=1)]
        fitting += await _fit(db, labeled, split)
    return fitting
