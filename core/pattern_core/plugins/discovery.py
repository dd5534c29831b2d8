"""Plugin discovery: find the plugin that a configuration names, load only that one, and check its specs."""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, TypeVar

import attrs
import pluggy

from pattern_core import hookspecs
from pattern_core.errors import DuplicatePluginError, PluginError, PluginNotFoundError, nearest
from pattern_core.hookspecs import ENTRY_POINT_GROUP, EmbeddingSpec, StorageSpec, VectorSpec

from .install_hint import install_command

__all__ = ["PluginInfo", "Role", "installed_plugins", "load_plugin", "plugin_name"]

ALIASES: Final = {"embedded": "surreal-embedded", "remote": "surreal-remote", "candle": "torch"}
"""Plugin names of older configurations, and today's names."""

EXTRAS: Final = {
    "surreal-embedded": "surreal-embedded",
    "surreal-remote": "surreal-remote",
    "lancedb": "lancedb",
    "torch": "torch",
    "ollama": "ollama",
    "openai": "cloud",
    "cohere": "cloud",
}
"""The plugins of this repository, and the extra that installs each."""

Spec = TypeVar("Spec", StorageSpec, VectorSpec, EmbeddingSpec)


class Role(enum.Enum):
    """A role of plugins, by the hook that describes it."""

    STORAGE = "pattern_storage"
    VECTORS = "pattern_vectors"
    EMBEDDINGS = "pattern_embeddings"

    @property
    def label(self) -> str:
        """The name of the role, for people."""
        return {"STORAGE": "storage", "VECTORS": "vector search", "EMBEDDINGS": "embeddings"}[self.name]


_ROLES: Final[dict[type[Any], Role]] = {
    StorageSpec: Role.STORAGE,
    VectorSpec: Role.VECTORS,
    EmbeddingSpec: Role.EMBEDDINGS,
}


@attrs.frozen
class PluginInfo:
    """An installed plugin.

    Attributes:
        name: Its name in the configuration.
        roles: Its roles.
        distribution: The distribution that contains it.
        version: The version of that distribution.
        summary: Its own summary.
        error: The reason why it cannot be used; None if it can.
    """

    name: str
    roles: tuple[Role, ...]
    distribution: str
    version: str
    summary: str = ""
    error: str | None = None


def plugin_name(word: str) -> str:
    """Return the name of a plugin, with names of older configurations translated.

    Args:
        word: A name from a configuration.

    Returns:
        The name that the plugin declares.
    """
    return ALIASES.get(word, word)


def load_plugin(name: str, kind: type[Spec]) -> Spec:
    """Load one plugin, and return its spec for one role.

    Args:
        name: The name from the configuration.
        kind: The class of the spec: `StorageSpec`, `VectorSpec` or `EmbeddingSpec`.

    Returns:
        The spec.

    Raises:
        PluginNotFoundError: No installed distribution offers the plugin, or not in this role.
        DuplicatePluginError: Several distributions offer it.
        PluginError: It fails on import, or breaks the rules for hooks.
    """
    name = plugin_name(name)
    role = _ROLES[kind]
    found = _entry_points(name)
    if not found:
        raise _not_found(name, role)
    specs = _describe(_only(name, found))
    if role not in specs:
        offers = ", ".join(each.label for each in specs) or "nothing"
        message = f"the plugin {name!r} ({_distribution(found[0])}) does not offer {role.label}. It offers {offers}."
        raise PluginNotFoundError(message, name=name, distributions=[_distribution(found[0])])
    spec: Spec = specs[role]
    return spec


def installed_plugins() -> list[PluginInfo]:
    """Return every installed plugin, including broken ones. This imports all of them.

    Returns:
        The plugins, by name. A name that several distributions offer appears once for each.
    """
    found: dict[str, list[EntryPoint]] = {}
    for entry in _entry_points():
        found.setdefault(entry.name, []).append(entry)
    infos = []
    for name, entries in sorted(found.items()):
        for entry in entries:
            version = entry.dist.version if entry.dist else ""
            try:
                specs = _describe(_only(name, entries))
            except PluginError as error:
                infos.append(PluginInfo(name, (), _distribution(entry), version, error=str(error)))
            else:
                summary = "; ".join(dict.fromkeys(spec.summary for spec in specs.values() if spec.summary))
                infos.append(PluginInfo(name, tuple(specs), _distribution(entry), version, summary))
    return infos


def _entry_points(name: str | None = None) -> list[EntryPoint]:
    """Return the entry points of the group, each once, even if a distribution is on the path twice."""
    found = entry_points(group=ENTRY_POINT_GROUP)
    once = {(_distribution(each), each.name, each.value): each for each in found if name in (None, each.name)}
    return list(once.values())


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "an unknown distribution"


def _only(name: str, found: list[EntryPoint]) -> EntryPoint:
    if len(found) > 1:
        claimants = sorted(_distribution(entry) for entry in found)
        message = f"several installed distributions claim the plugin name {name!r}: {', '.join(claimants)}. Uninstall all but one."
        raise DuplicatePluginError(message, name=name, distributions=claimants)
    return found[0]


def _describe(entry: EntryPoint) -> dict[Role, Any]:
    """Import a plugin and call its hooks; with its own manager, since a failed registration leaves traces in pluggy."""
    name, distribution = entry.name, _distribution(entry)
    where = f"the plugin {name!r} ({distribution})"
    try:
        plugin = entry.load()
    except Exception as error:
        message = f"{where} cannot be imported: {type(error).__name__}: {error}. Reinstall or update {distribution}."
        raise PluginError(message, name=name, distributions=[distribution]) from error
    manager = pluggy.PluginManager(ENTRY_POINT_GROUP)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, name)
        manager.check_pending()
        answers = {role: getattr(manager.hook, role.value)() for role in Role}
    except Exception as error:
        reason = " ".join(str(error).split())
        misspelt = re.search(r"unknown hook '(\w+)'", reason)
        hint = nearest(misspelt[1], [role.value for role in Role]) if misspelt else ""
        message = f"{where} breaks the rules for hooks: {reason} {hint}".rstrip()
        raise PluginError(message, name=name, distributions=[distribution]) from error
    specs = {role: answer[0] for role, answer in answers.items() if answer}
    for kind, role in _ROLES.items():
        if role in specs and not isinstance(specs[role], kind):
            if inspect.iscoroutine(specs[role]):
                specs[role].close()
            message = f"the hook {role.value} of {where} returned {specs[role]!r}. It must return a {kind.__name__}."
            raise PluginError(message, name=name, distributions=[distribution])
    if not specs:
        message = f"{where} offers no role. Mark at least one of its hooks with pattern_core.hookspecs.hookimpl."
        raise PluginError(message, name=name, distributions=[distribution])
    return specs


def _not_found(name: str, role: Role) -> PluginNotFoundError:
    available = _names(_entry_points())
    if name in EXTRAS:
        way_out = f"Install it: {install_command(EXTRAS[name])}. Installed: {', '.join(available)}."
        if role is Role.EMBEDDINGS:
            way_out += ' To start without a model, set provider = "hashing" under [embeddings].'
    else:
        way_out = nearest(name, {*available, *EXTRAS})
    return PluginNotFoundError(f"the plugin {name!r}, named for {role.label}, is not installed. {way_out}", name=name)


def _names(found: Iterable[EntryPoint]) -> list[str]:
    return sorted({entry.name for entry in found})
