"""The address and the API key of a service."""

from __future__ import annotations

import attrs
import pytest

from pattern_core.errors import ConfigError, ValidationError
from pattern_core.toolkit import ApiKey, Secret, find_api_key, find_base_url, service_url, url_location

KEY = "ACME_API_KEY"
URL = "ACME_BASE_URL"
OWN = "https://api.acme.com/v1"


@attrs.frozen
class Options:
    base_url: str = attrs.field(validator=service_url)


class TestKeys:
    """A key comes from the option, else from the variable."""

    def test_the_option_precedes_the_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The key of the option is used for any address; white space around a key is ignored."""
        monkeypatch.setenv(KEY, "of-the-variable")
        assert find_api_key(Secret(" mine\n"), KEY, trusted_address=False) == ApiKey(
            "mine", "api_key under [embeddings]"
        )
        assert find_api_key(None, KEY, trusted_address=True).text == "of-the-variable"

    def test_an_untrusted_address_does_not_get_the_variables_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The variable's key is not sent to another address; the source says how to send it."""
        monkeypatch.setenv(KEY, "secret")
        key = find_api_key(None, KEY, trusted_address=False)
        assert key.text is None
        assert f'api_key = "${{{KEY}}}"' in key.source
        assert "secret" not in repr(key)

    def test_no_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a key the source names the variable to set."""
        monkeypatch.delenv(KEY, raising=False)
        key = find_api_key(None, KEY, trusted_address=True)
        assert key.text is None
        assert key.source.startswith(f"set {KEY}")

    @pytest.mark.parametrize("text", ["", "  ", "secret\nother", "sécret", "secret other"])
    def test_an_invalid_key_is_not_shown(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A key that no HTTP header can hold is a `ConfigError`, which names the source and hides the key."""
        monkeypatch.setenv(KEY, text)
        for option, source in ((Secret(text), "api_key"), (None, KEY)):
            with pytest.raises(ConfigError, match=source) as caught:
                find_api_key(option, KEY, trusted_address=True)
            assert caught.value.key == "embeddings.api_key"
            assert "cret" not in str(caught.value)

    def test_a_repr_hides_the_key(self) -> None:
        """A key can be printed with the object that holds it."""
        assert "secret" not in repr(ApiKey("secret", "a test"))


class TestAddresses:
    """An address comes from the option, else from the variable, else it is the service's own."""

    def test_the_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The option precedes the variable, the variable the default; a slash at the end is dropped."""
        monkeypatch.delenv(URL, raising=False)
        assert find_base_url(None, URL, OWN) == OWN
        monkeypatch.setenv(URL, "http://localhost:8000/")
        assert find_base_url(None, URL, OWN) == "http://localhost:8000"
        assert find_base_url("http://example.com/v1/", URL, OWN) == "http://example.com/v1"

    def test_an_invalid_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A variable without a valid URL is named, and its value hidden, unless the option is set."""
        monkeypatch.setenv(URL, "https://ada:hunter2@example.com")
        with pytest.raises(ConfigError, match=URL) as caught:
            find_base_url(None, URL, OWN)
        assert "hunter2" not in str(caught.value)
        assert find_base_url(OWN, URL, OWN) == OWN

    @pytest.mark.parametrize("url", [OWN, "http://localhost:8000", "http://[::1]:8000/v1"])
    def test_valid_urls(self, url: str) -> None:
        """URLs with http or https are accepted."""
        assert Options(url).base_url == url

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "localhost:8000",
            "ftp://example.com",
            "https://",
            "http://[::1",
            "https://example.com:0",
            "https://example.com:99999",
            "https://ada:hunter2@example.com",
        ],
    )
    def test_invalid_urls(self, url: str) -> None:
        """Other texts are rejected with the name of the option, without the value, which may hold a password."""
        with pytest.raises(ValidationError) as caught:
            Options(url)
        assert (caught.value.where, caught.value.field) == ("Options", "base_url")
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(
        ("url", "location"),
        [
            (OWN, "api.acme.com/v1"),
            ("http://LOCALHOST:8000/", "localhost:8000"),
            ("https://example.com", "example.com"),
        ],
    )
    def test_locations(self, url: str, location: str) -> None:
        """A location is host, port and path."""
        assert url_location(url) == location
