"""An agent remembers real text, answers questions from it, and still does after the database was closed and reopened.

Without arguments, the text is the documentation of Python's standard library: ``python demo.py``. With a file, it is
that file, and the questions are read from the terminal or standard input: ``python demo.py NOTES.md``. Other plugins than
the embedded default are named by ``--storage`` and ``--embeddings``, with their defaults; or ``--config pattern.toml`` says
all there is to say.
"""
# ruff: noqa: INP001 - a program is no part of a package

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from stdlib_docs import paragraphs

import pattern_core
from pattern_core import split_text

QUESTIONS = {
    "how do I send an e-mail?": {"smtplib", "email"},
    "undo on a crash: write a file atomically": {"tempfile", "os"},
    "read a file of comma separated values": {"csv"},
    "find the differences between two texts": {"difflib"},
    "insert into a list and keep it sorted": {"bisect"},
    "make a temporary directory that is removed afterwards": {"tempfile"},
    "average, median and standard deviation of numbers": {"statistics"},
    "how do I log messages to a file?": {"logging"},
    "generate a password that nobody can guess": {"secrets"},
    "convert JSON text to Python objects": {"json"},
    "what day of the week is a date?": {"calendar", "datetime"},
}
"""What to ask, and the modules of which one has to be among the first three."""

console = Console(highlight=False)


Config = dict[str, Any]


def config(folder: Path, storage: str, embeddings: str) -> Config:
    """Return a configuration. The model's weights come from a package, so that no hub is needed."""
    model = {"model": "sentence-transformers/all-MiniLM-L6-v2"} if embeddings == "torch" else {}
    return {
        "database": {"type": storage, "path": str(folder / "pattern.db")},
        "embeddings": {"provider": embeddings, **model},
    }


async def remember(db: pattern_core.Database, blocks: Sequence[tuple[str, str]]) -> str:
    """Have a new agent remember blocks of text, showing how far it is."""
    user = await db.users.create()
    agent = await db.agents.create(
        user_id=user.id, agent_type="archive", name="Archive", system_prompt="Remember what matters."
    )
    columns = (
        TextColumn("remembering"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    began = time.perf_counter()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(blocks), rate="")
        for start in range(0, len(blocks), 64):
            part = blocks[start : start + 64]
            await db.memories.upsert_many(agent.id, [{"label": label, "content": text} for label, text in part])
            rate = (start + len(part)) / (time.perf_counter() - began)
            progress.update(task, advance=len(part), rate=f"{rate:,.0f}/s")
    console.print(f"{len(blocks):,} memories in {time.perf_counter() - began:.1f} s\n")
    return agent.id


async def answer(
    db: pattern_core.Database, agent_id: str, questions: Sequence[str], *, top: int = 3
) -> list[list[str]]:
    """Print the memories nearest to each question, and return their labels."""
    table = Table("question", "memory", "score", "ms", show_edge=False, pad_edge=False)
    table.columns[2].justify = table.columns[3].justify = "right"
    answers = []
    for question in questions:
        began = time.perf_counter()
        hits = await db.memories.search_semantic(agent_id, question, limit=top)
        took = (time.perf_counter() - began) * 1000
        for rank, hit in enumerate(hits):
            first = rank == 0
            table.add_row(
                question if first else "", hit.memory.label, f"{hit.score:.3f}", f"{took:.0f}" if first else ""
            )
        answers.append([hit.memory.label for hit in hits])
    console.print(table)
    return answers


def ask() -> Iterator[str]:
    """Read questions, one a line, until there are no more."""
    while True:
        if sys.stdin.isatty():
            console.print("[bold]question[/] (empty to end): ", end="")
        question = sys.stdin.readline().strip()
        if not question:
            return
        yield question


async def standard_library(configuration: Config) -> int:
    """Remember the standard library's documentation, ask, reopen, and ask again."""
    console.rule("Reading the documentation of Python's standard library")
    blocks = list(paragraphs())
    questions = list(QUESTIONS)
    began = time.perf_counter()
    async with pattern_core.open(configuration) as db:
        console.print(f"database and model open in {time.perf_counter() - began:.1f} s")
        agent_id = await remember(db, blocks)
        first = await answer(db, agent_id, questions)
    console.print()
    console.rule("Closed, reopened, asked again")
    began = time.perf_counter()
    async with pattern_core.open(configuration) as db:
        console.print(f"database and model open in {time.perf_counter() - began:.1f} s")
        second = await answer(db, agent_id, questions)
    modules = [[label.split(".")[0].split(" ")[0] for label in labels] for labels in first]
    fits = [[name in QUESTIONS[question] for name in names] for question, names in zip(questions, modules, strict=True)]
    console.print(
        f"\nOf {len(questions)} questions, {sum(each[0] for each in fits)} have a module that fits on top, and "
        f"{sum(any(each) for each in fits)} among the first three."
    )
    console.print("After reopening, the answers are the same." if first == second else "[red]The answers differ.[/]")
    semantic = configuration["embeddings"]["provider"] != "hashing"  # by words alone, not every question is answered
    return 0 if first == second and (not semantic or all(any(each) for each in fits)) else 1


async def own_text(configuration: Config, file: Path) -> int:
    """Remember a file of the user's, and answer questions about it."""
    text = await asyncio.to_thread(file.read_text, encoding="utf-8")
    blocks = split_text(text, markdown=file.suffix.lower() in {".md", ".markdown"})
    if not blocks:
        console.print(f"{file} holds no text.")
        return 1
    async with pattern_core.open(configuration) as db:
        agent_id = await remember(db, [(block.label, block.content) for block in blocks])
        for question in ask():
            await answer(db, agent_id, [question])
    return 0


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="a text or Markdown file to remember")
    parser.add_argument("--storage", default="embedded", help="the storage plugin")
    parser.add_argument("--embeddings", default="torch", help="the embedding plugin")
    parser.add_argument("--config", type=Path, help="a configuration, instead of these two")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pattern-demo-") as folder:
        configuration = config(Path(folder), arguments.storage, arguments.embeddings)
        if arguments.config is not None:
            configuration = tomllib.loads(arguments.config.read_text(encoding="utf-8"))
        if arguments.file is None:
            return asyncio.run(standard_library(configuration))
        return asyncio.run(own_text(configuration, arguments.file))


if __name__ == "__main__":
    sys.exit(main())
