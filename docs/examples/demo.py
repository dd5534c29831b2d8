"""Store real text as memories of an agent, and answer questions from it, before and after reopening the database.

Without FILE, the text is the documentation of Python's standard library, and the questions are prepared. With FILE, such
as NOTES.md, questions are read from the terminal or standard input.
"""
# ruff: noqa: INP001 - a program, not part of a package

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
"""Questions, each with the modules of which one has to be among the three best hits."""

console = Console(highlight=False)


Config = dict[str, Any]


def config(folder: Path, storage: str, embeddings: str) -> Config:
    """Return a configuration; the weights of the default model come from a package, so that no download is needed."""
    model = {"model": "sentence-transformers/all-MiniLM-L6-v2"} if embeddings == "torch" else {}
    return {
        "database": {"type": storage, "path": str(folder / "pattern.db")},
        "embeddings": {"provider": embeddings, **model},
    }


async def ensure_agent(db: pattern_core.Database, name: str) -> str:
    """Return the id of the demo's agent for a text; a second run with the same database continues with it."""
    user = await db.users.ensure("demo")
    agent = await db.agents.ensure(
        user_id=user.id, agent_type=name, name=name, system_prompt="Answer from your memories."
    )
    return agent.id


async def store(db: pattern_core.Database, agent_id: str, blocks: Sequence[tuple[str, str]]) -> None:
    """Store blocks of text, each a label and a content, as memories of an agent, with a progress bar."""
    columns = (
        TextColumn("storing"),
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
            batch = blocks[start : start + 64]
            await db.memories.upsert_many(agent_id, [{"label": label, "content": text} for label, text in batch])
            rate = (start + len(batch)) / (time.perf_counter() - began)
            progress.update(task, advance=len(batch), rate=f"{rate:,.0f}/s")
    console.print(f"Stored {len(blocks):,} memories in {time.perf_counter() - began:.1f} s.\n")


async def answer(
    db: pattern_core.Database, agent_id: str, questions: Sequence[str], *, top: int = 3
) -> list[list[str]]:
    """Print the memories that are closest to each question, and return their labels."""
    table = Table("question", "memory", "score", "ms", show_edge=False, pad_edge=False)
    table.columns[2].justify = table.columns[3].justify = "right"
    answers = []
    for question in questions:
        began = time.perf_counter()
        hits = await db.memories.search(question, agent_id=agent_id, limit=top)
        elapsed = (time.perf_counter() - began) * 1000
        for rank, hit in enumerate(hits):
            first = rank == 0
            table.add_row(
                question if first else "", hit.record.label, f"{hit.score:.3f}", f"{elapsed:.0f}" if first else ""
            )
        answers.append([hit.record.label for hit in hits])
    console.print(table)
    return answers


def ask() -> Iterator[str]:
    """Read questions, one a line, until an empty line."""
    while True:
        if sys.stdin.isatty():
            console.print("[bold]Question[/] (empty to quit): ", end="")
        question = sys.stdin.readline().strip()
        if not question:
            return
        yield question


async def standard_library(configuration: Config) -> int:
    """Store the standard library's documentation, ask questions, reopen the database, and ask again."""
    console.rule("Documentation of Python's standard library")
    blocks = list(paragraphs())
    questions = list(QUESTIONS)
    began = time.perf_counter()
    async with pattern_core.open(configuration) as db:
        console.print(f"Opened the database and the model in {time.perf_counter() - began:.1f} s.")
        agent_id = await ensure_agent(db, "standard library")
        await store(db, agent_id, blocks)
        first = await answer(db, agent_id, questions)
    console.print()
    console.rule("The same questions after reopening")
    began = time.perf_counter()
    async with pattern_core.open(configuration) as db:
        console.print(f"Opened the database and the model in {time.perf_counter() - began:.1f} s.\n")
        second = await answer(db, await ensure_agent(db, "standard library"), questions)
    modules = [[label.split(".")[0].split(" ")[0] for label in labels] for labels in first]
    fits = [[name in QUESTIONS[question] for name in names] for question, names in zip(questions, modules, strict=True)]
    console.print(
        f"\nOf {len(questions)} questions, {sum(each[0] for each in fits)} have a fitting module as the best hit, and "
        f"{sum(any(each) for each in fits)} among the three best."
    )
    same = "The answers after reopening are the same."
    console.print(same if first == second else "[red]The answers after reopening differ.[/]")
    semantic = configuration["embeddings"]["provider"] != "hashing"  # a lexical model cannot answer all questions
    return 0 if first == second and (not semantic or all(any(each) for each in fits)) else 1


async def own_text(configuration: Config, file: Path) -> int:
    """Store a file, and answer questions about it."""
    text = await asyncio.to_thread(file.read_text, encoding="utf-8")
    blocks = split_text(text, markdown=file.suffix.lower() in {".md", ".markdown"})
    if not blocks:
        console.print(f"{file} contains no text.")
        return 1
    async with pattern_core.open(configuration) as db:
        agent_id = await ensure_agent(db, file.name)
        await store(db, agent_id, [(block.label, block.content) for block in blocks])
        for question in ask():
            await answer(db, agent_id, [question])
    return 0


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="a text or Markdown file to store")
    parser.add_argument("--storage", default="surreal-embedded", help="the storage plugin (default: %(default)s)")
    parser.add_argument("--embeddings", default="torch", help="the embedding plugin (default: %(default)s)")
    parser.add_argument("--config", type=Path, help="a configuration file, instead of both")
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
