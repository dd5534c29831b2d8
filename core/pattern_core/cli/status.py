"""``pattern status`` and ``pattern plugins``: what there is."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import click

from .base import Settings, Verb
from .database import use_database, use_storage
from .output import Column, note, print_fields, print_json, print_table

if TYPE_CHECKING:
    from pattern_core.abc import Health, Storage
    from pattern_core.config import Config
    from pattern_core.database import Database

__all__ = ["plugins", "status"]


@click.command("status", cls=Verb, examples="pattern status\npattern status --json")
@click.pass_context
def status(context: click.Context) -> None:
    """Show the configuration, the database, the embedding model, and how many records there are.

    Nothing is made, set up or migrated by looking. The exit code is 1 where the database cannot be opened.
    """
    from pattern_core.catalog.metadata import Metadata, read_metadata
    from pattern_core.config import load_config
    from pattern_core.errors import StorageError
    from pattern_core.filters import Field
    from pattern_core.maintenance.indexes import read_index_specs
    from pattern_core.maintenance.migrations.migrate import LATEST
    from pattern_core.schema import EMBEDDED, TABLES

    from .configured import is_missing, location_of, mismatch_of

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
        cut_off, in_chunks = (Field("part") == 0) & ~Field("ends_at").is_null(), Field("part") == 1
        figures = {
            "counts": {name: await db.vectors.count(table) for name, table in tables.items()},
            "cut_off": {name: await db.storage.count(table, cut_off) for name, table in tables.items()},
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
            note("The database is set up, or migrated, when it is next used.")
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
    index = ", ".join(f"{count:,} of {name.replace('_', ' ')}" for name, count in vectors.get("counts", {}).items())
    long = {
        "cut off": sum(vectors.get("cut_off", {}).values()),
        "in chunks": sum(vectors.get("in_chunks", {}).values()),
    }
    if any(long.values()):
        words["long texts"] = ", ".join(f"{count:,} {how}" for how, count in long.items() if count)
    return words | {
        "schema": f"version {found['schema']['version']} of {found['schema']['latest']}",
        "embeddings": str(signature) if signature else f"{found['embeddings']['provider']}, not used yet",
        "vectors": f"{vectors['engine']}, {vectors['metric']}: {index}" if index else vectors["metric"],
        **{name.replace("_", " "): f"{count:,}" for name, count in found["records"].items()},
    }


@click.command("plugins", cls=Verb, examples="pattern plugins\npattern plugins --json")
@click.pass_obj
def plugins(settings: Settings) -> None:
    """List the plugins: the installed ones, those that the configuration uses, and how to get the others.

    For one that cannot be used it is told why.
    """
    from pattern_core.plugins.discovery import EXTRAS, installed_plugins

    found = installed_plugins()
    used = _used(settings)
    missing = {name: f'pip install "pattern-core[{extra}]"' for name, extra in EXTRAS.items()}
    for each in found:
        missing.pop(each.name, None)
    if settings.json:
        items: list[dict[str, Any]] = [
            {
                "name": each.name,
                "roles": [role.label for role in each.roles],
                "distribution": each.distribution,
                "version": each.version,
                "summary": each.summary,
                "loaded": each.error is None,
                "error": each.error,
                "used": each.name in used,
            }
            for each in found
        ]
        print_json({"items": items, "available": [{"name": name, "install": how} for name, how in missing.items()]})
        return
    columns = [
        Column("name"),
        Column("role", share=1, lines=2),
        Column("distribution"),
        Column("version"),
        Column("state"),
    ]
    rows = []
    for each in found:
        roles = ", ".join(role.label for role in each.roles)
        state = "fails" if each.error else "in use" if each.name in used else "loaded"
        rows.append([each.name, roles, each.distribution, each.version, state])
    print_table(columns, rows)
    for name, how in missing.items():
        note(f"Not installed: {name}. {how}")
    for each in found:
        if each.error:
            note(each.error)


def _used(settings: Settings) -> set[str | None]:
    """Return the names of the plugins that the configuration uses; none where it cannot be read."""
    from pattern_core.config import load_config
    from pattern_core.errors import PatternError
    from pattern_core.hookspecs import StorageSpec
    from pattern_core.plugins.discovery import load_plugin, plugin_name

    names: set[str | None] = set()
    with contextlib.suppress(PatternError):  # the plugins are listed all the same
        config = load_config(settings.config)
        names |= {config.database.provider, config.vectors.provider, config.embeddings.provider}
        if config.vectors.provider is None:
            names.add(load_plugin(config.database.provider or "", StorageSpec).vectors)
    return {plugin_name(name) for name in names if name}
