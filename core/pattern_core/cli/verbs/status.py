"""``pattern status``: configuration, database, model, record counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pattern_core.cli.commands import Settings, Verb
from pattern_core.cli.database import use_database, use_storage
from pattern_core.cli.output import note, print_fields, print_json
from pattern_core.errors import table_in_words

if TYPE_CHECKING:
    from pattern_core.abc import Health, Storage
    from pattern_core.config import Config
    from pattern_core.database import Database

__all__ = ["status"]


@click.command("status", cls=Verb, examples="pattern status\npattern status --json")
@click.pass_context
def status(context: click.Context) -> None:
    """Show the configuration, the database, the embedding model, and the number of records.

    Nothing is created or migrated. The exit code is 1 if the database cannot be opened.
    """
    from pattern_core.catalog.metadata import Metadata, read_metadata
    from pattern_core.cli.configured import is_missing, location_of, mismatch_of
    from pattern_core.config import load_config
    from pattern_core.errors import StorageError
    from pattern_core.filters import Field
    from pattern_core.maintenance.indexes import read_index_specs
    from pattern_core.maintenance.migrations.migrate import LATEST
    from pattern_core.schema import EMBEDDED, TABLES

    settings: Settings = context.obj
    config = load_config(settings.config)
    known = Metadata()
    found: dict[str, Any] = {
        "config": str(config.source),
        "database": {"type": config.database.provider, "location": location_of(config)},
        "embeddings": {"provider": config.embeddings.provider},
        "vectors": {"metric": config.metric},
    }

    async def look(storage: Storage, _: Config) -> tuple[Metadata, dict[str, int], Health]:
        known = await read_metadata(storage)
        present = await storage.tables()
        counts = {
            name: await storage.count(table)
            for name, table in TABLES.items()
            if name in present and name != "system_metadata"
        }
        return known, counts, await storage.health()

    async def look_at_index(db: Database) -> dict[str, Any]:
        specs = await read_index_specs(db.storage, db.config.metric)
        tables = {table.name: spec.table for table, spec in zip(EMBEDDED, specs, strict=True)}
        truncated, in_chunks = (Field("part") == 0) & ~Field("ends_at").is_null(), Field("part") == 1
        figures = {
            "counts": {name: await db.vectors.count(table) for name, table in tables.items()},
            "truncated": {name: await db.storage.count(table, truncated) for name, table in tables.items()},
            "in_chunks": {name: await db.storage.count(table, in_chunks) for name, table in tables.items()},
        }
        return {"metric": db.config.metric, **figures} | _health(await db.vectors.health())

    try:
        if is_missing(config):
            found["database"] |= {"ok": True, "exists": False}
            found["records"] = {}
        else:
            known, found["records"], health = use_storage(settings, look)
            found["database"] |= _health(health) | {"exists": True}
        found["schema"] = {"version": known.schema_version, "latest": LATEST}
        found["embeddings"]["signature"] = known.signature
    except StorageError as error:
        found["database"] |= {"ok": False, "error": str(error)}
    warning = mismatch_of(config, known.signature)
    found["warnings"] = [warning] if warning else []
    if known.schema_version == LATEST and not warning:
        found["vectors"] = use_database(settings, look_at_index)
    if settings.json:
        print_json(found)
    else:
        print_fields(_in_words(found))
        for each in found["warnings"]:
            note(f"Warning: {each}")
        if "schema" in found and known.schema_version < LATEST:
            note("The next use sets up or migrates the database.")
    context.exit(int(not found["database"]["ok"]))


def _health(health: Health) -> dict[str, Any]:
    return {"ok": health.ok, "engine": health.engine, "details": dict(health.details)}


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _in_words(found: dict[str, Any]) -> dict[str, str]:
    database, vectors = found["database"], found["vectors"]
    words = {"configuration": found["config"], "database": f"{database['type']}, {database['location']}"}
    if "error" in database:
        return words | {"cannot be opened": database["error"], "embeddings": str(found["embeddings"]["provider"])}
    if database["exists"]:
        words["engine"] = f"{database['engine']}, {'works' if database['ok'] else 'does not work'}"
        if details := {name: value for name, value in database["details"].items() if name != "path"}:
            words["state"] = ", ".join(f"{_shown(value)} {name.replace('_', ' ')}" for name, value in details.items())
    else:
        words["database"] += ", does not exist yet"
    signature = found["embeddings"]["signature"]
    index = ", ".join(f"{count:,} of {table_in_words(name)}" for name, count in vectors.get("counts", {}).items())
    long = {
        "truncated": sum(vectors.get("truncated", {}).values()),
        "in chunks": sum(vectors.get("in_chunks", {}).values()),
    }
    if any(long.values()):
        words["long texts"] = ", ".join(f"{count:,} {how}" for how, count in long.items() if count)
    return words | {
        "schema": f"version {found['schema']['version']} of {found['schema']['latest']}",
        "embeddings": str(signature) if signature else f"{found['embeddings']['provider']}, not used yet",
        "vectors": f"{vectors['engine']}, {vectors['metric']}: {index}" if index else vectors["metric"],
        **{table_in_words(name): f"{count:,}" for name, count in found["records"].items()},
    }
