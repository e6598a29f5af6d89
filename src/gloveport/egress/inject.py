"""Secrets on their way: put into requests to the hosts they are bound to, and masked in what comes back."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from urllib.parse import quote, quote_plus, unquote_plus

from gloveport.egress.http_parts import Asked, GuestHttp, Headers
from gloveport.egress.record import Destination, EgressRecord
from gloveport.egress.sigv4 import RULE, AwsKey, Body, Held, Room, objection, sign, signs_body, without_signature

__all__ = ["BoundSecret", "Injector", "Mask", "Stray", "spellings"]

_BASIC = re.compile(rb"\s*basic\s+([A-Za-z0-9+/_=-]+)\s*", re.IGNORECASE)
_SIGV4 = "sigv4"
_CREDENTIALS = (b"authorization", b"proxy-authorization")


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundSecret:
    """A secret's value, where it goes, and what the guest has in its place."""

    name: str
    value: str = field(repr=False)
    hosts: frozenset[str]
    """Canonical names."""
    kind: str
    """`header`, `basic`, `query` or `sigv4`."""
    target: str
    """The header, the user's name, the query's parameter, or the service and the region that are signed for."""
    template: str = "{secret}"
    """A header's value."""
    placeholder: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stray:
    """What keeps a request back: a placeholder where it has no business, or what cannot be signed."""

    name: str
    """The secret's; empty where it raises no alarm."""
    reason: str
    rule: str = "built-in: placeholders of secrets"


class Injector:
    """What one sandbox's proxy does with its secrets."""

    def __init__(self, secrets: Sequence[BoundSecret] = ()) -> None:
        # What is signed comes last: a signature is over what the others set.
        self._secrets = tuple(sorted(secrets, key=lambda secret: secret.kind == _SIGV4))
        self._room = Room()

    def binds(self, host: str) -> bool:
        """Whether any secret is for `host`."""
        return any(host in secret.hosts for secret in self._secrets)

    def stray(self, host: str, path: str, headers: Headers, *, is_private: bool) -> Stray | None:
        """The first placeholder in a request's head that is not where its secret goes, or why it cannot be signed.

        `is_private` says whether the request is inside TLS that the proxy has verified. Looked at are the path and
        query, decoded too, every header, and the user and password of `Basic` credentials.
        """
        # Keys of AWS share theirs: a client has one key for all services.
        own = {secret.placeholder for secret in self._secrets if host in secret.hosts}
        for secret in self._secrets:
            if secret.placeholder is None or (host not in secret.hosts and secret.placeholder in own):
                continue
            at_home = is_private and host in secret.hosts
            seen_path, seen = _without_place(secret, path, headers) if at_home else (path, headers)
            if any(secret.placeholder.encode() in text for text in _texts(seen_path, seen)):
                return Stray(name=secret.name, reason=_why(secret, host, is_private=is_private))
        signing = self._signing(host) if is_private else None
        reason = objection(signing.target.partition(" ")[0], headers) if signing is not None else None
        return Stray(name="", reason=reason, rule=RULE) if reason is not None else None

    @asynccontextmanager
    async def body(
        self, guest: GuestHttp, destination: Destination, record: EgressRecord, idle_seconds: float
    ) -> AsyncIterator[Body]:
        """Where a request's body is read from: held here where its signature needs its hash, else still the guest's.

        Raises `Refused` for one that is too large to be held, and `Idle`.
        """
        signing = self._signing(destination.host) if destination.protocol == "https" else None
        if signing is None or not signs_body(signing.target.partition(" ")[0]):
            yield guest
            return
        with self._room.part() as held:
            await self._room.fill(held, guest, record, idle_seconds)
            yield held

    def inject(self, host: str, asked: Asked, body: Body | None = None) -> tuple[str, Headers]:
        """Path and headers of a request to `host` with the secrets that are bound to it, each set at its place.

        `body` is what `body` gave for it.
        """
        path, headers = asked.path, asked.headers
        for secret in self._secrets:
            if host not in secret.hosts:
                continue
            if secret.kind == _SIGV4:
                whole = replace(asked, host=host, path=path, headers=headers)
                held = body if isinstance(body, Held) else Held()
                path, headers = sign(AwsKey.parse(secret.value), secret.target, whole, held.digest)
                continue
            path, headers = _without_place(secret, path, headers)
            if secret.kind == "query":
                mark = "&" if "?" in path else "?"
                path = f"{path}{mark}{quote(secret.target, safe='')}={quote(secret.value, safe='')}"
            else:
                name, value = _header(secret)
                headers = [*headers, (name.encode(), value.encode())]
        return path, headers

    def mask(self, host: str) -> Mask:
        """What takes the secrets of `host` out of one answer."""
        return Mask([spelt for secret in self._secrets if host in secret.hosts for spelt in spellings(secret)])

    def _signing(self, host: str) -> BoundSecret | None:
        """What signs requests to `host`."""
        return next((secret for secret in self._secrets if secret.kind == _SIGV4 and host in secret.hosts), None)


class Mask:
    """Replaces secrets in a stream of bytes by as many asterisks: lengths that were announced stay true."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = sorted(set(secrets), key=len, reverse=True)
        shapes = b"|".join(re.escape(secret) for secret in self._secrets)
        self._shape = re.compile(shapes) if self._secrets else None
        self._held = b""

    @property
    def holds(self) -> bool:
        """Whether something waits."""
        return bool(self._held)

    def whole(self, data: bytes) -> bytes:
        """A text that is there in one piece, such as a header."""
        return data if self._shape is None else self._shape.sub(_asterisks, data)

    def feed(self, data: bytes) -> bytes:
        """The next piece; what may be the beginning of a secret waits for the one after."""
        data = self.whole(self._held + data)
        kept = max((_overlap(data, secret) for secret in self._secrets), default=0)
        passed, self._held = data[: len(data) - kept], data[len(data) - kept :]
        return passed

    def end(self) -> bytes:
        """What has waited."""
        data, self._held = self._held, b""
        return data


def spellings(secret: BoundSecret) -> Iterator[bytes]:
    """A secret as it is, and as URLs, JSON and `Basic` credentials spell it; of a key of AWS not its id."""
    for value in _hidden(secret):
        for text in (value, quote(value, safe=""), quote(value), quote_plus(value), json.dumps(value)[1:-1]):
            yield text.encode()
        yield base64.b64encode(value.encode())
    if secret.kind == "basic":
        yield _basic(secret).encode()


def _hidden(secret: BoundSecret) -> tuple[str, ...]:
    if secret.kind != _SIGV4:
        return (secret.value,)
    key = AwsKey.parse(secret.value)
    return (key.secret,) if key.token is None else (key.secret, key.token)


def _why(secret: BoundSecret, host: str, *, is_private: bool) -> str:
    if host not in secret.hosts:
        return f"the placeholder of the secret {secret.name} was sent to {host}, which it is not bound to"
    if not is_private:
        return f"the secret {secret.name} goes to {host} through TLS only: use https"
    if secret.kind == _SIGV4:
        place = "a signature of AWS"
    else:
        place = f"the query parameter {secret.target}" if secret.kind == "query" else f"the header {_header(secret)[0]}"
    return f"the secret {secret.name} goes into {place} alone, and its placeholder was elsewhere"


def _texts(path: str, headers: Headers) -> Iterator[bytes]:
    yield path.encode("latin-1", "replace")
    yield unquote_plus(path).encode("utf-8", "replace")
    for name, value in headers:
        yield bytes(name)
        yield bytes(value)
        found = _BASIC.fullmatch(value) if name.lower() in _CREDENTIALS else None
        if found is not None:
            yield _decoded(found.group(1))


def _decoded(credentials: bytes) -> bytes:
    try:
        return base64.b64decode(
            credentials.rstrip(b"=") + b"==", altchars=b"-_" if set(b"-_") & set(credentials) else None
        )
    except binascii.Error:
        return b""


def _without_place(secret: BoundSecret, path: str, headers: Headers) -> tuple[str, Headers]:
    """The head without what stands where the secret goes."""
    if secret.kind == _SIGV4:
        return without_signature(path, headers)
    if secret.kind != "query":
        place = _header(secret)[0].lower().encode()
        return path, [(name, value) for name, value in headers if name.lower() != place]
    plain, mark, query = path.partition("?")
    kept = [part for part in query.split("&") if unquote_plus(part.partition("=")[0]) != secret.target]
    return (f"{plain}?{'&'.join(kept)}" if mark and any(kept) else plain), headers


def _header(secret: BoundSecret) -> tuple[str, str]:
    if secret.kind == "basic":
        return "Authorization", f"Basic {_basic(secret)}"
    return secret.target, secret.template.replace("{secret}", secret.value)


def _basic(secret: BoundSecret) -> str:
    return base64.b64encode(f"{secret.target}:{secret.value}".encode()).decode("ascii")


def _asterisks(found: re.Match[bytes]) -> bytes:
    return b"*" * len(found.group())


def _overlap(data: bytes, secret: bytes) -> int:
    """How much of the end of `data` is a beginning of `secret`."""
    longest = min(len(secret) - 1, len(data))
    return next((size for size in range(longest, 0, -1) if data.endswith(secret[:size])), 0)
