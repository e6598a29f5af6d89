"""Tools to test with: a scripted model, and a tape that records a real one and plays it back."""

from gloveport.testing.scripted import (
    Endpoint,
    Fail,
    Gate,
    Lane,
    MessagesRequest,
    Reply,
    ScriptedModel,
    Text,
    ToolUse,
    serve,
)
from gloveport.testing.tape import Tape, TapePlayer, TapeRecorder, record_tape

__all__ = [
    "Endpoint",
    "Fail",
    "Gate",
    "Lane",
    "MessagesRequest",
    "Reply",
    "ScriptedModel",
    "Tape",
    "TapePlayer",
    "TapeRecorder",
    "Text",
    "ToolUse",
    "record_tape",
    "serve",
]
