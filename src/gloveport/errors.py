"""Every failure the platform itself can report, one tree with one table of statuses.

    GloveportError
    ├── InvalidRequest       the request cannot mean anything; change it
    ├── Unauthenticated      who are you?
    ├── PermissionDenied     this principal may not
    ├── PolicyDenied         the policy of this sandbox says no
    ├── NotFound             no such sandbox, run, file, commit …
    ├── Conflict             the thing is in a state that forbids this
    ├── LimitExceeded        a limit or a quota is used up
    ├── Unsupported          this backend, on this host, cannot do or enforce that
    ├── BackendUnavailable   the backend or the runner does not answer
    ├── TimedOut             the platform's own deadline passed
    └── Internal             a defect of Gloveport

A command's non-zero exit is a result, never one of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

__all__ = [
    "STATUSES",
    "BackendUnavailable",
    "Conflict",
    "GloveportError",
    "Internal",
    "InvalidRequest",
    "LimitExceeded",
    "NotFound",
    "PermissionDenied",
    "PolicyDenied",
    "Status",
    "TimedOut",
    "Unauthenticated",
    "Unsupported",
    "error_from_body",
]


class Status(NamedTuple):
    """How one error code appears over HTTP and as a process's exit status."""

    http: int
    exit: int


class GloveportError(Exception):
    """The root of the tree.

    `message` says what happened, `hint` what to do next, `context` holds typed facts (JSON values) for programs,
    `retryable` whether the same request may succeed later without a change.
    """

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, /, *, hint: str, **context: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.context: dict[str, Any] = context

    def __str__(self) -> str:
        return self.message

    @property
    def status(self) -> Status:
        """HTTP and exit status of this error's code."""
        return STATUSES[self.code]

    def body(self) -> dict[str, Any]:
        """The error as JSON: the same shape over HTTP, MCP, the runner's socket and `--json`."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "retryable": self.retryable,
            "context": self.context,
        }


class InvalidRequest(GloveportError):
    """The request cannot mean anything as it stands."""

    code = "invalid_request"


class Unauthenticated(GloveportError):
    """No valid credential came with the request."""

    code = "unauthenticated"


class PermissionDenied(GloveportError):
    """The principal is known and may not do this."""

    code = "permission_denied"


class PolicyDenied(GloveportError):
    """A rule of the sandbox's policy refuses the operation; `context["rule"]` names it."""

    code = "policy_denied"


class NotFound(GloveportError):
    """The named thing does not exist (any more)."""

    code = "not_found"


class Conflict(GloveportError):
    """The thing exists, in a state that forbids the operation."""

    code = "conflict"


class LimitExceeded(GloveportError):
    """A limit of the sandbox or a quota of the principal is used up; `context["limit"]` names it."""

    code = "limit_exceeded"


class Unsupported(GloveportError):
    """The backend cannot do, or cannot enforce, what was asked. Raised before anything is made."""

    code = "unsupported"


class BackendUnavailable(GloveportError):
    """The technology behind the sandbox, or the runner, is missing, broken or gone."""

    code = "backend_unavailable"
    retryable = True


class TimedOut(GloveportError):
    """The platform's own deadline passed (a command that runs out of time is a result instead)."""

    code = "timeout"
    retryable = True


class Internal(GloveportError):
    """A defect of Gloveport itself: please report it."""

    code = "internal"


# Exit statuses follow sysexits(3) where it has a word for the thing (69 unavailable, 70 software, 75 temporary
# failure, 77 permission, 78 configuration); the small ones are free of meaning to shells.
STATUSES: Mapping[str, Status] = {
    "invalid_request": Status(400, 2),
    "unauthenticated": Status(401, 77),
    "permission_denied": Status(403, 77),
    "policy_denied": Status(403, 78),
    "not_found": Status(404, 4),
    "conflict": Status(409, 5),
    "limit_exceeded": Status(413, 6),
    "unsupported": Status(501, 7),
    "backend_unavailable": Status(503, 69),
    "timeout": Status(504, 75),
    "internal": Status(500, 70),
}

_CLASSES: Mapping[str, type[GloveportError]] = {
    cls.code: cls
    for cls in (
        InvalidRequest,
        Unauthenticated,
        PermissionDenied,
        PolicyDenied,
        NotFound,
        Conflict,
        LimitExceeded,
        Unsupported,
        BackendUnavailable,
        TimedOut,
        Internal,
    )
}


def error_from_body(body: Mapping[str, Any]) -> GloveportError:
    """The error a peer sent as `GloveportError.body`; an unknown code becomes `Internal`."""
    cls = _CLASSES.get(str(body.get("code")), Internal)
    error = cls(str(body.get("message", "")), hint=str(body.get("hint", "")))
    context = body.get("context")
    if isinstance(context, Mapping):
        error.context.update(context)
    return error
