"""Schema steps: creating, dropping and altering a table."""

from __future__ import annotations

import attrs

from .table import Table

__all__ = ["AlterTable", "CreateTable", "DropTable", "SchemaStep"]


@attrs.frozen
class CreateTable:
    """Create a table with its columns, unique keys and indexes; do nothing if it exists as declared.

    Attributes:
        table: The table.
        dimensions: The length of its vectors, for engines that need it.
    """

    table: Table
    dimensions: int


@attrs.frozen
class DropTable:
    """Remove a table with everything in it; do nothing if there is none.

    Attributes:
        table: The table.
    """

    table: Table


@attrs.frozen
class AlterTable:
    """Change the columns of a table, and keep its records; do nothing if it has them.

    The values of removed columns are lost. Added columns are optional, and null. Unique keys and indexes stay. After a
    crash the change may be half done; applying the step again completes it.

    Attributes:
        before: The table with its previous columns.
        after: The table with its new columns.
        dimensions: The length of its vectors, for engines that need it.
    """

    before: Table
    after: Table
    dimensions: int

    @property
    def table(self) -> Table:
        """The table after the change."""
        return self.after


SchemaStep = CreateTable | DropTable | AlterTable
