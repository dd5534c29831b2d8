"""The configuration: where it is found, and what may stand in it.

The configuration is strict: a section, an option or a value that nobody knows is an error, as is an environment
variable that is asked for and not set.
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
    """A section of the configuration: which plugin, and the options that are the plugin's own.

    Attributes:
        provider: The plugin's name; None where the storage's recommendation is to be taken.
        options: The options, environment variables filled in. They may hold secrets, so they are not shown.
    """

    provider: str | None
    options: Mapping[str, Any] = attrs.field(factory=dict, repr=False)


@attrs.frozen(kw_only=True)
class EmbeddingPolicy:
    """How texts are embedded, whoever the provider is: options under ``[embeddings]``.

    Attributes:
        overflow: What happens to a text that is longer than the model reads: ``error`` refuses it, ``truncate`` embeds
            its beginning, ``chunk`` cuts it into parts that the model reads, by any of which it is found.
        deadline: How long a call that fails for a while (a time-out, a busy service) is repeated at most, in seconds.
        cache: Whether vectors are kept on this machine, so that the same text is not embedded twice.
        cache_mb: How large the cache may become, in MB.
        price_per_million_tokens: What the provider asks for a million tokens, in any currency; ``pattern reembed plan`` reckons with it.
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
    """A configuration, read and checked as far as that can be done without the plugins.

    Attributes:
        database: The storage.
        vectors: The vector search.
        embeddings: The embedding provider.
        metric: How vectors are compared: ``cosine``, ``euclidean`` or ``manhattan``.
        policy: How texts are embedded.
        base: The folder that relative paths start from.
        source: The file it was read from; None for a dict.
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
    """Find the configuration file: ``PATTERN_CONFIG``, ``pattern.toml`` from here upwards, or the user's own.

    Returns:
        The file's path.

    Raises:
        ConfigError: There is none.
    """
    if named := os.environ.get(CONFIG_VARIABLE):
        return Path(named)
    here = Path.cwd()
    places = [folder / CONFIG_NAME for folder in (here, *here.parents)]
    places.append(user_config() / CONFIG_NAME)
    for place in places:
        if place.is_file():
            return place
    raise ConfigError(
        f"no configuration found: {CONFIG_VARIABLE} is not set, there is no {CONFIG_NAME} in {here} or above it, and no "
        f"{places[-1]}. `pattern init` writes one here."
    )


def load_config(source: ConfigSource | None = None) -> Config:
    """Read a configuration.

    Args:
        source: The path of a TOML file, a dict of the same form, or a `Config`, which is returned as it is. None looks
            for a file as `find_config` does.

    Returns:
        The configuration. Relative paths in it start from the file's folder; in a dict, from the current one.

    Raises:
        ConfigError: The file cannot be read, or holds what nobody knows.
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
        raise ConfigError(f"cannot be read as TOML: {error}", source=str(path)) from error
    return _parse(raw, base=path.resolve().parent, source=path)


def _parse(raw: Mapping[str, Any], *, base: Path, source: Path | None) -> Config:
    shown = str(source) if source else None
    known = {"database": "type", "vectors": "provider", "embeddings": "provider"}
    sections: dict[str, dict[str, Any]] = {name: {} for name in known}
    for name, content in raw.items():
        if name not in known:
            raise UnknownOptionError(str(name), known, source=shown)
        if not isinstance(content, Mapping):
            raise ConfigError(f"{name} has to be a section, [{name}], got {shorten(content)}", key=name, source=shown)
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
        raise ConfigError(f"{key}: that is no choice. {nearest(str(value), choices)}", key=key, source=source)


_VARIABLE: Final = re.compile(r"(\$?)\$\{([^}]*)\}")


def _expand(value: Any, key: str, source: str | None) -> Any:
    """Fill in ``${NAME}`` from the environment, in texts at any depth; ``$${NAME}`` stands for itself."""
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
