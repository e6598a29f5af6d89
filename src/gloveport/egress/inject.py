"""Secrets on their way: put into requests to the hosts they are bound to, and masked in what comes back."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus, unquote_plus

from gloveport.egress.http_parts import Headers

__all__ = ["BoundSecret", "Injector", "Mask", "Stray", "spellings"]

_BASIC = re.compile(rb"\s*basic\s+([A-Za-z0-9+/_=-]+)\s*", re.IGNORECASE)
_CREDENTIALS = (b"authorization", b"proxy-authorization")


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundSecret:
    """A secret's value, where it goes, and what the guest has in its place."""

    name: str
    value: str = field(repr=False)
    hosts: frozenset[str]
    """Canonical names."""
    kind: str
    """`header`, `basic` or `query`."""
    target: str
    """The header, the user's name, or the query's parameter."""
    template: str = "{secret}"
    """A header's value."""
    placeholder: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stray:
    """A placeholder where it has no business."""

    name: str
    """The secret's."""
    reason: str


class Injector:
    """What one sandbox's proxy does with its secrets."""

    def __init__(self, secrets: Sequence[BoundSecret] = ()) -> None:
        self._secrets = tuple(secrets)

    def binds(self, host: str) -> bool:
        """Whether any secret is for `host`."""
        return any(host in secret.hosts for secret in self._secrets)

    def stray(self, host: str, path: str, headers: Headers, *, is_private: bool) -> Stray | None:
        """The first placeholder in a request's head that is not where its secret goes.

        `is_private` says whether the request is inside TLS that the proxy has verified. Looked at are the path and
        query, decoded too, every header, and the user and password of `Basic` credentials.
        """
        for secret in self._secrets:
            if secret.placeholder is None:
                continue
            at_home = is_private and host in secret.hosts
            seen_path, seen = _without_place(secret, path, headers) if at_home else (path, headers)
            if any(secret.placeholder.encode() in text for text in _texts(seen_path, seen)):
                return Stray(name=secret.name, reason=_why(secret, host, is_private=is_private))
        return None

    def inject(self, host: str, path: str, headers: Headers) -> tuple[str, Headers]:
        """The head of a request to `host` with the secrets that are bound to it, each set at its place."""
        for secret in self._secrets:
            if host not in secret.hosts:
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
    """A secret as it is, and as URLs, JSON and `Basic` credentials spell it."""
    value = secret.value
    for text in (value, quote(value, safe=""), quote(value), quote_plus(value), json.dumps(value)[1:-1]):
        yield text.encode()
    yield base64.b64encode(value.encode())
    if secret.kind == "basic":
        yield _basic(secret).encode()


def _why(secret: BoundSecret, host: str, *, is_private: bool) -> str:
    if host not in secret.hosts:
        return f"the placeholder of the secret {secret.name} was sent to {host}, which it is not bound to"
    if not is_private:
        return f"the secret {secret.name} goes to {host} through TLS only: use https"
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
