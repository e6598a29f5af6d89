"""Plays a tape in the model's place: the recorded answer to each request that is the recorded one, and to no other."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx2

from gloveport.agents.model_tape import Part, Tape, TapedExchange, parts_of

__all__ = ["Miss", "TapeTransport"]

_READABLE = 1
_JSON = {"content-type": "application/json"}
_SENT_ANEW = frozenset({"content-length"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """A request that is not on the tape."""

    exchange: int
    """The number of the recorded exchange that was due; that of all of them where none was left."""
    place: str
    """The first part that differs; empty where nothing was due."""
    recorded: str
    """That part as it was recorded, made readable; empty where it has none."""
    asked: str

    @property
    def reason(self) -> str:
        """In a few words."""
        if not self.place:
            return f"the recording ends after {self.exchange} exchanges with the model, and the agent asked for more"
        return f"exchange {self.exchange} with the model is not on the tape: {self.place} is another"


class TapeTransport(httpx2.AsyncBaseTransport):
    """The transport of a model proxy's client whose upstream is a tape.

    The first `count` exchanges are served (all of them unless given), each once. With `live`, what comes after them
    is sent by it, to `live_model` in the place of the model that the session asks for; without, it is a miss. A miss is
    answered with status 400: nothing else is ever asked.
    """

    def __init__(
        self,
        tape: Tape,
        *,
        count: int | None = None,
        live: httpx2.AsyncClient | None = None,
        live_model: str | None = None,
        because: Callable[[], str] = str,
    ) -> None:
        """`because` adds to what is said of a miss."""
        self._tape = tape
        self._because = because
        self._left = list(tape.exchanges if count is None else tape.exchanges[:count])
        self._live = live
        self._live_model = live_model
        self.misses: list[Miss] = []
        """Requests that were not on the tape, in order."""
        self.served = 0

    @property
    def left(self) -> Sequence[TapedExchange]:
        """Exchanges that nobody has asked for yet."""
        return tuple(self._left)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Serve the recorded answer, where there is one."""
        document = json.loads(await request.aread())
        parts = parts_of(document)
        taped = self._take(request.url, parts)
        if taped is not None:
            self.served += 1
            return httpx2.Response(
                taped.status,
                headers=dict(taped.headers),
                stream=_Answer(taped.answer, is_whole=taped.is_whole),
                request=request,
            )
        if self._live is not None and not self._left and not self.misses:
            return await self._live.send(self._readdressed(request, document), stream=True)
        miss = self._miss(parts)
        self.misses.append(miss)
        error = {"type": "error", "error": {"type": "invalid_request_error", "message": miss.reason + self._because()}}
        stream = _Answer(json.dumps(error).encode(), is_whole=True)
        return httpx2.Response(HTTPStatus.BAD_REQUEST, headers=_JSON, stream=stream, request=request)

    def _take(self, url: httpx2.URL, parts: Sequence[Part]) -> TapedExchange | None:
        asked = [(part.place, part.digest) for part in parts]
        query = url.query.decode("ascii")
        for place, taped in enumerate(self._left):
            if taped.parts == asked and taped.query == query and url.path.endswith(taped.path):
                return self._left.pop(place)
        return None

    def _miss(self, parts: Sequence[Part]) -> Miss:
        if not self._left:
            return Miss(exchange=len(self._tape.exchanges), place="", recorded="", asked="")
        due = self._left[0]
        recorded, asked = dict(due.parts), {part.place: part for part in parts}
        for place in dict.fromkeys((*recorded, *asked)):
            now = asked.get(place)
            if now is None or now.digest != recorded.get(place):
                then = self._tape.texts.get(recorded.get(place, ""), "")
                return Miss(
                    exchange=due.number, place=place, recorded=_readable(then), asked=_readable(now.text if now else "")
                )
        return Miss(exchange=due.number, place="the request's address", recorded="", asked="")

    def _readdressed(self, request: httpx2.Request, document: Mapping[str, Any]) -> httpx2.Request:
        if self._live_model is None:
            return request
        headers = [(name, value) for name, value in request.headers.multi_items() if name not in _SENT_ANEW]
        content = json.dumps({**document, "model": self._live_model}, ensure_ascii=False, separators=(",", ":"))
        return httpx2.Request(
            request.method, request.url, headers=headers, content=content.encode(), extensions=request.extensions
        )


class _Answer(httpx2.AsyncByteStream):
    """A recorded answer; one that broke off when it was recorded breaks off again."""

    def __init__(self, content: bytes, *, is_whole: bool) -> None:
        self._content = content
        self._is_whole = is_whole

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content
        if not self._is_whole:
            raise httpx2.ReadError("the recorded answer broke off here")


def _readable(text: str) -> str:
    """A part's JSON with a line for each value, and the lines of its texts as lines."""
    if not text:
        return ""
    return json.dumps(json.loads(text), ensure_ascii=False, indent=_READABLE).replace("\\n", "\n")
