"""Files that are written whole or not at all, and what it means when they cannot be."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from gloveport.errors import BackendUnavailable, GloveportError, LimitExceeded

__all__ = ["cannot_write", "whole_file"]

_USED_UP = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """An open file that replaces `path` when the block ends well, and is gone when it does not.

    An `OSError` of the block becomes `LimitExceeded` where space is used up, otherwise `BackendUnavailable`.
    """
    scratch = path.with_name(f".gloveport-{secrets.token_hex(8)}")  # nobody else's, and no link of anybody's
    try:
        with scratch.open("xb") as file:
            yield file
        scratch.rename(path)
    except BaseException as error:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


def cannot_write(path: Path, error: OSError) -> GloveportError:
    """The failure to write `path`: `LimitExceeded` where space or a quota is used up, else `BackendUnavailable`."""
    if error.errno in _USED_UP:
        return LimitExceeded(f"no space for {path}: {error.strerror}", hint="free disk space", limit="disk")
    return BackendUnavailable(f"cannot write {path}: {error.strerror}", hint="check the disk that holds it")
