"""What a system user of the server has to be allowed: no more than to edit one database."""

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
    """Return a configuration by which a user of the database signs in."""
    database = {**config["database"], "username": user, "password": f"word of {user}", "level": "database"}
    return {**config, "database": database}


async def define(config: dict[str, Any], user: str, role: str) -> None:
    """Have root define a user of the database."""
    async with pattern_core.open(config) as db:
        await db.storage.execute(f"DEFINE USER {user} ON DATABASE PASSWORD 'word of {user}' ROLES {role}")


async def use(config: dict[str, Any]) -> None:
    """Do what an application does: write, search, change the model, delete."""
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
    """The user that the page on clusters makes may do all that the library does, from making the tables on."""
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
    """A user with the role VIEWER opens what is there and reads it; a write is refused, as such, and changes nothing."""
    await define(config, "guest", "VIEWER")
    async with pattern_core.open(config) as db:
        user = await db.users.create()
    async with pattern_core.open(by(config, "guest")) as db:
        assert (await db.users.get(user.id)).id == user.id
        with pytest.raises(AccessError):
            await db.users.create()
        assert await db.users.count() == 1


async def test_a_user_of_another_database_is_refused(config: dict[str, Any]) -> None:
    """Who may edit one database cannot open another one, and the password is in no message."""
    await define(config, "app", "EDITOR")
    elsewhere = by(config, "app")
    elsewhere["database"]["database"] = "other"
    with pytest.raises(AccessError) as caught:
        async with pattern_core.open(elsewhere):
            pass
    assert "word of app" not in f"{caught.value!r} {caught.value}"
