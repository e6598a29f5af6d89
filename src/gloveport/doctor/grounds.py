"""The sandboxes that are attacked, and what the host has that attacks look for."""

from __future__ import annotations

import platform
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from gloveport.model import MIB, Limits, Policy, Source, Spec
from gloveport.policy.reading.document import parse_document
from gloveport.policy.reading.layers import compile_layer, merge_layers

__all__ = ["GROUNDS", "PLACEHOLDER", "Canaries", "plant"]

PLACEHOLDER = "DOCTOR_TOKEN"
"""The variable of the guest that holds a secret's placeholder."""

_POLICY = """
[egress]
allow = [
  "good.test", "one-port.test:80", "*.wild.test",
  {{ host = "reader.test", methods = ["GET"], paths = ["/public/*"] }},
  "to-lan.test", "to-lan10.test", "to-shared.test", "to-metadata.test", "to-unique6.test", "to-loopback.test",
  "to-loopback6.test", "to-mapped6.test", "to-any.test", "to-any6.test", "to-both.test", "flips.test",
]

[secrets.doctor]
source = {{ file = "{token}" }}
hosts = ["reader.test"]
inject = {{ header = "Authorization", value = "Bearer {{secret}}" }}
variable = "{variable}"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canaries:
    """Texts that only the host knows, and the directories it has them in."""

    text: str
    """In every planted file."""
    there: Mapping[str, str]
    """What a guard that is off shows or passes on, by name."""
    token: str
    """The file of a secret."""

    def restore(self, path: Path) -> None:
        """Take back what a guest has written over a planted file, or beside it."""
        if path.name == "secret":
            path.write_text(self.text)
        else:
            path.unlink(missing_ok=True)


def plant(place: Path) -> Canaries:
    """Make what attacks look for below `place`, which every user may pass through."""
    text = f"canary-{secrets.token_hex(16)}"
    for name in ("home", "shown", "source"):
        directory = place / name
        directory.mkdir()
        directory.chmod(0o777)  # whoever is let through may do anything
        (directory / "secret").write_text(text)
    token = place / "token"
    token.write_text(f"token-{secrets.token_hex(16)}")
    token.chmod(0o600)
    there = {name: str(place / name) for name in ("home", "shown", "source")}
    there |= {"etc": "/etc", "run": "/run/lock", "log": "/var/log", "variable": text, "host name": platform.node()}
    return Canaries(text=text, there=MappingProxyType(there), token=str(token))


def _policy(text: str) -> Policy:
    return merge_layers([compile_layer(parse_document(text.encode(), "the doctor's policy"), "project")])


def _plain(canaries: Canaries) -> Spec:
    return Spec(source=Source(repo=canaries.there["source"]), read_only=(canaries.there["shown"],))


def _proxied(canaries: Canaries) -> Spec:
    return Spec(policy=_policy(_POLICY.format(token=canaries.token, variable=PLACEHOLDER)))


def _limited(_: Canaries) -> Spec:
    return Spec(
        limits=Limits(
            memory_bytes=192 * MIB,
            processes=48,
            open_files=64,
            disk_bytes=24 * MIB,
            tmp_bytes=16 * MIB,
            output_bytes=MIB // 4,
        )
    )


def _short(_: Canaries) -> Spec:
    return Spec(limits=Limits(exec_seconds=1.0))


GROUNDS: Mapping[str, Callable[[Canaries], Spec]] = MappingProxyType(
    {"plain": _plain, "proxied": _proxied, "limited": _limited, "short": _short}
)
"""Name → the spec of a sandbox to attack."""
