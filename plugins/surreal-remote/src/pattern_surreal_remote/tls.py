"""Whom to trust, and what to show, where a connection is encrypted."""

from __future__ import annotations

import ssl
from pathlib import Path

from pattern_core.errors import ConfigError
from pattern_core.toolkit import Secret

__all__ = ["tls_context"]


def tls_context(
    *, ca_file: Path | None, certificate: Path | None, key: Path | None, key_password: Secret | None
) -> ssl.SSLContext:
    """Return the settings of encrypted connections. The server's certificate and name are always verified.

    Args:
        ca_file: The certificates to trust besides the system's.
        certificate: The certificate that this client shows.
        key: The certificate's key, where it is in a file of its own.
        key_password: The key's password.

    Raises:
        ConfigError: A file cannot be used; says which option names it.
    """
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:
            raise _unusable("ca_file", ca_file, error) from None
    if certificate is not None:
        # Without a password, a key that needs one would have OpenSSL ask at the terminal.
        password = key_password.reveal() if key_password else ""
        try:
            context.load_cert_chain(certificate, key, lambda: password)
        except OSError as error:
            raise _unusable("client_certificate", certificate, error) from None
    return context


def _unusable(option: str, path: Path, error: OSError) -> ConfigError:
    what = "is no certificate, or its key does not fit" if isinstance(error, ssl.SSLError) else error.strerror
    return ConfigError(f"{option} {path} cannot be used: {what}", key=f"database.{option}")
