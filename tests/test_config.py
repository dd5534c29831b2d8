"""The configuration: strict values, the search for the file, environment variables and secrets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from pattern_core.config import CONFIG_NAME, EmbeddingPolicy, Section, find_config, load_config
from pattern_core.errors import ConfigError, MissingVariableError, UnknownOptionError
from pattern_core.support.directories import user_config

ORIGINAL = """
[database]
type = "embedded"
path = "./pattern.db"
strict_mode = false

[embeddings]
provider = "candle"
model = "BAAI/bge-small-en-v1.5"
"""


def write(folder: Path, text: str, name: str = "pattern.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


class TestReading:
    def test_a_configuration_of_the_original(self, tmp_path: Path) -> None:
        """A configuration of the Rust original is read unchanged."""
        config = load_config(write(tmp_path, ORIGINAL))

        assert config.database == Section("embedded", {"path": "./pattern.db", "strict_mode": False})
        assert config.embeddings == Section("candle", {"model": "BAAI/bge-small-en-v1.5"})
        assert config.vectors == Section(None, {})
        assert (config.metric, config.policy, config.base) == ("cosine", EmbeddingPolicy(), tmp_path)

    def test_defaults(self) -> None:
        """An empty configuration means the embedded database and the local model."""
        config = load_config({})

        assert (config.database.provider, config.embeddings.provider) == ("surreal-embedded", "torch")
        assert config.base == Path.cwd()

    def test_a_config_object(self) -> None:
        """A `Config` is returned unchanged."""
        config = load_config({"vectors": {"metric": "euclidean"}, "embeddings": {"overflow": "truncate"}})

        assert load_config(config) is config
        assert (config.metric, config.policy.overflow) == ("euclidean", "truncate")

    @pytest.mark.parametrize(
        ("raw", "key", "hint"),
        [
            ({"databse": {}}, "databse", "Did you mean 'database'"),
            ({"database": 5}, "database", "section"),
            ({"database": {"type": 5}}, "database.type", "expected a text"),
            ({"vectors": {"metric": "cosin"}}, "vectors.metric", "Did you mean 'cosine'"),
            ({"vectors": {"metric": 1}}, "vectors.metric", "Known: cosine"),
            ({"embeddings": {"overflow": "cut"}}, "embeddings.overflow", "Known: chunk, error, truncate"),
        ],
    )
    def test_mistakes(self, raw: dict[str, Any], key: str, hint: str) -> None:
        """An error names the key of the mistake and the valid values."""
        with pytest.raises(ConfigError, match=hint) as caught:
            load_config(raw)

        assert caught.value.key == key

    def test_files_that_cannot_be_read(self, tmp_path: Path) -> None:
        """A missing file, invalid TOML and invalid UTF-8 are errors that name the file."""
        binary = tmp_path / "binary.toml"
        binary.write_bytes(b"\xff\xfe")
        for path in (tmp_path / "missing.toml", write(tmp_path, "x = = 1"), binary, tmp_path):
            with pytest.raises(ConfigError, match=path.name) as caught:
                load_config(path)
            assert caught.value.source == str(path)

    def test_invalid_sources(self) -> None:
        """A number, or a path with a NUL, is an error."""
        with pytest.raises(ConfigError, match="expected the path of a file"):
            load_config(5)  # type: ignore[arg-type]  # the mistake under test
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config("a\0b.toml")

    def test_an_unknown_section_names_the_file(self, tmp_path: Path) -> None:
        """An error about a section of a file names the file."""
        with pytest.raises(UnknownOptionError) as caught:
            load_config(write(tmp_path, "[embedding]\n"))

        assert caught.value.source == str(tmp_path / "pattern.toml")
        assert "embeddings" in caught.value.known


class TestEnvironment:
    def test_variables_are_replaced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """``${NAME}`` is replaced by the environment variable at any depth; ``$${NAME}`` means ``${NAME}``."""
        monkeypatch.setenv("PLACE", "/data")
        config = load_config({"database": {"path": "${PLACE}/db", "raw": "$${PLACE}", "deep": {"a": ["${PLACE}", 1]}}})

        assert config.database.options == {"path": "/data/db", "raw": "${PLACE}", "deep": {"a": ["/data", 1]}}

    def test_a_missing_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An error about a variable that is not set names the variable and the key."""
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(MissingVariableError, match="export OPENAI_API_KEY=") as caught:
            load_config({"embeddings": {"api_key": "${OPENAI_API_KEY}"}})

        assert (caught.value.variable, caught.value.key) == ("OPENAI_API_KEY", "embeddings.api_key")

    def test_secrets_are_hidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The repr of a configuration shows no value of an environment variable."""
        monkeypatch.setenv("KEY", "hunter2")
        config = load_config({"embeddings": {"provider": "openai", "api_key": "${KEY}"}})

        assert "hunter2" not in repr(config)
        assert "hunter2" not in str(config)

    @pytest.mark.parametrize(
        "raw", [{"vectors": {"metric": "${KEY}"}}, {"embeddings": {"overflow": "${KEY}"}}, {"database": "${KEY}"}]
    )
    def test_a_secret_under_a_wrong_key_is_hidden(self, raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        """An error about a choice does not show the value of an environment variable."""
        monkeypatch.setenv("KEY", "hunter2")
        with pytest.raises(ConfigError) as caught:
            load_config(raw)

        assert "hunter2" not in str(caught.value)


class TestSearchForTheFile:
    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A home directory with a current directory below it, without a configuration."""
        for name in ("PATTERN_CONFIG", "XDG_CONFIG_HOME", "APPDATA"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "a" / "b").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "a" / "b")
        return tmp_path

    def test_the_order(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The variable precedes the closest file in the parent directories, which precedes the user's file."""
        users_file = user_config() / CONFIG_NAME
        users_file.parent.mkdir(parents=True)
        users_file.write_text("")
        assert find_config() == users_file
        above = write(home / "a", ORIGINAL)
        assert find_config() == above
        here = write(home / "a" / "b", ORIGINAL)
        assert find_config() == here
        monkeypatch.setenv("PATTERN_CONFIG", str(above))

        assert find_config() == above
        assert load_config().base == home / "a"

    def test_nothing_found(self) -> None:
        """Without a configuration, the error names the command that writes one."""
        with pytest.raises(ConfigError, match="pattern init"):
            find_config()

    def test_the_users_file(self, home: Path) -> None:
        """The user's file is in the configuration directory of the platform."""
        folder = {"win32": "Roaming", "darwin": "Application Support"}.get(sys.platform, ".config")

        assert folder in str(user_config())
        assert user_config().is_relative_to(home)
