"""The tape: a model's turns recorded at the Messages API, and played back to the same client later.

A tape is JSON Lines. The first line names the format; each other line is one turn, found by its lane (a
digest of the system prompt and of the words that opened the conversation) and by its number (of assistant
messages before it). That needs no memory between requests, so a client may retry, resume and fork.
Credentials are never written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import httpx2
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from gloveport.agents.forwarding import Exchange, forward, select_headers, upstream_client
from gloveport.agents.model_api import MESSAGES_PATH, ApiError
from gloveport.errors import InvalidRequest
from gloveport.testing.endpoint import Answer, Endpoint, MessagesApp, read_request, serve
from gloveport.testing.messages import Json, MessagesRequest, assemble

__all__ = ["Tape", "TapePlayer", "TapeRecorder", "TurnKey", "record_tape"]

_FORMAT = {"format": "gloveport-tape", "version": 1}
_CREDENTIAL_HEADERS = ("x-api-key", "authorization")
_BILLING = "x-anthropic-billing-header"
_REDACTED = "[redacted]"


@dataclass(frozen=True, slots=True, order=True)
class TurnKey:
    """Where a turn stands: in which conversation, after how many assistant messages."""

    lane: str
    """16 hexadecimal digits."""
    turn: int

    @classmethod
    def of(cls, request: MessagesRequest) -> TurnKey:
        """The key of the turn that `request` asks for."""
        # The billing line changes with each release of the client, and means nothing to the conversation.
        lines = request.system_text.splitlines()
        system = "\n".join(line for line in lines if not line.startswith(_BILLING))
        digest = hashlib.sha256(json.dumps([system, request.first_user_text]).encode())
        return cls(lane=digest.hexdigest()[:16], turn=request.turn)


class Tape:
    """Recorded turns: messages of the API by key."""

    def __init__(self, turns: Mapping[TurnKey, Json] | None = None) -> None:
        self._turns = dict(turns or {})

    @classmethod
    def load(cls, path: Path) -> Tape:
        """Read a tape. Raises `InvalidRequest`, naming the line, for a file that is not one."""
        try:
            # Not `splitlines`, which splits at characters that stand unescaped inside JSON strings.
            heading, *lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"cannot read tape {path}: {error}", hint="record one first") from error
        if heading != _line(_FORMAT):
            raise InvalidRequest(f"{path}, line 1: not {_line(_FORMAT)}", hint="record the tape again")
        turns: dict[TurnKey, Json] = {}
        for number, line in enumerate(lines, start=2):
            try:
                record = json.loads(line)
                turns[TurnKey(str(record["lane"]), int(record["turn"]))] = dict(record["message"])
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidRequest(
                    f"{path}, line {number}: not a turn: {error!r}", hint="record the tape again"
                ) from error
        return cls(turns)

    def save(self, path: Path) -> None:
        """Write the tape, atomically. The same turns make the same bytes."""
        turns = (
            {"lane": key.lane, "turn": key.turn, "message": message}
            for key, message in sorted(self._turns.items(), key=itemgetter(0))
        )
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        unfinished.write_text("".join(_line(record) + "\n" for record in (_FORMAT, *turns)), encoding="utf-8")
        unfinished.replace(path)

    def put(self, key: TurnKey, message: Json) -> None:
        """Record a turn; a retried one replaces the former."""
        self._turns[key] = message

    def get(self, key: TurnKey) -> Json | None:
        """The turn at `key`, or None."""
        return self._turns.get(key)

    def __len__(self) -> int:
        return len(self._turns)


class TapePlayer(MessagesApp):
    """Plays a tape. A turn that is not on it is answered with a 400 that names its lane and number."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    def answer(self, request: MessagesRequest) -> Answer | ApiError:
        """The recorded turn for `request`."""
        key = TurnKey.of(request)
        message = self._tape.get(key)
        if message is None:
            return ApiError(400, "invalid_request_error", f"the tape has no turn {key.turn} in lane {key.lane}")
        return Answer(message=message | {"model": request.model})


class TapeRecorder:
    """An ASGI app that passes requests on to an upstream, with the client's key, and writes down its turns.

    The tape at `path` is complete after each turn. Failed and broken-off turns are not recorded.
    """

    def __init__(self, path: Path, *, upstream: str, client: httpx2.AsyncClient) -> None:
        self._path = path
        self._upstream = upstream.rstrip("/")
        self._client = client
        self._tape = Tape()
        self._requests: list[MessagesRequest] = []

    @property
    def requests(self) -> list[MessagesRequest]:
        """Every request so far, oldest first."""
        return self._requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        http = Request(scope, receive)
        try:
            body = await http.body()
        except ClientDisconnect:
            return
        request = read_request(http, body)
        error = request if isinstance(request, ApiError) else await self._pass_on(http, body, request, send)
        if error is not None:
            await error.response()(scope, receive, send)

    async def _pass_on(self, http: Request, body: bytes, request: MessagesRequest, send: Send) -> ApiError | None:
        self._requests.append(request)
        credentials = {name: http.headers[name] for name in _CREDENTIAL_HEADERS if name in http.headers}
        headers = select_headers(http.headers.items()) | credentials
        url = httpx2.URL(self._upstream + request.path).copy_with(query=http.scope["query_string"] or None)
        exchange = Exchange()

        async def record(response: httpx2.Response) -> None:
            await response.aread()
            if request.path == MESSAGES_PATH and (message := _message(response)):
                self._write(TurnKey.of(request), message, credentials)

        await forward(
            self._client,
            self._client.build_request(http.method, url, headers=headers, content=body),
            receive=http.receive,
            send=send,
            read=record,
            exchange=exchange,
        )
        return ApiError(502, "api_error", exchange.failure) if exchange.failure else None

    def _write(self, key: TurnKey, message: Json, credentials: Mapping[str, str]) -> None:
        text = json.dumps(message, ensure_ascii=False)
        for credential in filter(None, (value.removeprefix("Bearer ") for value in credentials.values())):
            text = text.replace(credential, _REDACTED)
        # Ids are chosen by the upstream at random; the key says the same thing each time.
        self._tape.put(key, json.loads(text) | {"id": f"msg_tape_{key.lane}_{key.turn}"})
        self._tape.save(self._path)


@asynccontextmanager
async def record_tape(
    path: Path, *, upstream: str, uds: Path | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Endpoint]:
    """A recorder in front of `upstream` (a base URL), served as `serve` does; it writes `path`."""
    async with upstream_client() as client:
        recorder = TapeRecorder(path, upstream=upstream, client=client)
        async with serve(recorder, uds=uds, host=host, port=port) as endpoint:
            yield endpoint


def _line(record: Mapping[str, object]) -> str:
    return json.dumps(record, sort_keys=True, ensure_ascii=False)


def _message(response: httpx2.Response) -> Json | None:
    """The message in a response that has been read, or None when it holds none."""
    if response.status_code != httpx2.codes.OK:
        return None
    try:
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            return assemble(httpx2.EventSource(response))
        message = response.json()
    except (ValueError, KeyError, IndexError, httpx2.SSEError):
        return None
    return message if isinstance(message, dict) and message.get("type") == "message" else None
