"""Real text that is on every machine with Python: the docstrings of the standard library.

Run as a program, it prints what it finds: ``python stdlib_docs.py [NAME …]``.
"""
# ruff: noqa: INP001, SIM905 - a program is no part of a package; words read best as words

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
"""What is shorter ("Return the size.") says nothing by itself."""
MAX_SIZE: Final = 150
"""How long a paragraph may get, in `_size`: short enough to be about one thing, and for a small model to read it whole."""

SKIPPED: Final = frozenset(
    # Programs, tests, tables, relics, and what announces on import that it is on its way out.
    "__main__ antigravity distutils encodings ensurepip idlelib lib2to3 ntpath nturl2path opcode "
    "pydoc_data sre_compile sre_constants sre_parse test tests this tkinter turtle turtledemo".split()
)
SPOKEN_OF_AS: Final = {
    "_pydatetime": "datetime",
    "_pydecimal": "decimal",
    "_pyio": "io",
    "genericpath": "os.path",
    "pathlib._local": "pathlib",
    "posixpath": "os.path",
}
"""Files that are parts of a module of another name (in some versions of Python)."""

COMPILED: Final = (
    "array binascii builtins bz2 cmath collections contextvars csv fcntl functools gc hashlib itertools lzma math mmap "
    "operator os random re resource select signal socket sqlite3 ssl struct sys syslog threading time unicodedata zlib"
).split()
"""Modules with parts that have no Python source. Importing them does nothing but import."""


def paragraphs() -> Iterator[tuple[str, str]]:
    """Read what the standard library says of its public modules, classes, methods and functions.

    The source files are parsed, not imported, so that nothing runs.

    Yields:
        A unique label such as ``smtplib.SMTP.sendmail`` or ``tempfile.NamedTemporaryFile (2)``, and the paragraph. It
        begins with the name, so that it can be understood by itself.
    """
    seen: dict[str, int] = {}
    for name, text in _docstrings():
        for piece in _pieces(inspect.cleandoc(text)):
            if len(piece) >= MIN_CHARS:
                seen[name] = seen.get(name, 0) + 1
                yield name if seen[name] == 1 else f"{name} ({seen[name]})", f"{name}\n{piece}"


def _docstrings() -> Iterator[tuple[str, str]]:
    known = set()
    for module, file in _sources():
        for name, text in _parsed(module, ast.parse(file.read_bytes())):
            if len(text) >= MIN_CHARS:
                known.add(name)
                yield name, text
    for module in COMPILED:
        try:
            found = importlib.import_module(module)
        except ImportError:  # not on this platform
            continue
        for name, text in _inspected(found):
            if name not in known:
                yield name, text


def _sources() -> Iterator[tuple[str, Path]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not parts or parts[0] not in sys.stdlib_module_names or SKIPPED.intersection(parts):
            continue
        module = ".".join(parts)
        if module in SPOKEN_OF_AS:
            yield SPOKEN_OF_AS[module], file
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
        elif inspect.isclass(value) and not issubclass(value, BaseException) and not _is_of_another(value, module):
            yield f"{module.__name__}.{name}", value.__doc__ or ""
            for method, function in _members(value):
                if inspect.isroutine(function):
                    yield f"{module.__name__}.{name}.{method}", function.__doc__ or ""


def _is_of_another(value: type, module: ModuleType) -> bool:
    """Tell whether a class is another public module's: ``sqlite3.Date`` is ``datetime.date``."""
    home = value.__module__
    return home != module.__name__ and home in sys.stdlib_module_names and not home.startswith("_")


def _members(owner: object) -> list[tuple[str, object]]:
    names = [name for name in getattr(owner, "__all__", vars(owner)) if not name.startswith("_")]
    return [(name, getattr(owner, name)) for name in sorted(names)]


def _size(text: str) -> int:
    """Estimate from above how many tokens a model makes of a text."""
    return len(re.findall(r"[^\W\d_]{1,6}|\d{1,2}|_|[^\w\s]", text))


def _pieces(text: str) -> Iterator[str]:
    """Cut a text between its paragraphs, or else its lines, into pieces that are not too long."""
    piece = ""
    for paragraph in re.split(r"\n\s*\n", text):
        parts = [paragraph] if _size(paragraph) <= MAX_SIZE else paragraph.splitlines()
        joint = "\n\n"
        for part in parts:
            if piece and _size(piece) + _size(part) > MAX_SIZE:
                yield piece
                piece = ""
            piece = f"{piece}{joint}{part}" if piece else part
            joint = "\n"
    yield piece


if __name__ == "__main__":
    for label, content in paragraphs():
        if label.startswith(tuple(sys.argv[1:]) or ""):
            print(f"[{label}]\n{content}\n")  # noqa: T201 - it is a program that prints
