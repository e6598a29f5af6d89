"""A receipt: what was attacked, where, and what came of it, signed by this installation."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
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

__all__ = ["current_receipt", "keep_receipt", "prepare_receipts", "verify_receipt", "write_receipt"]

_DIRECTORY = "receipts"
_KEY = "key.pem"
_TOLD = ("backend", "counts", "missing", "watched", "plans", "gloveport", "kernel", "user", "time")


def keep_receipt(report: Report, data: Path, version: str, watched: Sequence[str] = ()) -> str:
    """Sign a report of this `version` and keep it in the data directory, where runs find it; the receipt as JSON.

    `watched` are the limits that are kept by measuring alone: a fast guest passes them for a moment. Raises
    `BackendUnavailable` where it cannot be written, `InvalidRequest` where the installation's key is none.
    """
    body = {
        "backend": report.backend,
        "attacks": {finding.attack.name: finding.outcome for finding in report.findings},
        "counts": {outcome: report.count(outcome) for outcome in Outcome},
        "missing": list(report.missing),
        "watched": list(watched),
        "plans": dict(report.plan_digests),
        "gloveport": version,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "user": "root" if os.geteuid() == 0 else "ordinary",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    directory = prepare_receipts(data)
    try:
        key = _load(directory / _KEY) or _make_key(directory / _KEY)
        signature = base64.b64encode(key.sign(_canonical(body))).decode()
        text = json.dumps({"receipt": body, "key": _public(key), "signature": signature}, indent=1)
        _place(f"{text}\n".encode(), directory / f"{report.backend}.json")
    except OSError as error:
        raise BackendUnavailable(f"cannot write {directory}: {error.strerror}", hint="make room there") from error
    return text


def prepare_receipts(data: Path) -> Path:
    """The directory of receipts, made where it is missing. Raises `GloveportError` where that cannot be."""
    return make_private(data / _DIRECTORY)


def current_receipt(data: Path, backend: str, version: str) -> Mapping[str, Any] | None:
    """What the last receipt for a backend says in short, and whether it speaks of this `version` and this kernel.

    `None` where there is none, it was altered, or somebody else signed it. For the record of a run: what its sandbox
    was shown to keep out.
    """
    try:
        text = (data / _DIRECTORY / f"{backend}.json").read_text("utf-8")
        key = _load(data / _DIRECTORY / _KEY)
        body = verify_receipt(text)
        told = {name: body[name] for name in _TOLD}
    except (OSError, KeyError, ValueError, InvalidRequest):
        return None
    if key is None or json.loads(text)["key"] != _public(key):
        return None
    is_current = (body["gloveport"], body["kernel"]) == (version, platform.release())
    return {**told, "current": is_current, "sha256": hashlib.sha256(text.encode()).hexdigest()}


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
    with suppress(ValueError, KeyError, TypeError, RecursionError, InvalidSignature):
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


def _load(path: Path) -> Ed25519PrivateKey | None:
    """This installation's key; `None` where there is none yet."""
    try:
        found = serialization.load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if not isinstance(found, Ed25519PrivateKey):
        raise InvalidRequest(f"{path} is not a signing key", hint="remove it: a new one is made")
    return found


def _make_key(path: Path) -> Ed25519PrivateKey:
    """A key that nobody else can read; of two that are made at once the first stays."""
    key = Ed25519PrivateKey.generate()
    kinds = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    with suppress(FileExistsError):
        _place(key.private_bytes(serialization.Encoding.PEM, *kinds), path, replace=False)
    return _load(path) or key


def _place(content: bytes, path: Path, *, replace: bool = True) -> None:
    """A file that is there whole or not at all, for its owner alone."""
    descriptor, scratch = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        if replace:
            os.rename(scratch, path)
        else:
            os.link(scratch, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(scratch)
