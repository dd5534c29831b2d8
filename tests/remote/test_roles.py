"""The rights that the library needs: EDITOR of one database."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest

import pattern_core
from pattern_core.errors import AccessError

pytest.importorskip("pattern_surreal_remote", reason="needs the plugin surreal-remote")

pytestmark = pytest.mark.anyio

PAGE: Final = Path(__file__).parents[2] / "docs" / "how-to" / "from-laptop-to-cluster.md"


def by(config: dict[str, Any], user: str) -> dict[str, Any]:
    """Return a configuration with a user of the database."""
    database = {**config["database"], "username": user, "password": f"word of {user}", "level": "database"}
    return {**config, "database": database}


async def define(config: dict[str, Any], user: str, role: str) -> None:
    """Define a user of the database, as root."""
    async with pattern_core.open(config) as db:
        await db.storage.execute(f"DEFINE USER {user} ON DATABASE PASSWORD 'word of {user}' ROLES {role}")


async def use(config: dict[str, Any]) -> None:
    """Use the database as an application does: write, search, change the model, delete."""
    async with pattern_core.open(config) as db:
        user = await db.users.create()
        agent = await db.agents.create(user_id=user.id, agent_type="a", name="A")
        memory = await db.memories.create(agent_id=agent.id, label="tea", content="Ada drinks tea")
        assert [hit.memory.id for hit in await db.memories.search_semantic(agent.id, "tea")] == [memory.id]
        await db.reembed({"provider": "hashing", "dimensions": 32})
    async with pattern_core.open({**config, "embeddings": {"provider": "hashing", "dimensions": 32}}) as db:
        assert [hit.memory.id for hit in await db.memories.search_semantic(agent.id, "tea")] == [memory.id]
        await db.drop_old_vectors()
        await db.users.delete(user.id, cascade=True)
        assert await db.memories.count() == 0


async def test_an_editor_of_the_database_is_enough(config: dict[str, Any]) -> None:
    """The user of the page on clusters has all rights that the library needs, including the creation of tables."""
    (sql,) = re.findall(r"^```sql\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    section = config["database"]
    for word, name in (("acme", section["namespace"]), ("a long one", "word of app"), ("DB pattern", "DB main")):
        assert word in sql
        sql = sql.replace(word, name)
    sql = sql.replace("NOT EXISTS pattern", "NOT EXISTS main")
    async with pattern_core.open({**config, "database": {**section, "namespace": f"{section['namespace']}2"}}) as db:
        await db.storage.execute(sql)
    await use(by(config, "app"))


async def test_a_viewer_reads_and_writes_nothing(config: dict[str, Any]) -> None:
    """A VIEWER opens and reads an existing database; a write raises `AccessError`, and changes nothing."""
    await define(config, "guest", "VIEWER")
    async with pattern_core.open(config) as db:
        user = await db.users.create()
    async with pattern_core.open(by(config, "guest")) as db:
        assert (await db.users.get(user.id)).id == user.id
        with pytest.raises(AccessError):
            await db.users.create()
        assert await db.users.count() == 1


async def test_a_user_of_another_database_is_refused(config: dict[str, Any]) -> None:
    """An EDITOR of one database cannot open another one, and no message contains the password."""
    await define(config, "app", "EDITOR")
    elsewhere = by(config, "app")
    elsewhere["database"]["database"] = "other"
    with pytest.raises(AccessError) as caught:
        async with pattern_core.open(elsewhere):
            pass
    assert "word of app" not in f"{caught.value!r} {caught.value}"
