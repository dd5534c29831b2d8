"""Update the generated sections of the reference: ``python docs/generate.py``; ``--check`` only reports outdated pages.

A generated section is between the comments ``<!-- begin NAME -->`` and ``<!-- end -->`` of a page, so that any Markdown
viewer shows it. The plugins of this repository must be installed, since their specs are read; their engines need not be.
"""
# ruff: noqa: INP001, T201 - a program, not part of a package

from __future__ import annotations

import inspect
import re
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import attrs

from pattern_core import errors, hookspecs, testing
from pattern_core.toolkit import Secret, load_plugin

DOCS: Final = Path(__file__).parent
ROOT: Final = DOCS.parent
CORE: Final = ROOT / "pyproject.toml"
SECTION: Final = re.compile(r"(<!-- begin ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
TYPES: Final = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "boolean",
    Path: "path",
    Secret: "secret",
}


def distributions() -> list[dict[str, Any]]:
    """Return the metadata of this repository's distributions, the core's first."""
    return [tomllib.loads(path.read_text("utf-8")) for path in (CORE, *sorted(ROOT.glob("plugins/*/pyproject.toml")))]


def specs(kind: type[Any]) -> dict[str, Any]:
    """Return the specs of the plugins of one role, by name; those of the core last."""
    names = [
        name for each in distributions() for name in each["project"].get("entry-points", {}).get("pattern_core", {})
    ]
    built_in = distributions()[0]["project"]["entry-points"]["pattern_core"]
    found = {}
    for name in sorted(names, key=lambda name: (name in built_in, name)):
        try:
            found[name] = load_plugin(name, kind)
        except errors.PluginNotFoundError as error:
            if not error.distributions:  # a plugin of another role is no error
                raise
    return found


def markdown(text: str) -> str:
    """Return the text of a docstring as one line of Markdown for a table."""
    return re.sub(r"`+([^`]+)`+", r"`\1`", " ".join(text.split())).replace("|", r"\|")


def sentence(text: str) -> str:
    """Return a summary as a sentence."""
    return f"{text[:1].upper()}{markdown(text)[1:]}."


def attributes(thing: type[Any]) -> dict[str, str]:
    """Return the text of each attribute in the Google-style docstrings of a class and its bases."""
    texts: dict[str, str] = {}
    for each in reversed(thing.__mro__):
        _, _, section = inspect.cleandoc(vars(each).get("__doc__") or "").partition("\nAttributes:\n")
        texts |= dict(re.findall(r"^(\w+): (.*(?:\n .*)*)", textwrap.dedent(section), re.MULTILINE))
    return {name: markdown(text) for name, text in texts.items()}


def table(*rows: Iterable[str]) -> str:
    """Return a Markdown table; the first row is its header."""
    header, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([header, re.sub(r"[^|]+", " --- ", header.replace(r"\|", "")), *body])


def kind_of(hint: Any) -> str:
    """Return the name of an option's type in TOML."""
    if get_origin(hint) is Literal:
        return " or ".join(f'`"{choice}"`' for choice in get_args(hint))
    if get_origin(hint) is list:
        return f"list of {kind_of(get_args(hint)[0])}"
    if get_origin(hint) is dict:
        return f"section, each a {kind_of(get_args(hint)[1])}"
    members = [each for each in get_args(hint) if each is not type(None)]
    return " or ".join(map(kind_of, members)) if members else TYPES.get(hint, hint.__name__)


def default_of(field: attrs.Attribute[Any]) -> str:
    """Return the default of an option in TOML."""
    value: Any = field.default
    if hasattr(value, "factory"):
        value = value.factory()
    if value is attrs.NOTHING:
        return "*required*"
    if isinstance(value, Path):
        return f'`"{value.as_posix() if value.is_absolute() else "./" + value.as_posix()}"`'
    if isinstance(value, str):
        return f'`"{value}"`'
    return "*none*" if value is None else f"`{str(value).lower()}`"


def python(default: Any) -> str:
    """Return the default of a field in Python."""
    if default is attrs.NOTHING:
        return "*required*"
    return f"`{{{', '.join(map(repr, sorted(default)))}}}`" if isinstance(default, frozenset) else f"`{default!r}`"


def options(kind: type[Any]) -> str:
    """Return the options of each plugin of a role."""
    parts = []
    for name, spec in specs(kind).items():
        fields = attrs.fields(attrs.resolve_types(spec.options))
        meanings = attributes(spec.options)
        rows = [(f"`{each.name}`", kind_of(each.type), default_of(each), meanings[each.name]) for each in fields]
        text = table(("option", "type", "default", "meaning"), *rows) if rows else "It has no options."
        parts.append(f"### `{name}`\n\n{sentence(spec.summary)}\n\n{text}")
    return "\n\n".join(parts)


def support(kind: type[Any]) -> str:
    """Return the capabilities of each plugin of a role."""

    def word(value: Any) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, frozenset):
            return ", ".join(sorted(value))
        return "any" if value is None else str(value)

    found = specs(kind)
    meanings = attributes(kind)
    capabilities = [each.name for each in attrs.fields(kind) if each.name not in {"options", "open", "summary"}]
    rows = [
        [f"`{each}`", meanings[each], *(word(getattr(spec, each)) for spec in found.values())] for each in capabilities
    ]
    return table(["capability", "meaning", *(f"`{name}`" for name in found)], *rows)


def error_classes() -> list[type[Exception]]:
    """Return the error classes, each after its base."""

    def walk(error: type[Exception]) -> Iterable[type[Exception]]:
        yield error
        for each in error.__subclasses__():
            if each.__module__ == errors.__name__:
                yield from walk(each)

    return list(walk(errors.PatternError))


def error_tree() -> str:
    """Return the tree of the error classes."""

    def draw(error: type[Exception], indent: str) -> Iterable[str]:
        children = [each for each in error.__subclasses__() if each.__module__ == errors.__name__]
        for each in children:
            last = each is children[-1]
            builtin = "".join(f" ({base.__name__})" for base in each.__bases__ if base.__module__ == "builtins")
            yield f"{indent}{'└── ' if last else '├── '}{each.__name__}{builtin}"
            yield from draw(each, indent + ("    " if last else "│   "))

    return "\n".join(["```text", "PatternError", *draw(errors.PatternError, ""), "```"])


def error_table() -> str:
    """Return when each error is raised, and its attributes."""
    rows = []
    for error in error_classes()[1:]:
        about = inspect.cleandoc(error.__doc__ or "").partition("\n\n")[0]
        own = attributes(error).items() - attributes(error.__base__ or object).items()
        attached = "<br>".join(f"`{name}`: {text}" for name, text in attributes(error).items() if (name, text) in own)
        rows.append((f"`{error.__name__}`", markdown(about).removeprefix("Raised "), attached))
    return table(("error", "is raised …", "carries"), *rows)


def hooks() -> str:
    """Return the signature of each hook and the fields of its spec."""
    parts = []
    for name, hook in vars(hookspecs).items():
        if inspect.isfunction(hook) and hasattr(hook, f"{hookspecs.ENTRY_POINT_GROUP}_spec"):
            about = inspect.cleandoc(hook.__doc__ or "")
            parts.append(f"```py\n@hookimpl\ndef {name}{inspect.signature(hook)}: ...\n```\n\n{about}".replace("'", ""))
            spec = vars(hookspecs)[inspect.signature(hook).return_annotation]
            rows = [
                (f"`{each.name}`", python(each.default), attributes(spec)[each.name]) for each in attrs.fields(spec)
            ]
            parts.append(table(("field", "default", "meaning"), *rows))
    return "\n\n".join(parts)


def rules(contract: type[testing.Contract]) -> str:
    """Return the rules of a contract, grouped by class."""
    parts = []
    for each in contract.__mro__:
        tests = [
            (name, inspect.cleandoc(test.__doc__ or ""))
            for name, test in vars(each).items()
            if name.startswith("test_")
        ]
        if tests and each is not contract:
            parts.append(f"### {markdown(inspect.cleandoc(each.__doc__ or '').partition(chr(10))[0]).rstrip('.')}")
        for name, text in tests:
            rule, _, remedy = text.partition("If it fails: ")
            parts.append(
                f"- **{markdown(rule)}**<br>`{name}`" + (f"<br>If it fails: {markdown(remedy)}" if remedy else "")
            )
    return "\n\n".join(parts)


def extras() -> str:
    """Return what each extra of the core installs."""
    core, *plugins = (each["project"] for each in distributions())
    about = {each["name"]: re.sub(r",? for pattern-core$", "", each["description"]) for each in plugins}
    rows = []
    for extra, wanted in core["optional-dependencies"].items():
        names = [re.split(r"[^\w.-]", each)[0] for each in wanted]
        single = about.get(names[0]) if len(names) == 1 else None
        rows.append((f"`{extra}`", single or ", ".join(f"`{name.removeprefix('pattern-core-')}`" for name in names)))
    return table(("extra", "brings"), *rows)


SECTIONS: Final[dict[str, Callable[[], str]]] = {
    "options of storages": lambda: options(hookspecs.StorageSpec),
    "options of vector searches": lambda: options(hookspecs.VectorSpec),
    "options of embedding providers": lambda: options(hookspecs.EmbeddingSpec),
    "support of storages": lambda: support(hookspecs.StorageSpec),
    "support of vector searches": lambda: support(hookspecs.VectorSpec),
    "support of embedding providers": lambda: support(hookspecs.EmbeddingSpec),
    "error tree": error_tree,
    "error table": error_table,
    "hooks": hooks,
    "rules of storages": lambda: rules(testing.StorageContract),
    "rules of vector searches": lambda: rules(testing.VectorStoreContract),
    "rules of embedders": lambda: rules(testing.EmbedderContract),
    "extras": extras,
}


def generate(text: str) -> str:
    """Return a page with its generated sections updated."""
    return SECTION.sub(lambda match: f"{match[1]}\n{SECTIONS[match[2]]()}\n\n{match[3]}", text)


def main() -> int:
    """Update outdated pages, or print their names."""
    outdated = []
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text("utf-8")
        if (updated := generate(text)) != text:
            outdated.append(page)
            if "--check" not in sys.argv:
                page.write_text(updated, "utf-8")
    for page in outdated:
        print(f"{page.relative_to(ROOT)} {'is outdated' if '--check' in sys.argv else 'updated'}")
    if outdated and "--check" in sys.argv:
        print("Run `python docs/generate.py`.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
