"""Every error that pattern-core raises.

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

A message says what happened, where, what was expected, and the way out. What a program may want to act on is an
attribute as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

__all__ = [
    "AccessError",
    "AlreadyExistsError",
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
]


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant, and which there are.

    Args:
        name: What was written.
        known: The names that would have been right.

    Returns:
        A sentence for the end of an error message.
    """
    names = sorted(known)
    if not names:
        return "None are known here."
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(names)}."


def shorten(value: object, limit: int = 80) -> str:
    """Show a value in an error message without flooding it.

    Args:
        value: Anything with a repr.
        limit: The most characters to show.

    Returns:
        The value's repr, cut in the middle where it is longer than the limit.
    """
    if isinstance(value, str | bytes) and len(value) > limit:
        # The repr of a megabyte is a megabyte: cut first.
        text = f"{value[: limit // 2]!r}… ({len(value):,} long)"
    else:
        try:
            text = repr(value)
        except Exception:  # noqa: BLE001 - an int of 5,000 digits has none, nor has a broken object: the error comes first
            text = f"<{type(value).__name__} that cannot be shown>"
    return text if len(text) <= 2 * limit else f"{text[: 2 * limit]}…"


class PatternError(Exception):
    """The root of every error that pattern-core and its plugins raise on purpose."""


class ConfigError(PatternError, ValueError):
    """Raised when the configuration cannot be used.

    Attributes:
        key: The dotted name of the option at fault, if it was one option.
        source: The file that was read, or a word for where the values came from.
    """

    def __init__(self, message: str, *, key: str | None = None, source: str | None = None) -> None:
        super().__init__(f"{source}: {message}" if source else message)
        self.key = key
        self.source = source


class UnknownOptionError(ConfigError):
    """Raised when the configuration holds a section or an option that nobody knows.

    Attributes:
        known: The names that would have been right.
    """

    def __init__(self, key: str, known: Iterable[str], *, source: str | None = None) -> None:
        self.known = tuple(sorted(known))
        last = key.rpartition(".")[2]
        super().__init__(f"unknown option {key!r}. {nearest(last, self.known)}", key=key, source=source)


class MissingVariableError(ConfigError):
    """Raised when ``${NAME}`` stands in the configuration and the environment has no NAME.

    Attributes:
        variable: The name of the missing environment variable.
    """

    def __init__(self, variable: str, key: str, *, source: str | None = None) -> None:
        self.variable = variable
        message = (
            f"{key} asks for the environment variable {variable}, which is not set. "
            f"Set it (export {variable}=…), or write $${{{variable}}} for the literal text."
        )
        super().__init__(message, key=key, source=source)


class PluginError(PatternError):
    """Raised when a plugin that the configuration names cannot be loaded or breaks the rules.

    Attributes:
        name: The word that the configuration used.
        distributions: The installed distributions involved.
    """

    def __init__(self, message: str, *, name: str, distributions: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.name = name
        self.distributions = tuple(distributions)


class PluginNotFoundError(PluginError, LookupError):
    """Raised when no installed distribution offers the named plugin, or not in the wanted role."""


class DuplicatePluginError(PluginError):
    """Raised when several installed distributions claim one plugin name."""


class ValidationError(PatternError, ValueError):
    """Raised when a value does not fit the field it was given for. Nothing was written.

    Attributes:
        where: The entity, table or call that refused it.
        field: The field's name, if it was one field.
    """

    def __init__(self, message: str, *, where: str = "", field: str = "") -> None:
        place = ".".join(part for part in (where, field) if part)
        super().__init__(f"{place}: {message}" if place else message)
        self.where = where
        self.field = field


class FilterError(ValidationError):
    """Raised when a filter or an order names an unknown field, or uses an operator or value that does not fit it."""


class TextTooLongError(ValidationError):
    """Raised when a text has more tokens than the embedding model reads. Nothing was written.

    Attributes:
        tokens: How many tokens the text has.
        limit: How many the model reads.
        position: Where in the given texts it stood, counted from 0.
    """

    def __init__(self, tokens: int, limit: int, position: int, text: str) -> None:
        self.tokens = tokens
        self.limit = limit
        self.position = position
        super().__init__(
            f"text {position} ({shorten(text, 40)}) has {tokens:,} tokens and the embedding model reads {limit:,}; the "
            f'rest could never be found. Let it be embedded in parts with overflow = "chunk" under [embeddings], or '
            f'accept the loss with overflow = "truncate".'
        )


class NotFoundError(PatternError, LookupError):
    """Raised when a record that must exist does not.

    Attributes:
        table: The table that was looked in.
        id: The id, or a description of the key, that was looked for.
    """

    def __init__(self, table: str, id: str) -> None:
        super().__init__(f"{table} has no record {shorten(id)}. Check the id, or use find() where absence is normal.")
        self.table = table
        self.id = id


class AlreadyExistsError(PatternError):
    """Raised when a write would give two records the same id or the same unique key. Nothing was written.

    Attributes:
        table: The table.
        key: The columns of the key and their values.
    """

    def __init__(self, table: str, key: Mapping[str, Any]) -> None:
        shown = ", ".join(f"{name} = {shorten(value)}" for name, value in key.items())
        super().__init__(
            f"{table} already has a record with {shown}. Update or upsert that one, or choose another key."
        )
        self.table = table
        self.key = dict(key)


class ConflictError(PatternError):
    """Raised when a record changed between the read and the write that relied on it. Nothing was written.

    Attributes:
        table: The table.
        id: The record.
        expected: The revision that the write relied on; None where the record had to be absent.
    """

    def __init__(self, table: str, id: str, expected: int | None) -> None:
        wanted = "to be absent" if expected is None else f"at revision {expected}"
        super().__init__(
            f"{table} record {shorten(id)} was expected {wanted}, but somebody else has changed it. "
            f"Read it again and repeat, or let db.run(…) do so."
        )
        self.table = table
        self.id = id
        self.expected = expected


class ModelChangedError(ConflictError):
    """Raised when another embedding model took over between the embedding of a text and its use. Nothing was written.

    Calls repeat themselves then; only a transaction that began before raises it when it ends, as it does any conflict.

    Attributes:
        generation: The number of the generation of vectors that the text was embedded for.
    """

    def __init__(self, generation: int) -> None:
        super().__init__("embedding_generations", str(generation), None)
        self.generation = generation
        message = "the embedding model of the database changed between the embedding of a text and its use."
        self.args = (f"{message} Repeat, or let db.run(…) do so.",)


class ReferencedError(PatternError):
    """Raised when a record cannot be deleted because others belong to it. Nothing was deleted.

    Attributes:
        table: The table.
        id: The record.
        by: How many records of each table belong to it.
    """

    def __init__(self, table: str, id: str, by: Mapping[str, int]) -> None:
        shown = ", ".join(f"{count:,} {name}" for name, count in by.items())
        super().__init__(
            f"{table} record {shorten(id)} still has {shown}. Delete those first, or pass cascade=True to delete "
            f"everything that belongs to it."
        )
        self.table = table
        self.id = id
        self.by = dict(by)


class StorageError(PatternError):
    """Raised when the storage engine fails. Whether a write took effect is said in the message."""


class DatabaseLockedError(StorageError):
    """Raised when another process, or another open database in this one, already has these files open.

    Attributes:
        path: The database's folder.
        owner: Who holds it, as far as that is known.
    """

    def __init__(self, path: str, owner: str) -> None:
        super().__init__(
            f"the database {path} is already open: {owner}. An embedded database has one owner at a time: close the "
            f"other one, or let it do this work."
        )
        self.path = path
        self.owner = owner


class DataLossError(StorageError):
    """Raised when the stored data lacks writes that were acknowledged. The database is left as it was found.

    Attributes:
        path: The database's folder.
    """

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


class AccessError(StorageError):
    """Raised when a server refuses the credentials, or what they allow is too little. Nothing was written.

    Attributes:
        option: The option of the configuration to look at; None where that is not known.
    """

    def __init__(self, message: str, *, option: str | None = None) -> None:
        super().__init__(message)
        self.option = option


class UnreachableError(StorageError):
    """Raised when a server cannot be reached, has gone away, or does not answer in time.

    Attributes:
        may_have_written: Whether the write that was asked for may have taken effect. Where it may not, it has not, and
            can be repeated as it is.
    """

    def __init__(self, message: str, *, may_have_written: bool = False) -> None:
        super().__init__(message)
        self.may_have_written = may_have_written


class ClosedError(StorageError):
    """Raised when a database is used after it was closed."""


class MigrationError(PatternError):
    """Raised when the database's schema cannot be brought to the version that this library needs."""


class ReembedError(PatternError):
    """Raised when the vectors of another embedding model cannot be made, or cannot take over. Searches go on as before."""


class EmbeddingError(PatternError):
    """Raised when texts cannot be turned into vectors. Nothing was written.

    Attributes:
        provider: The embedding plugin.
        model: The model.
        transient: Whether the same call may succeed a little later, as after a time-out. Then core has repeated it
            until its deadline.
        retry_after: How long the service asked to be left alone, in seconds; None where it did not say.
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
    """Raised when the embedding model cannot be found, fetched or reached."""


class InvalidVectorError(EmbeddingError):
    """Raised when a vector has the wrong shape, is all zeros, or holds something that is not a finite number."""


class SignatureMismatchError(EmbeddingError):
    """Raised when the database's vectors were made by another embedding model than the configured one.

    Attributes:
        stored: What made the vectors in the database.
        configured: What the configuration would use.
    """

    def __init__(self, stored: str, configured: str) -> None:
        super().__init__(
            f"this database's vectors were made by {stored}, and the configuration names {configured}. Vectors of two "
            f"models cannot be compared. Configure the first again under [embeddings], or make vectors by the second: "
            f"`pattern reembed run`, or db.reembed(…)."
        )
        self.stored = stored
        self.configured = configured
