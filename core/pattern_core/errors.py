"""The errors of pattern-core.

::

    PatternError
    ├── ConfigError(ValueError)
    │   ├── UnknownOptionError
    │   └── MissingVariableError
    ├── PluginError
    │   ├── PluginNotFoundError(LookupError)
    │   └── DuplicatePluginError
    ├── ValidationError(ValueError)
    │   ├── FilterError
    │   └── TextTooLongError
    ├── NotFoundError(LookupError)
    ├── AlreadyExistsError
    ├── ConflictError
    │   └── ModelChangedError
    ├── ReferencedError
    ├── StorageError
    │   ├── DatabaseLockedError
    │   ├── DataLossError
    │   ├── AccessError
    │   ├── UnreachableError
    │   └── ClosedError
    ├── MigrationError
    ├── ReembedError
    └── EmbeddingError
        ├── ModelUnavailableError
        ├── InvalidVectorError
        └── SignatureMismatchError

A message says what failed, what was expected, and what to do. Facts that a program may act on are attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

__all__ = [
    "AccessError",
    "AlreadyExistsError",
    "ChangesLostError",
    "ClosedError",
    "ConfigError",
    "ConflictError",
    "DataLossError",
    "DatabaseLockedError",
    "DuplicatePluginError",
    "EmbeddingError",
    "FilterError",
    "InvalidVectorError",
    "MigrationError",
    "MissingVariableError",
    "ModelChangedError",
    "ModelUnavailableError",
    "NotFoundError",
    "PatternError",
    "PluginError",
    "PluginNotFoundError",
    "ReembedError",
    "ReferencedError",
    "SignatureMismatchError",
    "StorageError",
    "TextTooLongError",
    "UnknownOptionError",
    "UnreachableError",
    "ValidationError",
    "nearest",
    "shorten",
    "table_in_words",
]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint to the nearest known name, for the end of an error message.

    Args:
        name: The unknown name.
        known: The valid names.

    Returns:
        One or two sentences.
    """
    names = sorted(known)
    if not names:
        return "There are none."
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(names)}."


def shorten(value: object, limit: int = 80) -> str:
    """Return the repr of a value, shortened for an error message.

    Args:
        value: Any value.
        limit: The most characters to show.

    Returns:
        The repr, truncated if it is longer.
    """
    if isinstance(value, str | bytes) and len(value) > limit:
        # The repr of a megabyte is a megabyte, so truncate first.
        text = f"{value[: limit // 2]!r}… ({len(value):,} long)"
    else:
        try:
            text = repr(value)
        except Exception:  # noqa: BLE001 - huge integers and broken objects have no repr
            text = f"<{type(value).__name__} that cannot be shown>"
    return text if len(text) <= 2 * limit else f"{text[: 2 * limit]}…"


def table_in_words(table: str) -> str:
    """Return the word for the records of a table: ``memories``, ``tool calls``."""
    return "memories" if table == "memory_blocks" else table.replace("_", " ")


class PatternError(Exception):
    """The base class of all errors that pattern-core and its plugins raise."""


class ConfigError(PatternError, ValueError):
    """Raised when the configuration is not valid.

    Attributes:
        key: The dotted name of the option; None if it is not about one option.
        source: The file that was read; None for other sources.
    """

    def __init__(self, message: str, *, key: str | None = None, source: str | None = None) -> None:
        super().__init__(f"{source}: {message}" if source else message)
        self.key = key
        self.source = source


class UnknownOptionError(ConfigError):
    """Raised when the configuration holds an unknown section or option.

    Attributes:
        known: The valid names.
    """

    def __init__(self, key: str, known: Iterable[str], *, source: str | None = None) -> None:
        self.known = tuple(sorted(known))
        last = key.rpartition(".")[2]
        super().__init__(f"unknown option {key!r}. {nearest(last, self.known)}", key=key, source=source)


class MissingVariableError(ConfigError):
    """Raised when the configuration uses ``${NAME}`` and the environment has no NAME.

    Attributes:
        variable: The name of the missing environment variable.
    """

    def __init__(self, variable: str, key: str, *, source: str | None = None) -> None:
        self.variable = variable
        message = (
            f"{key} uses the environment variable {variable}, which is not set. "
            f"Set it (export {variable}=…), or write $${{{variable}}} for the literal text."
        )
        super().__init__(message, key=key, source=source)


class PluginError(PatternError):
    """Raised when a configured plugin cannot be loaded, or breaks the rules for hooks.

    Attributes:
        name: The name of the plugin in the configuration.
        distributions: The installed distributions that offer it.
    """

    def __init__(self, message: str, *, name: str, distributions: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.name = name
        self.distributions = tuple(distributions)


class PluginNotFoundError(PluginError, LookupError):
    """Raised when no installed distribution offers the plugin, or not in this role."""


class DuplicatePluginError(PluginError):
    """Raised when several installed distributions offer one plugin name."""


class ValidationError(PatternError, ValueError):
    """Raised when a value is not valid for its field. Nothing was written.

    Attributes:
        where: The record type, table or call that rejected it.
        field: The name of the field; empty if it is not about one field.
    """

    def __init__(self, message: str, *, where: str = "", field: str = "") -> None:
        place = ".".join(part for part in (where, field) if part)
        super().__init__(f"{place}: {message}" if place else message)
        self.where = where
        self.field = field


class FilterError(ValidationError):
    """Raised when a filter or an order names an unknown field, or uses an operator or value that does not suit it."""


class TextTooLongError(ValidationError):
    """Raised when a text is over the embedding model's token limit. Nothing was written.

    Attributes:
        tokens: How many tokens the text has.
        limit: The token limit.
        position: The position in the given texts, from 0.
    """

    def __init__(self, tokens: int, limit: int, position: int, text: str) -> None:
        self.tokens = tokens
        self.limit = limit
        self.position = position
        super().__init__(
            f"text {position} ({shorten(text, 40)}) has {tokens:,} tokens, and the embedding model's limit is {limit:,}. "
            f'Set overflow = "chunk" under [embeddings] to embed it in chunks, or overflow = "truncate" to ignore the rest.'
        )


class NotFoundError(PatternError, LookupError):
    """Raised when a record that must exist does not.

    Attributes:
        table: The table.
        id: The id, or a description of the key.
        key: The columns and values of the lookup; empty for a lookup by id.
    """

    def __init__(self, table: str, id: str, *, key: Mapping[str, Any] | None = None) -> None:
        table_name = table_in_words(table)
        if key is None:
            message = (
                f"{table_name} has no record {shorten(id)}. Check that it is an id, not a name or a label, and that the "
                f"record was created; or use find() if it may be missing."
            )
        else:
            shown = " and ".join(f"{name} = {shorten(value)}" for name, value in key.items())
            message = (
                f"{table_name} has no record with {shown}. Check both, or use find_by_label() if it may be missing."
            )
        super().__init__(message)
        self.table = table
        self.id = id
        self.key = dict(key or {})


class AlreadyExistsError(PatternError):
    """Raised when a write would give two records the same id or unique key. Nothing was written.

    Attributes:
        table: The table.
        key: The columns of the key, and their values.
    """

    def __init__(self, table: str, key: Mapping[str, Any]) -> None:
        shown = ", ".join(f"{name} = {shorten(value)}" for name, value in key.items())
        super().__init__(
            f"{table_in_words(table)} already has a record with {shown}. Update or upsert that record, or choose "
            f"another key."
        )
        self.table = table
        self.key = dict(key)


class ConflictError(PatternError):
    """Raised when a record changed between a read and the write that relied on it. Nothing was written.

    Attributes:
        table: The table.
        id: The record.
        expected: The revision that the write expected; None if it expected no record.
    """

    def __init__(self, table: str, id: str, expected: int | None) -> None:
        found = "was created" if expected is None else f"is no longer at revision {expected}: it was changed"
        super().__init__(
            f"the record {shorten(id)} of {table_in_words(table)} {found} after you read it. "
            f"Read it again and retry, or use db.run(…), which retries."
        )
        self.table = table
        self.id = id
        self.expected = expected


class ModelChangedError(ConflictError):
    """Raised when the embedding model changed between the embedding of a text and its use. Nothing was written.

    Single calls retry by themselves. A transaction that began before the change raises it when it ends.

    Attributes:
        generation: The generation of vectors that the text was embedded for.
    """

    def __init__(self, generation: int) -> None:
        super().__init__("embedding_generations", str(generation), None)
        self.generation = generation
        message = "the embedding model of the database changed between the embedding of a text and its use."
        self.args = (f"{message} Retry, or use db.run(…), which retries.",)


class ReferencedError(PatternError):
    """Raised when a record cannot be deleted because other records belong to it. Nothing was deleted.

    Attributes:
        table: The table.
        id: The record.
        by: How many records of each table belong to it.
    """

    def __init__(self, table: str, id: str, by: Mapping[str, int]) -> None:
        shown = ", ".join(f"{count:,} {table_in_words(name)}" for name, count in by.items())
        super().__init__(
            f"the record {shorten(id)} of {table_in_words(table)} still has {shown}. Delete those first, or pass "
            f"cascade=True to delete everything that belongs to it."
        )
        self.table = table
        self.id = id
        self.by = dict(by)


class StorageError(PatternError):
    """Raised when the storage engine fails. The message says whether a write took effect."""


class DatabaseLockedError(StorageError):
    """Raised when the database is already open in another process, or elsewhere in this one.

    Attributes:
        path: The folder of the database.
        owner: Who has it open, as far as known.
    """

    def __init__(self, path: str, owner: str) -> None:
        super().__init__(
            f"the database {path} is already open: {owner}. An embedded database has one owner at a time. Close the "
            f"other one, or use a database for many processes: lancedb or surreal-remote."
        )
        self.path = path
        self.owner = owner


class DataLossError(StorageError):
    """Raised when acknowledged writes are missing from the stored data. The database is left unchanged.

    Attributes:
        path: The folder of the database.
    """

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


class ChangesLostError(StorageError):
    """Raised when the changes since a position are not known any more. Read the records instead.

    Attributes:
        since: The position.
    """

    def __init__(self, since: str) -> None:
        super().__init__(
            f"the commit log cannot tell what has changed since {shorten(since)}: it no longer holds that position, the "
            f"database was restored, or the position is of another database. Call `db.position()`, read the records, "
            f"and continue from that position."
        )
        self.since = since


class AccessError(StorageError):
    """Raised when a server rejects the credentials, or they lack a permission. Nothing was written.

    Attributes:
        option: The option of the configuration to check; None if unknown.
    """

    def __init__(self, message: str, *, option: str | None = None) -> None:
        super().__init__(message)
        self.option = option


class UnreachableError(StorageError):
    """Raised when a server cannot be reached, closes the connection, or does not answer in time.

    Attributes:
        may_have_written: Whether the write may have taken effect. If False, it has not, and can be retried.
    """

    def __init__(self, message: str, *, may_have_written: bool = False) -> None:
        super().__init__(message)
        self.may_have_written = may_have_written


class ClosedError(StorageError):
    """Raised when a closed database is used."""


class MigrationError(PatternError):
    """Raised when the database cannot be migrated to the schema version that this library needs."""


class ReembedError(PatternError):
    """Raised when a re-embedding cannot start or finish. Searches continue with the current vectors."""


class EmbeddingError(PatternError):
    """Raised when texts cannot be embedded. Nothing was written.

    Attributes:
        provider: The embedding plugin.
        model: The model.
        transient: Whether the same call may succeed later, as after a timeout. Core has retried it until the deadline.
        retry_after: How long the service asked to wait, in seconds; None if it did not.
    """

    def __init__(
        self,
        message: str,
        *,
        provider: str = "",
        model: str = "",
        transient: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.model = model
        self.transient = transient
        self.retry_after = retry_after


class ModelUnavailableError(EmbeddingError):
    """Raised when the embedding model cannot be found, downloaded or reached."""


class InvalidVectorError(EmbeddingError):
    """Raised when a vector has the wrong shape, is all zeros, or holds a number that is not finite."""


class SignatureMismatchError(EmbeddingError):
    """Raised when another embedding model than the configured one made the database's vectors.

    Attributes:
        stored: The signature of the stored vectors.
        configured: The signature of the configured model.
    """

    def __init__(self, stored: str, configured: str) -> None:
        super().__init__(
            f"this database's vectors are from {stored}, and the configuration names {configured}. Vectors of two models "
            f"cannot be compared. Configure the first model again under [embeddings], or switch to the second one: "
            f"`pattern reembed run`, or db.reembed(…)."
        )
        self.stored = stored
        self.configured = configured
