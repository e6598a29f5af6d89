"""A sandbox for code without an event loop: the same handle through one portal to a loop in a thread."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from gloveport.model import Spec
from gloveport.sandbox.handle import Sandbox
from gloveport.settings import Settings

__all__ = ["BlockingSandbox", "blocking_sandbox"]


class BlockingSandbox:
    """Every method of `Sandbox`, `Sandbox.files` and `Sandbox.git`, waiting for its result; scopes become `with`.

        with blocking_sandbox(Spec(source=Source(repo="."))) as sandbox:
            print(sandbox.exec(["ls"]).text)
            with sandbox.shell() as shell:
                shell.exec("cd src")

    Cancelling is Ctrl-C: the interrupted call is cancelled in the loop, which kills what it started.
    """

    def __init__(self, portal: BlockingPortal, wrapped: Any) -> None:
        self._portal = portal
        self._wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._wrapped, name)
        if inspect.ismethod(value):
            return self._method(value)
        return BlockingSandbox(self._portal, value) if name in ("files", "git") else value

    def _method(self, method: Any) -> Any:
        if inspect.iscoroutinefunction(method):

            def call(*arguments: Any, **named: Any) -> Any:
                return self._portal.call(lambda: method(*arguments, **named))

            return call

        @contextmanager
        def scope(*arguments: Any, **named: Any) -> Iterator[BlockingSandbox]:
            with self._portal.wrap_async_context_manager(method(*arguments, **named)) as entered:
                yield BlockingSandbox(self._portal, entered)

        return scope


@contextmanager
def blocking_sandbox(spec: Spec | None = None, *, settings: Settings | None = None) -> Iterator[BlockingSandbox]:
    """`Sandbox.create` without an event loop."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Sandbox.create(spec, settings=settings)) as sandbox,
    ):
        yield BlockingSandbox(portal, sandbox)
