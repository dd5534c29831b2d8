"""The cache of vectors: lookups, eviction, damaged files and concurrent use."""

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
    """Return a vector, float32 ``[4]``."""
    made: Vector = np.array([n, 0.1, -0.0, 1e-30], dtype=np.float32)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file in a folder; neither exists."""
    return tmp_path / "cache" / "vectors.sqlite"


@pytest.fixture
async def cache(path: Path) -> AsyncIterator[VectorCache]:
    """An empty cache."""
    made = VectorCache(path, 1_000_000)
    yield made
    await made.aclose()


async def test_vectors_are_kept_bit_for_bit(cache: VectorCache) -> None:
    """A cached vector is returned bit for bit, for its own text."""
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
    """Vectors of another signature or of another purpose are not found."""
    await cache.put(SIGNATURE, "document", {"a": vector(1)})

    assert await cache.get(attrs.evolve(SIGNATURE, **change), "document", ["a"]) == {}
    assert await cache.get(SIGNATURE, "query", ["a"]) == {}


async def test_eviction(path: Path) -> None:
    """Over the size limit, the least recently used vectors are removed, and not the newest."""
    cache = VectorCache(path, 100_000)
    for start in range(0, 6000, 500):
        await cache.put(SIGNATURE, "document", {f"{n}": vector(n) for n in range(start, start + 500)})
    found = await cache.get(SIGNATURE, "document", [f"{n}" for n in range(6000)])
    await cache.aclose()

    assert len(found) < 3000
    assert {f"{n}" for n in range(5900, 6000)} <= found.keys()
    assert path.stat().st_size < 250_000


@pytest.mark.skipif(sys.platform == "win32", reason="needs file modes")
async def test_the_file_is_private(cache: VectorCache, path: Path) -> None:
    """Only the user can read the file, and it contains no text."""
    await cache.put(SIGNATURE, "document", {"a very secret text": vector(1)})

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not any(b"secret" in each.read_bytes() for each in path.parent.iterdir())


async def test_a_damaged_file(path: Path) -> None:
    """A file that is no database is replaced."""
    path.parent.mkdir()
    path.write_bytes(b"this is no database at all" * 100)
    cache = VectorCache(path, 1_000_000)
    await cache.put(SIGNATURE, "document", {"a": vector(1)})

    assert len(await cache.get(SIGNATURE, "document", ["a"])) == 1
    await cache.aclose()


async def test_a_file_damaged_in_the_middle(path: Path) -> None:
    """A file whose damage shows only on reading is replaced, and the cache then works."""
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


async def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a writable folder there is no cache: one warning is logged, and no call fails."""
    (tmp_path / "file").write_text("in the way")
    cache = VectorCache(tmp_path / "file" / "vectors.sqlite", 1_000_000)
    with caplog.at_level(logging.WARNING, "pattern_core"):
        await cache.put(SIGNATURE, "document", {"a": vector(1)})
        assert await cache.get(SIGNATURE, "document", ["a"]) == {}
        assert await cache.get(SIGNATURE, "document", ["a"]) == {}

    assert len(caplog.records) == 1
    await cache.aclose()


async def test_two_caches_share_a_file(cache: VectorCache, path: Path) -> None:
    """Two caches with one file find each other's vectors, also if both write at once."""
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
    """A closed cache finds nothing, and can be closed again."""
    await cache.put(SIGNATURE, "document", {"a": vector(1)})
    await cache.aclose()
    await cache.aclose()

    assert await cache.get(SIGNATURE, "document", ["a"]) == {}


async def test_cancelled(cache: VectorCache) -> None:
    """A cancelled call damages neither the file nor the next call."""
    call = asyncio.create_task(cache.put(SIGNATURE, "document", {f"{n}": vector(n) for n in range(2000)}))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await cache.put(SIGNATURE, "document", {"a": vector(1)})

    assert len(await cache.get(SIGNATURE, "document", ["a"])) == 1


async def test_use_is_recorded(cache: VectorCache, path: Path) -> None:
    """A lookup records the time of use, which delays the eviction."""
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


def test_the_location(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is in the user's cache directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    if sys.platform != "darwin":
        assert user_cache() == tmp_path / "pattern"
