"""What the model asked of a tool, word for word, in the place of what the command line made of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import StringIO
from typing import Any

from gloveport.agents.bounds import Breach
from gloveport.agents.guard import SKILL_TOOL
from gloveport.model import MIB

__all__ = ["Verbatim"]

_MOST_CHARACTERS = 16 * MIB
_CALL = 1024
"""Weight of a call beside the characters of its input."""


class Verbatim:
    r"""Follows the command line's messages, and puts back the model's own inputs of tool calls.

    The command line edits inputs as suits its own tools of the same names on its own files: it drops `cd <its working
    directory> && ` from a command, white space at the ends of written lines, and decodes `\u00e9` in any input. But it
    also streams the model's answer as it came. An input that was not streamed, or is no JSON object, is left as it is,
    and so is that of the command line's own tool.
    """

    def __init__(self) -> None:
        self._inputs: dict[str, StringIO] = {}
        """Call → its input as JSON, of the last answer alone: its calls are over when the next one begins."""
        self._blocks: dict[int, StringIO] = {}
        self._weight = 0

    def restore(self, message: dict[str, Any]) -> None:
        """Take in one message; where it tells of a tool call, or makes one, the input becomes the model's own.

        `Breach` when the calls of one answer are beyond 16 Mi characters.
        """
        match message:
            case {"type": "stream_event", "event": dict() as event}:
                self._follow(event)
            case {"type": "assistant", "message": {"content": list() as blocks}}:
                for block in blocks:
                    if isinstance(block, dict):
                        self._restore_block(block)
            case {"type": "control_request", "request": {"subtype": "mcp_message", "message": dict() as asked}}:
                self._restore_call(asked)

    def _follow(self, event: Mapping[str, Any]) -> None:
        match event:
            case {"type": "message_start"}:
                self._inputs, self._blocks, self._weight = {}, {}, 0
            case {
                "type": "content_block_start",
                "index": int() as index,
                "content_block": {"type": "tool_use", "id": str() as call, "name": str() as name},
            } if name != SKILL_TOOL:
                self._weigh(_CALL + len(call))
                self._blocks[index] = self._inputs[call] = StringIO()
            case {
                "type": "content_block_delta",
                "index": int() as index,
                "delta": {"type": "input_json_delta", "partial_json": str() as piece},
            } if index in self._blocks:
                self._weigh(len(piece))
                self._blocks[index].write(piece)

    def _restore_block(self, block: dict[str, Any]) -> None:
        match block:
            case {"type": "tool_use", "id": str() as call, "input": told}:
                block["input"] = self._input(call, told)

    def _restore_call(self, asked: dict[str, Any]) -> None:
        match asked:
            case {
                "method": "tools/call",
                "params": {"arguments": arguments, "_meta": {"claudecode/toolUseId": str() as call}},
            }:
                asked["params"]["arguments"] = self._input(call, arguments)

    def _input(self, call: str, otherwise: object) -> object:
        streamed = self._inputs.get(call)
        if streamed is None:
            return otherwise
        try:
            own = json.loads(streamed.getvalue())
        except (ValueError, RecursionError):
            return otherwise
        return own if isinstance(own, dict) else otherwise

    def _weigh(self, characters: int) -> None:
        self._weight += characters
        if self._weight > _MOST_CHARACTERS:
            raise Breach(f"streamed tool calls beyond {_MOST_CHARACTERS // MIB} Mi characters in one answer")
