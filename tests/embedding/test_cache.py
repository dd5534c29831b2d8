"""The cache of vectors: what it finds, what it forgets, and what happens when its file is no good."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from pattern_core.abc import Signature, Vector
from pattern_core.embedding.cache import VectorCache
from pattern_core.support.directories import user_cache

pytestmark = pytest.mark.anyio

SIGNATURE = Signature(provider="p", model="m", revision="1", dimensions=4, normalized=True)


def vector(n: int) -> Vector:
    """A vector, float32 ``[4]``."""
    made: Vector = np.array([n, 0.1, -0.0, 1e-30], dtype=np.float32)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that is not there yet, in a folder that is not there yet."""
    return tmp_path / "cache" / "vectors.sqlite"


@pytest.fixture
async def cache(path: Path) -> AsyncIterator[VectorCache]:
    """An empty cache."""
    made = VectorCache(path, 1_000_000)
    yield made
    await made.aclose()


async def test_to_the_bit(cache: VectorCache) -> None:
    """A vector comes back to the bit, for the text that it was kept for."""
    await cache.put(SIGNATURE, "document", {"a": vector(1), "b\x00\ud800": vector(2)})
    found = await cache.get(SIGNATURE, "document", ["b\x00\ud800", "c", "a", "a"])

    assert {text: each.tobytes() for text, each in found.items()} == {
        "a": vector(1).tobytes(),
        "b\x00\ud800": vector(2).tobytes(),
    }


@pytest.mark.parametrize(
    "change", [{"model": "n"}, {"revision": "2"}, {"normalized": False}, {"query_prompt": "q"}, {"max_tokens": 5}]
)
async def test_another_signature(cache: VectorCache, change: dict[str, Any]) -> None:
    """What another model has made, or the same one otherwise, is not found."""
    await cache.put(SIGNATURE, "document", {"a": vector(1)})

    assert await cache.get(attrs.evolve(SIGNATURE, **change), "document", ["a"]) == {}
    assert await cache.get(SIGNATURE, "query", ["a"]) == {}


async def test_it_stays_small(path: Path) -> None:
    """Beyond its size, the vectors that were not used for longest go, and the new ones are there."""
    cache = VectorCache(path, 100_000)
    for start in range(0, 6000, 500):
        await cache.put(SIGNATURE, "document", {f"{n}": vector(n) for n in range(start, start + 500)})
    found = await cache.get(SIGNATURE, "document", [f"{n}" for n in range(6000)])
    await cache.aclose()

    assert len(found) < 3000
    assert {f"{n}" for n in range(5900, 6000)} <= found.keys()
    assert path.stat().st_size < 250_000


@pytest.mark.skipif(sys.platform == "win32", reason="needs file modes")
async def test_others_cannot_read_it(cache: VectorCache, path: Path) -> None:
    """The file is the user's alone, and holds no text."""
    await cache.put(SIGNATURE, "document", {"a very secret text": vector(1)})

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not any(b"secret" in each.read_bytes() for each in path.parent.iterdir())


async def test_a_damaged_file(path: Path) -> None:
    """A file that is no database is made anew."""
    path.parent.mkdir()
    path.write_bytes(b"this is no database at all" * 100)
    cache = VectorCache(path, 1_000_000)
    await cache.put(SIGNATURE, "document", {"a": vector(1)})

    assert len(await cache.get(SIGNATURE, "document", ["a"])) == 1
    await cache.aclose()


async def test_a_file_damaged_in_the_middle(path: Path) -> None:
    """Damage that shows only when the file is read ends that cache, and the next one begins: it does not stay useless."""
    kept = {f"{n}": vector(n) for n in range(2000)}
    cache = VectorCache(path, 1_000_000)
    await cache.put(SIGNATURE, "document", kept)
    await cache.aclose()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    cache = VectorCache(path, 1_000_000)
    assert await cache.get(SIGNATURE, "document", [*kept]) == {}
    await cache.put(SIGNATURE, "document", kept)
    assert len(await cache.get(SIGNATURE, "document", [*kept])) == 2000
    await cache.aclose()


async def test_a_place_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where there can be no file, there is no cache: it is said once, and nothing fails."""
    (tmp_path / "file").write_text("in the way")
    cache = VectorCache(tmp_path / "file" / "vectors.sqlite", 1_000_000)
    with caplog.at_level(logging.WARNING, "pattern_core"):
        await cache.put(SIGNATURE, "document", {"a": vector(1)})
        assert await cache.get(SIGNATURE, "document", ["a"]) == {}
        assert await cache.get(SIGNATURE, "document", ["a"]) == {}

    assert len(caplog.records) == 1
    await cache.aclose()


async def test_two_share_it(cache: VectorCache, path: Path) -> None:
    """Two openers of one file find what the other keeps, also when they write at once."""
    other = VectorCache(path, 1_000_000)
    await asyncio.gather(
        *(
            each.put(SIGNATURE, "document", {f"{name} {n}": vector(n)})
            for n in range(20)
            for name, each in (("a", cache), ("b", other))
        )
    )

    assert len(await cache.get(SIGNATURE, "document", [f"b {n}" for n in range(20)])) == 20
    assert len(await other.get(SIGNATURE, "document", [f"a {n}" for n in range(20)])) == 20
    await other.aclose()


async def test_closed(cache: VectorCache) -> None:
    """A closed cache is empty, and closing twice does nothing."""
    await cache.put(SIGNATURE, "document", {"a": vector(1)})
    await cache.aclose()
    await cache.aclose()

    assert await cache.get(SIGNATURE, "document", ["a"]) == {}


async def test_cancelled(cache: VectorCache) -> None:
    """A call that is cancelled harms neither the file nor the next call."""
    call = asyncio.create_task(cache.put(SIGNATURE, "document", {f"{n}": vector(n) for n in range(2000)}))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await cache.put(SIGNATURE, "document", {"a": vector(1)})

    assert len(await cache.get(SIGNATURE, "document", ["a"])) == 1


async def test_use_is_noted(cache: VectorCache, path: Path) -> None:
    """What is used again is not the first to go."""
    await cache.put(SIGNATURE, "document", {"old": vector(1)})
    await cache.aclose()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE vectors SET used = 5")
    again = VectorCache(path, 1_000_000)
    await again.get(SIGNATURE, "document", ["old"])
    await again.aclose()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        ((used,),) = connection.execute("SELECT used FROM vectors").fetchall()

    assert used > 5


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is in the user's folder for caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    if sys.platform != "darwin":
        assert user_cache() == tmp_path / "pattern"
