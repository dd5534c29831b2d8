"""The configuration: finding, reading and checking it.

It is strict: an unknown section, option or value is an error, and so is an environment variable that is not set.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import attrs

from .errors import ConfigError, MissingVariableError, UnknownOptionError, nearest, shorten
from .support.directories import user_config
from .support.options import structure_options

__all__ = ["Config", "ConfigSource", "EmbeddingPolicy", "Section", "find_config", "load_config"]

CONFIG_NAME: Final = "pattern.toml"
CONFIG_VARIABLE: Final = "PATTERN_CONFIG"
METRICS: Final = ("cosine", "euclidean", "manhattan")

Overflow: TypeAlias = Literal["error", "truncate", "chunk"]


@attrs.frozen
class Section:
    """A section of the configuration: a plugin and its options.

    Attributes:
        provider: The name of the plugin; None for the default of the storage.
        options: The options, with environment variables filled in. They may hold secrets, so the repr omits them.
    """

    provider: str | None
    options: Mapping[str, Any] = attrs.field(factory=dict, repr=False)


@attrs.frozen(kw_only=True)
class EmbeddingPolicy:
    """Options under ``[embeddings]`` that every provider has.

    Attributes:
        overflow: The handling of a text over the model's token limit: ``error`` rejects it, ``truncate`` embeds its
            start, ``chunk`` splits it into chunks, any of which finds it.
        deadline: How long a call is retried after transient failures (a timeout, a busy service), in seconds.
        cache: Whether to keep vectors on this machine, so that no text is embedded twice.
        cache_mb: The largest size of the cache, in MB.
        price_per_million_tokens: The provider's price for a million tokens, in any currency, for ``pattern reembed plan``.
    """

    overflow: Overflow = "error"
    deadline: float = attrs.field(default=120.0, validator=[attrs.validators.ge(0), attrs.validators.lt(86_400)])
    cache: bool = True
    cache_mb: int = attrs.field(default=512, validator=attrs.validators.in_(range(1, 1_000_000)))
    price_per_million_tokens: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.ge(0))
    )


@attrs.frozen(kw_only=True)
class Config:
    """A configuration, checked as far as possible without loading the plugins.

    Attributes:
        database: The storage.
        vectors: The vector search.
        embeddings: The embedding provider.
        metric: The metric of the vector search: ``cosine``, ``euclidean`` or ``manhattan``.
        policy: The options that every embedding provider has.
        base: The folder that relative paths start from.
        source: The file that it was read from; None for a dict.
    """

    database: Section
    vectors: Section
    embeddings: Section
    metric: str = "cosine"
    policy: EmbeddingPolicy = attrs.field(factory=EmbeddingPolicy)
    base: Path = attrs.field(factory=Path.cwd)
    source: Path | None = None


ConfigSource: TypeAlias = Config | Mapping[str, Any] | str | os.PathLike[str]


def find_config() -> Path:
    """Find the configuration file: ``PATTERN_CONFIG``, ``pattern.toml`` in this folder or above it, or the user's own.

    Returns:
        The path of the file.

    Raises:
        ConfigError: There is no such file.
    """
    if named := os.environ.get(CONFIG_VARIABLE):
        return Path(named)
    here = Path.cwd()
    candidates = [folder / CONFIG_NAME for folder in (here, *here.parents)]
    candidates.append(user_config() / CONFIG_NAME)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ConfigError(
        f"no configuration found: {CONFIG_VARIABLE} is not set, and there is no {CONFIG_NAME} in {here} or above it, and "
        f"no {candidates[-1]}. `pattern init` writes one here."
    )


def load_config(source: ConfigSource | None = None) -> Config:
    """Read a configuration.

    Args:
        source: The path of a TOML file, a dict of the same form, or a `Config`, which is returned as it is. None searches
            for a file, as `find_config` does.

    Returns:
        The configuration. Relative paths start from the folder of the file; those of a dict from the current folder.

    Raises:
        ConfigError: The file cannot be read, or its content is not valid.
    """
    if isinstance(source, Config):
        return source
    if isinstance(source, Mapping):
        return _parse(source, base=Path.cwd(), source=None)
    if source is not None and not isinstance(source, str | os.PathLike):
        raise ConfigError(f"expected the path of a file, a dict or a Config, got {shorten(source)}")
    path = Path(source) if source is not None else find_config()
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("there is no such file. `pattern init` writes one.", source=str(path)) from None
    except (OSError, ValueError) as error:
        hint = ". Texts stand in quotes" if "Invalid value" in str(error) else ""
        raise ConfigError(f"cannot be read as TOML: {error}{hint}", source=str(path)) from error
    return _parse(raw, base=path.resolve().parent, source=path)


def _parse(raw: Mapping[str, Any], *, base: Path, source: Path | None) -> Config:
    shown = str(source) if source else None
    known = {"database": "type", "vectors": "provider", "embeddings": "provider"}
    sections: dict[str, dict[str, Any]] = {name: {} for name in known}
    for name, content in raw.items():
        if name not in known:
            raise UnknownOptionError(str(name), known, source=shown)
        if not isinstance(content, Mapping):
            raise ConfigError(f"{name} must be a section, [{name}], got {shorten(content)}", key=name, source=shown)
        sections[name] = {str(key): _expand(value, f"{name}.{key}", shown) for key, value in content.items()}
    metric = sections["vectors"].pop("metric", "cosine")
    _check_choice(metric, METRICS, "vectors.metric", shown)
    own = {each.name: sections["embeddings"] for each in attrs.fields(EmbeddingPolicy)}
    given = {name: section.pop(name) for name, section in own.items() if name in section}
    policy = structure_options(EmbeddingPolicy, given, section="embeddings", base=base, source=shown)
    defaults = {"database": "surreal-embedded", "vectors": None, "embeddings": "torch"}
    parsed = {}
    for name, word in known.items():
        provider = sections[name].pop(word, defaults[name])
        if provider is not None and not isinstance(provider, str):
            raise ConfigError(f"expected a text, got a {type(provider).__name__}", key=f"{name}.{word}", source=shown)
        parsed[name] = Section(provider, sections[name])
    return Config(**parsed, metric=metric, policy=policy, base=base, source=source)


def _check_choice(value: object, choices: tuple[str, ...], key: str, source: str | None) -> None:
    if value not in choices:
        # Not the value: it may be a secret in the wrong place.
        raise ConfigError(f"{key}: not a valid choice. {nearest(str(value), choices)}", key=key, source=source)


_VARIABLE: Final = re.compile(r"(\$?)\$\{([^}]*)\}")


def _expand(value: Any, key: str, source: str | None) -> Any:
    """Replace ``${NAME}`` by the environment variable, in texts at any depth; ``$${NAME}`` gives the literal text."""
    if isinstance(value, str):

        def fill(match: re.Match[str]) -> str:
            escaped, name = match.groups()
            if escaped:
                return match[0][1:]
            if name not in os.environ:
                raise MissingVariableError(name, key, source=source)
            return os.environ[name]

        return _VARIABLE.sub(fill, value)
    if isinstance(value, Mapping):
        return {name: _expand(each, f"{key}.{name}", source) for name, each in value.items()}
    if isinstance(value, list):
        return [_expand(each, key, source) for each in value]
    return value
