"""Requests to AWS signed anew outside the sandbox: Signature Version 4, computed by botocore."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import math
import re
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, unquote_plus, unquote_to_bytes

from gloveport.egress.dial import Refused
from gloveport.egress.http_parts import Asked, GuestHttp, Headers
from gloveport.egress.ready import Late
from gloveport.egress.record import EgressRecord
from gloveport.egress.relay import Idle

__all__ = [
    "RULE",
    "AwsKey",
    "Body",
    "Held",
    "Room",
    "is_signing_installed",
    "load_signing",
    "objection",
    "sign",
    "signs_body",
    "without_signature",
]

RULE = "built-in: signatures for AWS"
_MOST_HELD = 16 * 1024 * 1024
"""Bytes of one body."""
_MOST_TOGETHER = 4 * _MOST_HELD
"""Bytes of all bodies of one sandbox at a time."""
_LIKE_S3 = ("s3", "s3-object-lambda", "s3-outposts")
"""Services that take `UNSIGNED-PAYLOAD` inside TLS."""
_UNSIGNED_CHUNKS = b"STREAMING-UNSIGNED-PAYLOAD-TRAILER"
_PAYLOAD = b"x-amz-content-sha256"
_SIGNATURE = (b"authorization", b"x-amz-date", b"x-amz-security-token", _PAYLOAD)
_SIGNATURE_PARAMETERS = frozenset(
    f"x-amz-{name}"
    for name in (
        "algorithm", "content-sha256", "credential", "date", "expires", "security-token", "signature", "signedheaders",
    )
)  # fmt: skip
_SIGNED = (b"content-type", b"content-md5")
"""Besides `Host` and all that begin with `x-amz-`: the proxy drops and sets others on their way."""
_IN_PIECES = "its body is signed piece by piece, which the proxy cannot do anew: send it unsigned, or in one piece"
_UNREADABLE = "a header of it that would be signed is not UTF-8"
_ID = re.compile(r"[A-Za-z0-9_-]{3,128}")
_PART = re.compile(r"[!-~]{8,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsKey:
    """An access key of AWS; `token` belongs to a temporary one."""

    id: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> AwsKey:
        """Read `ID:SECRET` or `ID:SECRET:TOKEN`. Raises `ValueError`, which repeats nothing of it."""
        first, *parts = text.split(":")
        if not _ID.fullmatch(first) or not 1 <= len(parts) <= 2 or not all(map(_PART.fullmatch, parts)):
            raise ValueError("not ACCESS_KEY_ID:SECRET_ACCESS_KEY or ACCESS_KEY_ID:SECRET_ACCESS_KEY:SESSION_TOKEN")
        return cls(id=first, secret=parts[0], token=parts[1] if len(parts) > 1 else None)


def is_signing_installed() -> bool:
    """Whether botocore is there."""
    return importlib.util.find_spec("botocore") is not None


def load_signing() -> None:
    """Import what signs, which takes its time, before the first request waits for it."""
    # It writes session tokens and signatures down for debugging.
    logging.getLogger("botocore.auth").setLevel(logging.INFO)
    for name in ("auth", "awsrequest", "credentials"):
        _botocore(name)


def signs_body(service: str) -> bool:
    """Whether a signature for this service needs the hash of the request's body."""
    return service not in _LIKE_S3


def objection(service: str, headers: Headers) -> str | None:
    """Why a request cannot be signed for `service`; `None` when it can."""
    payload = _payload(headers)
    encodings = b",".join(value for name, value in headers if name.lower() == b"content-encoding").lower()
    passes = payload == _UNSIGNED_CHUNKS and not signs_body(service)
    if not passes and (payload.startswith(b"STREAMING-") or b"aws-chunked" in encodings):
        return _IN_PIECES
    return None if _readable(headers) else _UNREADABLE


def _payload(headers: Headers) -> bytes:
    """What a client says of its body."""
    return b",".join(value.strip() for name, value in headers if name.lower() == _PAYLOAD).upper()


def _readable(headers: Headers) -> bool:
    try:
        _texts(headers)
    except UnicodeDecodeError:
        return False
    return True


def without_signature(path: str, headers: Headers) -> tuple[str, Headers]:
    """A request's head without the guest's signature, be it in headers or, presigned, in the query."""
    plain, mark, query = path.partition("?")
    parts = query.split("&")
    kept = [part for part in parts if unquote_plus(part.partition("=")[0]).lower() not in _SIGNATURE_PARAMETERS]
    if len(kept) != len(parts):
        path = f"{plain}{mark}{'&'.join(kept)}" if kept else plain
    return path, [(name, value) for name, value in headers if name.lower() not in _SIGNATURE]


def sign(key: AwsKey, scope: str, asked: Asked, digest: str) -> tuple[str, Headers]:
    """Path and headers of a request to its canonical host, signed for `scope`, a service and a region.

    The path is what is to be sent, too: written in the one way that AWS reads. `digest` is of the body, where the
    service wants one.
    """
    service, _, region = scope.partition(" ")
    in_chunks = _payload(asked.headers) == _UNSIGNED_CHUNKS
    path, headers = without_signature(_canonical(asked.path), asked.headers)
    host = f"[{asked.host}]" if ":" in asked.host else asked.host
    request = _botocore("awsrequest").AWSRequest(method=asked.method, url=f"https://{host}:{asked.port}{path}")
    for name, value in _texts(headers):
        request.headers[name] = value
    credentials = _botocore("credentials").Credentials(key.id, key.secret, key.token)
    if signs_body(service):
        request.headers["X-Amz-Content-SHA256"] = digest
        _botocore("auth").SigV4Auth(credentials, service, region).add_auth(request)
    else:
        request.context["client_config"] = SimpleNamespace(s3={"payload_signing_enabled": False})
        if in_chunks:
            request.context["checksum"] = {"request_algorithm": {"in": "trailer"}}
        _botocore("auth").S3SigV4Auth(credentials, service, region).add_auth(request)
    added = [(name, value) for name, value in request.headers.items() if name.lower().encode() in _SIGNATURE]
    return path, [*headers, *((name.encode(), value.encode()) for name, value in added)]


class Held:
    """A body that was read to its end, to be sent after the head that its hash went into."""

    def __init__(self) -> None:
        self.size = 0
        self._pieces: deque[bytes] = deque()
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        """SHA-256 of all of it, in hexadecimal."""
        return self._hash.hexdigest()

    def add(self, piece: bytes) -> None:
        """Hold one more piece."""
        self.size += len(piece)
        self._hash.update(piece)
        self._pieces.append(piece)

    def ends(self) -> bool:
        """Whether there is nothing more of it."""
        return not self._pieces

    async def body(self) -> bytes | None:
        """The next piece; `None` at the end."""
        return self._pieces.popleft() if self._pieces else None


Body = GuestHttp | Held
"""Where the body of a request is read from."""


class Room:
    """The memory that bodies of one sandbox may take while they are held."""

    def __init__(self) -> None:
        self._held = 0

    @contextmanager
    def part(self) -> Iterator[Held]:
        """For one body."""
        held = Held()
        try:
            yield held
        finally:
            self._held -= held.size

    async def fill(self, held: Held, guest: GuestHttp, record: EgressRecord, idle_seconds: float) -> None:
        """Read a body to its end. Raises `Refused` for one that is too large, and `Idle`."""
        client = guest.client
        try:
            client.until = time.monotonic() + idle_seconds
            while (piece := await guest.body()) is not None:
                held.add(piece)
                self._held += len(piece)
                if held.size > _MOST_HELD or self._held > _MOST_TOGETHER:
                    record.allowed, record.rule = False, RULE
                    record.reason = _too_large(held.size > _MOST_HELD)
                    raise Refused
                client.until = time.monotonic() + idle_seconds
        except Late:
            raise Idle from None
        finally:
            client.until = math.inf


def _too_large(alone: bool) -> str:
    if alone:
        return f"its body is larger than {_MOST_HELD >> 20} MiB, and its signature needs the hash of all of it"
    return f"bodies that wait for their signatures are larger than {_MOST_TOGETHER >> 20} MiB together"


def _botocore(module: str) -> Any:
    return importlib.import_module(f"botocore.{module}")


def _texts(headers: Headers) -> list[tuple[str, str]]:
    """The headers that are signed. Raises `UnicodeDecodeError`."""
    return [
        (name.decode("ascii"), value.decode("utf-8"))
        for name, value in headers
        if (key := name.lower()) in _SIGNED or key.startswith(b"x-amz-")
    ]


def _canonical(path: str) -> str:
    """Path and query with everything percent-encoded but what is unreserved; a blank is `%20`."""
    plain, mark, query = path.partition("?")
    pairs = (part.partition("=") for part in query.split("&") if part)
    parts = (f"{_encoded(name, '+')}{equals}{_encoded(value, '+')}" for name, equals, value in pairs)
    return "/".join(map(_encoded, plain.split("/"))) + mark + "&".join(parts)


def _encoded(text: str, blank: str = "") -> str:
    return quote(unquote_to_bytes(text.replace(blank, " ") if blank else text), safe="")
