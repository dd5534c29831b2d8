"""``pattern backup`` and ``pattern restore``: all records to files, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pattern_core.cli.commands import Settings, Verb
from pattern_core.cli.database import use_storage
from pattern_core.cli.output import counts_in_words, print_done
from pattern_core.cli.progress import progress

if TYPE_CHECKING:
    from pattern_core.abc import Storage
    from pattern_core.config import Config

__all__ = ["backup", "restore"]


@click.command("backup", cls=Verb, examples="pattern backup backups/monday")
@click.argument("folder", type=click.Path(path_type=Path))
@click.pass_obj
def backup(settings: Settings, folder: Path) -> None:
    """Write all records into a new FOLDER: one Arrow file for each table.

    It includes the vectors, so that `restore` embeds nothing.
    """
    from pattern_core.maintenance.backup import back_up, record_counts, rows_to_back_up

    if folder.exists():
        raise click.UsageError(f"{folder} exists. Name a new folder.")

    async def work(storage: Storage, _: Config) -> dict[str, int]:
        with progress(settings, f"Writing {folder}", await rows_to_back_up(storage)) as advance:
            return record_counts(await back_up(storage, folder, lambda _, rows: advance(rows)))

    counts = use_storage(settings, work)
    print_done(settings, f"Wrote {_count(counts)} into {folder}.", {"folder": str(folder.resolve()), "records": counts})


@click.command("restore", cls=Verb, examples="pattern --config new/pattern.toml restore backups/monday")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.pass_obj
def restore(settings: Settings, folder: Path) -> None:
    """Read a backup FOLDER into the configured database, which must not hold any records.

    The configuration must name the embedding model that made the backup's vectors.
    """
    from pattern_core.assembly.wiring import is_shared
    from pattern_core.maintenance.backup import read_manifest, record_counts
    from pattern_core.maintenance.backup import restore as read_back

    async def work(storage: Storage, config: Config) -> dict[str, int]:
        with progress(settings, f"Reading {folder}", sum(read_manifest(folder).values())) as advance:
            counts = await read_back(storage, folder, lambda _, rows: advance(rows), shared=is_shared(config))
            return record_counts(counts)

    counts = use_storage(settings, work)
    print_done(settings, f"Read {_count(counts)} from {folder}.", {"folder": str(folder.resolve()), "records": counts})


def _count(counts: dict[str, int]) -> str:
    return counts_in_words(counts) or "no records"
