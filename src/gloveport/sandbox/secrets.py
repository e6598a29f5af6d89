"""Finds the secrets of a policy on the host: in its environment, files, keyring, or from a command."""

from __future__ import annotations

import os
import re
import secrets
import signal
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from subprocess import DEVNULL, PIPE

import anyio
import anyio.to_thread

from gloveport.egress import AwsKey, BoundSecret, is_signing_installed, load_signing
from gloveport.errors import BackendUnavailable, GloveportError, InvalidRequest, NotFound, TimedOut, Unsupported
from gloveport.model import SecretBinding

__all__ = ["bind_secrets", "check_bindings", "make_placeholders"]

SHORTEST = 8
"""Bytes: what is shorter would be found in ordinary text, and masked there."""
LONGEST = 64 * 1024
_SECONDS = 60.0
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_KINDS = ("header", "basic", "query", "sigv4")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OTHERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade", "accept-encoding", "te"})
"""Headers that are the proxy's own."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SCOPE = re.compile(r"[a-z0-9-]+ [a-z0-9-]+")
_AWS_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def check_bindings(bindings: Iterable[SecretBinding]) -> None:
    """Raise for bindings that cannot be kept: `InvalidRequest`, or `Unsupported` without what signs for AWS."""
    places: dict[tuple[str, str], str] = {}
    names: set[str] = set()
    variables: dict[str, str] = {}
    for binding in bindings:
        _check_one(binding)
        if binding.name in names:
            raise _wrong(binding, "another layer of the policy binds a secret of this name", "give it another name")
        names.add(binding.name)
        # Keys of AWS share theirs, as a client has one key for all services; each host has one key all the same.
        holder = "" if binding.injection.kind == "sigv4" else binding.name
        for variable in _variables(binding):
            if variables.setdefault(variable, holder) != holder:
                raise _wrong(binding, f"{variable} is the variable of another secret", "name another variable")
        for host in binding.hosts:
            other = places.setdefault((host, _place(binding)), binding.name)
            if other != binding.name:
                raise _wrong(binding, f"{other} goes to the same place of requests to {host}", "leave one of them out")


def make_placeholders(bindings: Iterable[SecretBinding]) -> dict[str, str]:
    """For the variables of one sandbox: variable → what stands there for the secret, good for nothing elsewhere."""
    made: dict[str, str] = {}
    for binding in bindings:
        placeholder = f"gloveport-secret-{binding.name.lower()}-{secrets.token_hex(16)}"
        for variable in _variables(binding):
            made.setdefault(variable, placeholder)
    return made


async def bind_secrets(bindings: Iterable[SecretBinding], env: Mapping[str, str]) -> tuple[BoundSecret, ...]:
    """The secrets themselves, with the placeholders that `env`, the guest's, holds.

    Raises as `check_bindings`; `NotFound` where a source has nothing, `InvalidRequest` for a value that cannot be
    sent or masked: shorter than 8 bytes, longer than 64 KiB, with control characters, or no key of AWS where one is
    to sign. No message holds a value.
    """
    asked = tuple(bindings)
    check_bindings(asked)
    found = []
    for binding in asked:
        value = await _find(binding)
        _check_value(binding, value)
        if binding.injection.kind == "sigv4":
            await anyio.to_thread.run_sync(load_signing)
        placeholder = next((env[variable] for variable in _variables(binding) if variable in env), None)
        found.append(
            BoundSecret(
                name=binding.name,
                value=value,
                hosts=frozenset(binding.hosts),
                kind=binding.injection.kind,
                target=binding.injection.name,
                template=binding.injection.value,
                placeholder=placeholder or None,
            )
        )
    return tuple(found)


def _check_one(binding: SecretBinding) -> None:
    injection = binding.injection
    if injection.kind not in _KINDS:
        raise _wrong(binding, f"no way to send it is called {injection.kind!r}", f"one of: {', '.join(_KINDS)}")
    if injection.kind == "sigv4":
        _check_signing(binding)
    if injection.kind == "header":
        if not _HEADER.fullmatch(injection.name) or injection.name.lower() in _OTHERS:
            raise _wrong(binding, f"no header for a secret: {injection.name!r}", "for example Authorization")
        if "{secret}" not in injection.value or _CONTROL.search(injection.value) or not injection.value.isascii():
            raise _wrong(binding, "its value does not say where the secret goes", 'for example "Bearer {secret}"')
    if injection.kind == "basic" and (":" in injection.name or _CONTROL.search(injection.name)):
        raise _wrong(binding, "a user's name of Basic credentials has no colon", "write the name alone")
    if injection.kind == "query" and not injection.name:
        raise _wrong(binding, "the query parameter has no name", "name it")
    if binding.variable is not None and not _VARIABLE.fullmatch(binding.variable):
        raise _wrong(binding, f"not the name of a variable: {binding.variable!r}", "for example API_TOKEN")


def _check_signing(binding: SecretBinding) -> None:
    if not _SCOPE.fullmatch(binding.injection.name):
        raise _wrong(
            binding, f"not a service and a region of AWS: {binding.injection.name!r}", 'for example "s3 eu-central-1"'
        )
    if binding.variable is not None:
        raise _wrong(binding, f"clients of AWS read {' and '.join(_AWS_VARIABLES)} alone", "leave `variable` out")
    if not is_signing_installed():
        raise Unsupported(
            f"the secret {binding.name}: what signs requests for AWS is not installed ({binding.origin})",
            hint="pip install 'gloveport[aws]'",
            capability="secrets.sigv4",
        )


def _variables(binding: SecretBinding) -> tuple[str, ...]:
    """The guest's, that hold the placeholder."""
    if binding.injection.kind == "sigv4":
        return _AWS_VARIABLES
    return () if binding.variable is None else (binding.variable,)


def _place(binding: SecretBinding) -> str:
    """Where in a request it goes; two secrets cannot go to one place."""
    injection = binding.injection
    if injection.kind == "query":
        return f"?{injection.name}"
    return "authorization" if injection.kind in ("basic", "sigv4") else injection.name.lower()


def _check_value(binding: SecretBinding, value: str) -> None:
    size = len(value.encode("utf-8", "surrogateescape"))
    if not value:
        raise _wrong(binding, "its source is empty", "put the secret there")
    if _CONTROL.search(value) or value != value.strip():
        raise _wrong(
            binding, "its value has a line end, a NUL or another control character, or blanks around it", "take it out"
        )
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise _wrong(binding, "its value is not UTF-8", "check what its source holds")
    if size < SHORTEST:
        raise _wrong(binding, f"its value is shorter than {SHORTEST} bytes: anybody guesses it", "use a longer one")
    if size > LONGEST:
        raise _wrong(binding, f"its value is longer than {LONGEST} bytes", "check what its source holds")
    if binding.injection.kind == "sigv4":
        try:
            AwsKey.parse(value)
        except ValueError as error:
            raise _wrong(binding, f"its value is {error}", "check what its source holds") from None


async def _find(binding: SecretBinding) -> str:
    source = binding.source
    given = [part for part in (source.env, source.file, source.command, source.keyring) if part is not None]
    if len(given) != 1:
        raise _wrong(binding, "it has no source, or several", "name one of env, file, command and keyring")
    if source.env is not None:
        value = os.environ.get(source.env)
        if value is None:
            raise NotFound(
                f"the secret {binding.name}: this host has no variable {source.env}",
                hint="set it where sandboxes are held; a runner takes over only variables that begin with GLOVEPORT_",
            )
        return value
    if source.file is not None:
        return _last_line_end(_read(binding, source.file))
    if source.command is not None:
        return _last_line_end(await _ask(binding, source.command))
    return _last_line_end(await _ask(binding, _keyring(binding, source.keyring or "")))


def _keyring(binding: SecretBinding, entry: str) -> tuple[str, ...]:
    """`service/user`, as most programs store it; asked of libsecret's own tool."""
    service, slash, user = entry.rpartition("/")
    if not slash or not service or not user:
        raise _wrong(binding, f"not an entry of a keyring: {entry!r}", "write it as service/user")
    return "secret-tool", "lookup", "service", service, "username", user


def _read(binding: SecretBinding, path: str) -> bytes:
    try:
        descriptor = os.open(os.path.expanduser(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _wrong(binding, f"{path} is not a file", "name the file that holds it")
            return file.read(LONGEST + 2)
    except OSError as error:
        raise NotFound(f"the secret {binding.name}: cannot read {path}: {error.strerror}", hint="check it") from error


async def _ask(binding: SecretBinding, command: tuple[str, ...]) -> bytes:
    """What a command of the operator's says. What it complains about is not shown: it may hold the secret."""
    if not command:
        raise _wrong(binding, "its command is empty", "name a program")
    try:
        process = await anyio.open_process(
            command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, cwd="/", start_new_session=True
        )
    except OSError as error:
        raise NotFound(
            f"the secret {binding.name}: cannot run {command[0]}: {error.strerror}",
            hint="install it, or check its name",
        ) from error
    said = b""
    try:
        with anyio.fail_after(_SECONDS):
            if process.stdout is None:
                raise AssertionError  # it is a pipe
            async for part in process.stdout:
                said += part
                if len(said) > LONGEST + 2:
                    break
            else:
                await process.wait()
    except TimeoutError:
        raise TimedOut(
            f"the secret {binding.name}: {command[0]} took longer than {_SECONDS:g} s",
            hint="run it yourself to see why",
        ) from None
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            await process.aclose()
    if process.returncode and len(said) <= LONGEST:
        raise BackendUnavailable(
            f"the secret {binding.name}: {command[0]} ended with status {process.returncode}",
            hint="run it yourself to see why",
        )
    return said


def _last_line_end(data: bytes) -> str:
    """Files and commands end their one line; what else there is of line ends is part of the value."""
    text = data.decode("utf-8", "surrogateescape")
    return text.removesuffix("\n").removesuffix("\r")


def _wrong(binding: SecretBinding, what: str, hint: str) -> GloveportError:
    return InvalidRequest(f"the secret {binding.name}: {what} ({binding.origin})", hint=hint, secret=binding.name)
