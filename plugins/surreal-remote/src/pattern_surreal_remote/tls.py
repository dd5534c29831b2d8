"""TLS settings."""

from __future__ import annotations

import ssl
from pathlib import Path

from pattern_core.errors import ConfigError
from pattern_core.toolkit import Secret

__all__ = ["tls_context"]


def tls_context(
    *, ca_file: Path | None, certificate: Path | None, key: Path | None, key_password: Secret | None
) -> ssl.SSLContext:
    """Return the TLS settings. The server's certificate and host name are always verified.

    Args:
        ca_file: The certificates to trust besides the system's.
        certificate: The certificate of this client.
        key: The certificate's key, if it is in another file.
        key_password: The key's password.

    Raises:
        ConfigError: A file cannot be used; the message names the option.
    """
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:
            raise _unusable("ca_file", ca_file, error) from None
    if certificate is not None:
        # Without a password, OpenSSL would ask for one on the terminal.
        password = key_password.reveal() if key_password else ""
        try:
            context.load_cert_chain(certificate, key, lambda: password)
        except OSError as error:
            raise _unusable("client_certificate", certificate, error) from None
    return context


def _unusable(option: str, path: Path, error: OSError) -> ConfigError:
    what = "is no certificate, or its key does not fit" if isinstance(error, ssl.SSLError) else error.strerror
    return ConfigError(f"{option} {path} cannot be used: {what}", key=f"database.{option}")
