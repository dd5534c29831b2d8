"""Tables, schema steps, and the tables of records: declared once for every storage."""

from .log import COMMIT_LOG
from .records import EMBEDDED, TABLES
from .steps import AlterTable, CreateTable, DropTable, SchemaStep
from .table import Column, Kind, Order, Table

__all__ = [
    "COMMIT_LOG",
    "EMBEDDED",
    "TABLES",
    "AlterTable",
    "Column",
    "CreateTable",
    "DropTable",
    "Kind",
    "Order",
    "SchemaStep",
    "Table",
]
