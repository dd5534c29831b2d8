"""``pattern status`` and ``pattern plugins``: what there is."""

from __future__ import annotations

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
@click.pass_obj
def status(settings: Settings) -> None:
    """Show the configuration, the database, the embedding model, and how many records there are.

    Nothing is set up or migrated by looking.
    """
    from pattern_core.cli.configured import location_of
    from pattern_core.maintenance.metadata import read_metadata
    from pattern_core.maintenance.migrate import LATEST
    from pattern_core.schema import TABLES

    async def look(storage: Storage, config: Config) -> dict[str, Any]:
        known = await read_metadata(storage)
        present = await storage.tables()
        return {
            "config": str(config.source),
            "database": {"type": config.database.provider, "location": location_of(config)}
            | _health(await storage.health()),
            "schema": {"version": known.schema_version, "latest": LATEST},
            "embeddings": {"provider": config.embeddings.provider, "signature": known.signature},
            "vectors": {"metric": config.metric},
            "records": {
                name: await storage.count(table)
                for name, table in TABLES.items()
                if name in present and name != "system_metadata"
            },
        }

    async def look_at_index(db: Database) -> dict[str, Any]:
        counts = {table.name: await db.vectors.count(table) for table in TABLES.values() if table.vector}
        return {"metric": db.config.metric, "counts": counts} | _health(await db.vectors.health())

    found = use_storage(settings, look)
    if found["schema"]["version"] == LATEST:
        found["vectors"] = use_database(settings, look_at_index)
    if settings.json:
        print_json(found)
        return
    print_fields(_in_words(found))
    if found["schema"]["version"] < LATEST:
        note("The database is set up, or migrated, when it is next used.")


def _health(health: Health) -> dict[str, Any]:
    return {"ok": health.ok, "engine": health.engine, "details": dict(health.details)}


def _in_words(found: dict[str, Any]) -> dict[str, str]:
    database, schema, vectors = found["database"], found["schema"], found["vectors"]
    signature = found["embeddings"]["signature"]
    works = "works" if database["ok"] else "does not work"
    index = ", ".join(f"{count:,} of {name.replace('_', ' ')}" for name, count in vectors.get("counts", {}).items())
    return {
        "configuration": found["config"],
        "database": f"{database['type']}, {database['location']}",
        "engine": f"{database['engine']}, {works}",
        "schema": f"version {schema['version']} of {schema['latest']}",
        "embeddings": str(signature) if signature else f"{found['embeddings']['provider']}, not used yet",
        "vectors": f"{vectors['engine']}, {vectors['metric']}: {index}" if index else vectors["metric"],
        **{name.replace("_", " "): f"{count:,}" for name, count in found["records"].items()},
    }


@click.command("plugins", cls=Verb, examples="pattern plugins\npattern plugins --json")
@click.pass_obj
def plugins(settings: Settings) -> None:
    """List the installed plugins, and why one cannot be used."""
    from pattern_core.plugins import installed_plugins

    found = installed_plugins()
    if settings.json:
        items = [
            {
                "name": each.name,
                "roles": [role.label for role in each.roles],
                "distribution": each.distribution,
                "version": each.version,
                "summary": each.summary,
                "loaded": each.error is None,
                "error": each.error,
            }
            for each in found
        ]
        print_json({"items": items})
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
        rows.append([each.name, roles, each.distribution, each.version, "fails" if each.error else "loaded"])
    print_table(columns, rows)
    for each in found:
        if each.error:
            note(each.error)
