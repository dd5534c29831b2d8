"""The steps by which a schema changes."""

from __future__ import annotations

import attrs

from .table import Table

__all__ = ["AlterTable", "CreateTable", "DropTable", "SchemaStep"]


@attrs.frozen
class CreateTable:
    """Create a table with its columns, unique keys and indexes; do nothing where it is there as declared.

    Attributes:
        table: The table.
        dimensions: The length of its vectors, for engines that fix it.
    """

    table: Table
    dimensions: int


@attrs.frozen
class DropTable:
    """Remove a table with everything in it; do nothing where there is none.

    Attributes:
        table: The table.
    """

    table: Table


@attrs.frozen
class AlterTable:
    """Give a table other columns, and keep its records; do nothing where it has them.

    What columns held that go is lost; those that come are optional, and null. Unique keys and indexes stay. After a
    crash the change may be half done, and is finished when the step is carried out again.

    Attributes:
        before: The table with the columns that it has, or had.
        after: The table with the columns that it shall have.
        dimensions: The length of its vectors, for engines that fix it.
    """

    before: Table
    after: Table
    dimensions: int

    @property
    def table(self) -> Table:
        """The table as it shall be."""
        return self.after


SchemaStep = CreateTable | DropTable | AlterTable
