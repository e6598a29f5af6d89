"""The vocabulary: frozen standard-library dataclasses that every layer shares."""

from gloveport.model.event import AUDITED, Event, EventKind
from gloveport.model.files import Change, ChangeKind, FileStat, FileType, Grep, Match, WatchEvent
from gloveport.model.ids import new_id, new_trace, resolve_id
from gloveport.model.plan import (
    Assembled,
    Bind,
    DevMount,
    Link,
    MountOperation,
    Overlay,
    Plan,
    ProcMount,
    Tmpfs,
)
from gloveport.model.probe import Capability, Enforcement, Finding, Isolation, Probe
from gloveport.model.process import MOST_ARGUMENTS, Chunk, ExecRequest, ExecResult, Exit, OutputStream, TerminalSize
from gloveport.model.run import EndReason, RunState, RunSummary, Task, Usage
from gloveport.model.session import (
    SessionEnd,
    SessionEnded,
    SessionEvent,
    ToolCalled,
    ToolReturned,
    TurnTaken,
)
from gloveport.model.spec import GIB, KIB, MIB, WORKSPACE, Limits, Source, Spec
from gloveport.model.status import Ref, SandboxState, SandboxStatus

__all__ = [
    "AUDITED",
    "GIB",
    "KIB",
    "MIB",
    "MOST_ARGUMENTS",
    "WORKSPACE",
    "Assembled",
    "Bind",
    "Capability",
    "Change",
    "ChangeKind",
    "Chunk",
    "DevMount",
    "EndReason",
    "Enforcement",
    "Event",
    "EventKind",
    "ExecRequest",
    "ExecResult",
    "Exit",
    "FileStat",
    "FileType",
    "Finding",
    "Grep",
    "Isolation",
    "Limits",
    "Link",
    "Match",
    "MountOperation",
    "OutputStream",
    "Overlay",
    "Plan",
    "Probe",
    "ProcMount",
    "Ref",
    "RunState",
    "RunSummary",
    "SandboxState",
    "SandboxStatus",
    "SessionEnd",
    "SessionEnded",
    "SessionEvent",
    "Source",
    "Spec",
    "Task",
    "TerminalSize",
    "Tmpfs",
    "ToolCalled",
    "ToolReturned",
    "TurnTaken",
    "Usage",
    "WatchEvent",
    "new_id",
    "new_trace",
    "resolve_id",
]
