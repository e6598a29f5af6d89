"""A scripted model: a Messages API endpoint that says what a script tells it to, for tests and demos.

    model = ScriptedModel.of(
        (Text("I look first."), ToolUse("Bash", {"command": "ls"})),
        (Text("Done."),),
    )
    async with serve(model) as endpoint:
        ...  # point ANTHROPIC_BASE_URL at endpoint.url

The turn to say is chosen by the number of assistant messages in the request and by nothing else, so a client
may retry, resume and fork as it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gloveport.agents.model_api import ApiError
from gloveport.testing.endpoint import Answer, Endpoint, Gate, MessagesApp, estimate_tokens, serve
from gloveport.testing.messages import Json, MessagesRequest, Text, ToolResult, ToolUse

__all__ = [
    "Endpoint",
    "Fail",
    "Gate",
    "Lane",
    "MessagesRequest",
    "Reply",
    "Say",
    "ScriptedModel",
    "Text",
    "ToolResult",
    "ToolUse",
    "Turn",
    "serve",
]

Say = tuple[Text | ToolUse | Gate, ...]
"""What the assistant says in one turn. A `Gate` among the blocks holds the answer until it is opened."""


@dataclass(frozen=True, slots=True)
class Fail:
    """A turn that the API refuses, each time it is asked for."""

    status: int
    type: str
    message: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A turn made from its request, for a script that must quote what a tool returned."""

    make: Callable[[MessagesRequest], Say]


Turn = Say | Fail | Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """The script of one conversation."""

    turns: Sequence[Turn]
    name: str = "main"
    match: str = ""
    """Text that the conversation's first user message contains; the empty text is in all of them."""


class ScriptedModel(MessagesApp):
    """Plays scripts. A conversation follows the first lane that matches it.

    A conversation that no lane matches, and a turn past its lane's end, are answered with a 400 that says so.
    """

    def __init__(self, lanes: Sequence[Lane]) -> None:
        super().__init__()
        self._lanes = tuple(lanes)

    @classmethod
    def of(cls, *turns: Turn) -> ScriptedModel:
        """A model with one script for every conversation."""
        return cls([Lane(turns=turns)])

    def answer(self, request: MessagesRequest) -> Answer | ApiError:
        """The turn that the script has for `request`."""
        opening = request.first_user_text
        number, lane = next(((n, lane) for n, lane in enumerate(self._lanes) if lane.match in opening), (0, None))
        if lane is None:
            names = ", ".join(lane.name for lane in self._lanes)
            return _off_script(f"no lane matches the conversation that opens with {opening[:80]!r} (lanes: {names})")
        if request.turn >= len(lane.turns):
            return _off_script(f"lane {lane.name!r} has no turn {request.turn}: its {len(lane.turns)} turns are over")
        turn = lane.turns[request.turn]
        if isinstance(turn, Fail):
            return ApiError(turn.status, turn.type, turn.message)
        said = _made(turn, request) if isinstance(turn, Reply) else turn
        if isinstance(said, ApiError):
            return said
        return _answer(request, said, key=f"{number}_{request.turn}")


def _made(turn: Reply, request: MessagesRequest) -> Say | ApiError:
    try:
        return turn.make(request)
    except Exception as error:  # noqa: BLE001 - a script's own code; a 500 would be retried for minutes
        return _off_script(f"the script's reply raised {error!r}")


def _off_script(message: str) -> ApiError:
    return ApiError(400, "invalid_request_error", f"scripted model: {message}")


def _answer(request: MessagesRequest, said: Say, *, key: str) -> Answer:
    """The message that says `said`. Its ids are made from `key`: the same request gets the same bytes."""
    content: list[Json] = []
    gates: dict[int, tuple[Gate, ...]] = {}
    for item in said:
        if isinstance(item, Gate):
            gates[len(content)] = (*gates.get(len(content), ()), item)
        else:
            content.append(_block(item, id=f"toolu_script_{key}_{len(content)}"))
    uses_tool = any(block["type"] == "tool_use" for block in content)
    message: Json = {
        "id": f"msg_script_{key}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": content,
        "stop_reason": "tool_use" if uses_tool else "end_turn",
        "stop_sequence": None,
        "usage": _usage(request.body, content),
    }
    return Answer(message=message, gates=gates)


def _block(item: Text | ToolUse, *, id: str) -> Json:  # noqa: A002 - the API's word
    if isinstance(item, Text):
        return {"type": "text", "text": item.text}
    return {"type": "tool_use", "id": id, "name": item.name, "input": dict(item.input)}


def _usage(body: Mapping[str, object], content: list[Json]) -> Json:
    return {"input_tokens": estimate_tokens(body), "output_tokens": estimate_tokens(content)}
