"""A receipt: what was attacked, where, and what came of it, signed by this installation."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gloveport.doctor.attack import Outcome, Report
from gloveport.errors import BackendUnavailable, Conflict, InvalidRequest
from gloveport.store import make_private

__all__ = ["current_receipt", "keep_receipt", "verify_receipt", "write_receipt"]

_DIRECTORY = "receipts"
_KEY = "key.pem"
_TOLD = ("backend", "counts", "missing", "plans", "gloveport", "kernel", "user", "time")


def keep_receipt(report: Report, data: Path, version: str) -> str:
    """Sign a report of this `version` and keep it in the data directory, where runs find it; the receipt as JSON."""
    directory = make_private(data / _DIRECTORY)
    key = _key(directory / _KEY)
    body = {
        "backend": report.backend,
        "attacks": {finding.attack.name: finding.outcome for finding in report.findings},
        "counts": {outcome: report.count(outcome) for outcome in Outcome},
        "missing": list(report.missing),
        "plans": dict(report.plan_digests),
        "gloveport": version,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "user": "root" if os.geteuid() == 0 else "ordinary",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    text = json.dumps(
        {
            "receipt": body,
            "key": _public(key),
            "signature": base64.b64encode(key.sign(_canonical(body))).decode(),
        },
        indent=1,
    )
    path = directory / f"{report.backend}.json"
    fresh = path.with_suffix(".new")
    fresh.write_text(text + "\n", "utf-8")
    fresh.replace(path)
    return text


def current_receipt(data: Path, backend: str, version: str) -> Mapping[str, Any] | None:
    """What the last receipt for a backend says in short, and whether it speaks of this `version` and this kernel.

    `None` where there is none, it was altered, or somebody else signed it. For the record of a run: what its sandbox
    was shown to keep out.
    """
    try:
        text = (data / _DIRECTORY / f"{backend}.json").read_text("utf-8")
        body = verify_receipt(text)
        own = _public(_key(data / _DIRECTORY / _KEY))
    except (OSError, InvalidRequest):
        return None
    if json.loads(text)["key"] != own:
        return None
    is_current = (body["gloveport"], body["kernel"]) == (version, platform.release())
    return {
        **{name: body[name] for name in _TOLD},
        "current": is_current,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def write_receipt(text: str, path: Path) -> None:
    """Write a receipt where the person wants it; `Conflict` when something is there."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text + "\n")
    except FileExistsError as error:
        raise Conflict(f"{path} exists", hint="name another file: no receipt is overwritten") from error
    except OSError as error:
        raise BackendUnavailable(f"cannot write {path}: {error.strerror}", hint="name another file") from error


def verify_receipt(text: str) -> Mapping[str, Any]:
    """The body of a receipt whose signature is right. `InvalidRequest` for any other text.

    Who holds the key decides what that means: compare it with the one that you expect.
    """
    with suppress(ValueError, KeyError, TypeError, InvalidSignature):
        whole = json.loads(text)
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(whole["key"]))
        key.verify(base64.b64decode(whole["signature"]), _canonical(whole["receipt"]))
        body: Mapping[str, Any] = whole["receipt"]
        return body
    raise InvalidRequest("not a receipt, or one that was altered", hint="make one with: gloveport doctor --attack")


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def _public(key: Ed25519PrivateKey) -> str:
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return base64.b64encode(raw).decode()


def _key(path: Path) -> Ed25519PrivateKey:
    """This installation's, made when it is first needed; nobody else can read it."""
    if path.exists():
        found = serialization.load_pem_private_key(path.read_bytes(), None)
        if not isinstance(found, Ed25519PrivateKey):
            raise InvalidRequest(f"{path} is not a signing key", hint="remove it: a new one is made")
        return found
    key = Ed25519PrivateKey.generate()
    kinds = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.private_bytes(serialization.Encoding.PEM, *kinds))
    return key
