"""``pattern doctor``: checks of everything, with the way out of each problem."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import attrs
import click

import pattern_core
from pattern_core.assembly.opening import open_storage
from pattern_core.catalog.metadata import read_metadata
from pattern_core.cli.commands import Settings, Verb
from pattern_core.cli.configured import configured_embeddings, configured_storage, configured_vectors, location_of
from pattern_core.cli.output import clean, console, one_line, print_json
from pattern_core.config import load_config
from pattern_core.database import open as open_database
from pattern_core.errors import ConfigError, PatternError, SignatureMismatchError, table_in_words
from pattern_core.maintenance.indexes import index_status, read_index_specs
from pattern_core.maintenance.migrations.migrate import LATEST, plan_migration
from pattern_core.schema import EMBEDDED
from pattern_core.support.validators import as_vector

if TYPE_CHECKING:
    from pattern_core.abc import Storage
    from pattern_core.catalog.metadata import Metadata
    from pattern_core.config import Config
    from pattern_core.hookspecs import EmbeddingSpec, StorageSpec, VectorSpec

__all__ = ["Check", "doctor"]

PROBE: Final = "Does the model turn this into numbers?"


@attrs.frozen
class Check:
    """The result of a check.

    Attributes:
        name: The subject.
        state: ``ok``, ``warn`` or ``fail``.
        message: The finding and, if something is wrong, the way out.
    """

    name: str
    state: str
    message: str


Report = Callable[[Check], None]


@click.command("doctor", cls=Verb, examples="pattern doctor\npattern doctor --json")
@click.pass_context
def doctor(context: click.Context) -> None:
    """Check the configuration, the plugins, the database, the model and the index.

    Each problem is shown with the way out. The exit code is 1 if something does not work. A database that is set up is
    not changed.
    """
    settings: Settings = context.obj
    checks: list[Check] = []

    def report(check: Check) -> None:
        checks.append(check)
        if not settings.json:
            _print(check)

    asyncio.run(_examine(settings.config, report))
    failed = any(check.state == "fail" for check in checks)
    if settings.json:
        print_json({"ok": not failed, "checks": checks})
    context.exit(int(failed))


def _print(check: Check) -> None:
    if not sys.stdout.isatty():
        click.echo(f"{check.state}\t{check.name}\t{one_line(check.message)}")
        return
    from rich.table import Table
    from rich.text import Text

    row = Table.grid(padding=(0, 2))
    for width in (4, 13, None):
        row.add_column(width=width, overflow="fold")
    style = {"ok": "green", "warn": "yellow", "fail": "bold red"}[check.state]
    row.add_row(Text(check.state, style=style), check.name, Text(clean(check.message)))
    console().print(row)


@contextlib.contextmanager
def _failing(report: Report, name: str) -> Iterator[None]:
    """Report any error, also of a plugin, as a failed check."""
    try:
        yield
    except PatternError as error:
        report(Check(name, "fail", str(error)))
    except Exception as error:  # noqa: BLE001 - the other checks still run
        report(Check(name, "fail", f"{type(error).__name__}: {error}. This is a bug in the plugin."))


async def _examine(source: str | None, report: Report) -> None:
    """Run all checks, except those that depend on one that failed."""
    python = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    report(Check("program", "ok", f"pattern-core {pattern_core.__version__}, {python}"))
    config = None
    with _failing(report, "configuration"):
        config = load_config(source)
    if config is None:
        return
    wrong, plugins = _check_plugins(config)
    if not wrong:
        report(Check("configuration", "ok", str(config.source)))
    for check in (*wrong, *plugins):
        report(check)
    usable = {check.name for check in plugins if check.state == "ok"}
    stored = await _check_database(config, report) if "storage" in usable else None
    loads = "embeddings" in usable and await _check_model(config, stored, report)
    if loads and "vectors" in usable and stored is not None and stored.schema_version == LATEST:
        await _check_index(config, report)


def _check_plugins(config: Config) -> tuple[list[Check], list[Check]]:
    """Load the plugins that a configuration names.

    Returns:
        The problems of the configuration, each once; and the checks of the plugins.
    """

    def storage() -> tuple[str | None, StorageSpec]:
        return config.database.provider, configured_storage(config)[0]

    def vectors() -> tuple[str | None, VectorSpec]:
        spec, _, name = configured_vectors(config)
        return name, spec

    def embeddings() -> tuple[str | None, EmbeddingSpec]:
        return config.embeddings.provider, configured_embeddings(config)[0]

    wrong: dict[str, Check] = {}
    plugins: dict[str, Check] = {}
    for describe in (storage, vectors, embeddings):
        role = describe.__name__
        try:
            name, spec = describe()
        except ConfigError as error:
            wrong[str(error)] = Check("configuration", "fail", str(error))
        except PatternError as error:  # without a storage, its default vector search is unknown
            plugins.setdefault(str(error), Check(role, "fail", str(error)))
        else:
            plugins[role] = Check(role, "ok", f"{name}: {spec.summary}")
    return list(wrong.values()), list(plugins.values())


async def _check_database(config: Config, report: Report) -> Metadata | None:
    """Open the storage, and check its health and its schema."""
    with _failing(report, "database"):
        async with open_storage(config) as storage:
            health = await storage.health()
            state, words = ("ok", "works") if health.ok else ("fail", f"does not work: {dict(health.details)}")
            report(Check("database", state, f"{location_of(config)} ({health.engine}) {words}"))
            with _failing(report, "schema"):
                return await _check_schema(storage, report)
    return None


async def _check_schema(storage: Storage, report: Report) -> Metadata:
    steps, stored = await plan_migration(storage), await read_metadata(storage)
    if not stored.schema_version:
        report(Check("schema", "ok", "not set up yet; the first use sets it up"))
    elif steps.pending:
        message = f"version {steps.current} of {steps.target}. The next use migrates it; `pattern migrate plan` shows the steps."
        report(Check("schema", "warn", message))
    else:
        report(Check("schema", "ok", f"version {steps.current}, the latest"))
    if stored.building is not None:
        message = f"vectors of {stored.building.signature} are half built: `pattern reembed resume`, or `rollback`."
        report(Check("reembed", "warn", message))
    return stored


async def _check_model(config: Config, stored: Metadata | None, report: Report) -> bool:
    """Load the model, embed a text, and compare the model with that of the database's vectors."""
    with _failing(report, "model"):
        spec, options = configured_embeddings(config)
        start = time.perf_counter()
        async with await spec.open(options) as embedder:
            signature = embedder.signature
            loaded = time.perf_counter()
            as_vector(await embedder.embed_query(PROBE), signature.dimensions)
            done = time.perf_counter()
        if stored is not None and stored.signature not in (None, signature):
            raise SignatureMismatchError(str(stored.signature), str(signature))
        took = f"loaded in {loaded - start:.1f} s, embeds a text in {(done - loaded) * 1000:.1f} ms"
        if spec.semantic:
            report(Check("model", "ok", f"{signature}, {took}"))
        else:
            means = "It compares words, not meaning; a language model (torch) compares meaning."
            report(Check("model", "warn", f"{signature}, {took}. {means}"))
        return True
    return False


async def _check_index(config: Config, report: Report) -> None:
    """Compare the vector index with the storage."""
    with _failing(report, "index"):
        async with open_database(config, load_model=False) as database:
            specs = await read_index_specs(database.storage, config.metric)
            found = [await index_status(database.storage, database.vectors, spec.table) for spec in specs]
        names = (table_in_words(table.name) for table in EMBEDDED)
        figures = zip(names, found, strict=True)
        words = ", ".join(f"{each.indexed:,} of {each.vectors:,} vectors of {name}" for name, each in figures)
        agrees = all(each.ok for each in found)
        hint = "" if agrees else ". The index does not agree with the records. Run `pattern vectors rebuild`."
        report(Check("index", "ok" if agrees else "fail", f"{words}{hint}"))
