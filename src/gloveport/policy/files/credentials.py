"""Where programs keep what their users must keep secret."""

from __future__ import annotations

import os

__all__ = ["secrets_of"]

CREDENTIALS = (
    ".Xauthority",
    ".android/adbkey",
    ".ansible",
    ".anthropic",
    ".aws",
    ".azure",
    ".bash_history",
    ".boto",
    ".bundle/config",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".claude",
    ".claude.json",
    ".codex",
    ".composer/auth.json",
    ".config",
    ".dbus",
    ".docker",
    ".gem/credentials",
    ".git-credentials",
    ".gnupg",
    ".gradle/gradle.properties",
    ".kube",
    ".local/share/keyrings",
    ".local/share/kwalletd",
    ".m2/settings.xml",
    ".m2/settings-security.xml",
    ".minikube",
    ".mozilla",
    ".my.cnf",
    ".mysql_history",
    ".netrc",
    ".npmrc",
    ".oci",
    ".password-store",
    ".pgpass",
    ".pki",
    ".psql_history",
    ".pypirc",
    ".python_history",
    ".s3cfg",
    ".ssh",
    ".subversion",
    ".terraform.d",
    ".thunderbird",
    ".vault-token",
    ".yarnrc.yml",
    ".zsh_history",
)
"""Where programs keep their users' credentials and what they typed, below a home directory."""


def secrets_of(home: str) -> tuple[str, ...]:
    """Those of one home directory, sorted: as they are spelt, and as those resolve that are there.

    Such files are often links into a directory that people share.
    """
    try:
        present = set(os.listdir(home))
    except OSError:
        present = set()
    found = set()
    for name in CREDENTIALS:
        secret = f"{home.rstrip('/')}/{name}"
        found.add(secret)
        if name.split("/", 1)[0] in present:
            found.add(os.path.realpath(secret))
    return tuple(sorted(found))
