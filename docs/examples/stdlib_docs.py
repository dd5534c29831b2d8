"""Real text that every machine with Python has: the docstrings of the standard library.

``python stdlib_docs.py [PREFIX …]`` prints the paragraphs whose labels start with a prefix.
"""
# ruff: noqa: INP001, SIM905 - a program, not part of a package; lists of words are easier to read as text

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

__all__ = ["paragraphs"]

MIN_CHARS: Final = 60
"""Shorter paragraphs, such as "Return the size.", have no meaning by themselves."""
MAX_SIZE: Final = 150
"""The longest paragraph, as measured by `_size`: about one subject, and within the token limit of a small model."""

SKIPPED: Final = frozenset(
    # Programs, tests, tables, obsolete modules, and modules that warn on import.
    "__main__ antigravity distutils encodings ensurepip idlelib lib2to3 ntpath nturl2path opcode "
    "pydoc_data sre_compile sre_constants sre_parse test tests this tkinter turtle turtledemo".split()
)
PUBLIC_NAMES: Final = {
    "_pydatetime": "datetime",
    "_pydecimal": "decimal",
    "_pyio": "io",
    "genericpath": "os.path",
    "pathlib._local": "pathlib",
    "posixpath": "os.path",
}
"""Files of a module with another name, in some versions of Python."""

COMPILED: Final = (
    "array binascii builtins bz2 cmath collections contextvars csv fcntl functools gc hashlib itertools lzma math mmap "
    "operator os random re resource select signal socket sqlite3 ssl struct sys syslog threading time unicodedata zlib"
).split()
"""Modules of which some parts have no Python source. Importing them has no side effect."""


def paragraphs() -> Iterator[tuple[str, str]]:
    """Yield the paragraphs of the docstrings of public modules, classes, methods and functions.

    The source files are parsed, and not imported, so that no code runs.

    Yields:
        A unique label, such as ``smtplib.SMTP.sendmail`` or ``tempfile.NamedTemporaryFile (2)``, and the paragraph. The
        paragraph begins with the name, so that it has a meaning by itself.
    """
    seen: dict[str, int] = {}
    for name, text in _docstrings():
        for paragraph in _split(inspect.cleandoc(text)):
            if len(paragraph) >= MIN_CHARS:
                seen[name] = seen.get(name, 0) + 1
                yield name if seen[name] == 1 else f"{name} ({seen[name]})", f"{name}\n{paragraph}"


def _docstrings() -> Iterator[tuple[str, str]]:
    seen = set()
    for module, file in _sources():
        for name, text in _parsed(module, ast.parse(file.read_bytes())):
            if len(text) >= MIN_CHARS:
                seen.add(name)
                yield name, text
    for module in COMPILED:
        try:
            found = importlib.import_module(module)
        except ImportError:  # the platform has no such module
            continue
        for name, text in _inspected(found):
            if name not in seen:
                yield name, text


def _sources() -> Iterator[tuple[str, Path]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not parts or parts[0] not in sys.stdlib_module_names or SKIPPED.intersection(parts):
            continue
        module = ".".join(parts)
        if module in PUBLIC_NAMES:
            yield PUBLIC_NAMES[module], file
        elif not any(part.startswith("_") for part in parts):
            yield module, file


def _parsed(
    name: str, node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
) -> Iterator[tuple[str, str]]:
    if text := ast.get_docstring(node):
        yield name, text
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in _definitions(node.body):
            if not child.name.startswith("_"):
                yield from _parsed(f"{name}.{child.name}", child)


def _definitions(body: Iterable[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    for statement in body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield statement
        elif isinstance(statement, ast.If | ast.Try):
            yield from _definitions([*statement.body, *statement.orelse])


def _inspected(module: ModuleType) -> Iterator[tuple[str, str]]:
    yield module.__name__, module.__doc__ or ""
    for name, value in _members(module):
        if inspect.isbuiltin(value):
            yield f"{module.__name__}.{name}", value.__doc__ or ""
        elif inspect.isclass(value) and not issubclass(value, BaseException) and not _is_from_another(value, module):
            yield f"{module.__name__}.{name}", value.__doc__ or ""
            for method, function in _members(value):
                if inspect.isroutine(function):
                    yield f"{module.__name__}.{name}.{method}", function.__doc__ or ""


def _is_from_another(value: type, module: ModuleType) -> bool:
    """Return whether a class belongs to another public module: ``sqlite3.Date`` is ``datetime.date``."""
    owner = value.__module__
    return owner != module.__name__ and owner in sys.stdlib_module_names and not owner.startswith("_")


def _members(owner: object) -> list[tuple[str, object]]:
    names = [name for name in getattr(owner, "__all__", vars(owner)) if not name.startswith("_")]
    return [(name, getattr(owner, name)) for name in sorted(names)]


def _size(text: str) -> int:
    """Return an upper estimate of the number of tokens of a text."""
    return len(re.findall(r"[^\W\d_]{1,6}|\d{1,2}|_|[^\w\s]", text))


def _split(text: str) -> Iterator[str]:
    """Split a text between paragraphs, and long paragraphs between lines, into chunks of at most `MAX_SIZE`."""
    chunk = ""
    for paragraph in re.split(r"\n\s*\n", text):
        parts = [paragraph] if _size(paragraph) <= MAX_SIZE else paragraph.splitlines()
        separator = "\n\n"
        for part in parts:
            if chunk and _size(chunk) + _size(part) > MAX_SIZE:
                yield chunk
                chunk = ""
            chunk = f"{chunk}{separator}{part}" if chunk else part
            separator = "\n"
    yield chunk


if __name__ == "__main__":
    for label, content in paragraphs():
        if label.startswith(tuple(sys.argv[1:]) or ""):
            print(f"[{label}]\n{content}\n")  # noqa: T201 - the output of the program
