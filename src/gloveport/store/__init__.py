"""What is kept on disk: directories and their owners, trails of events, and redaction on the way in."""

from gloveport.store.files import cannot_write, whole_file
from gloveport.store.layout import DirectoryLock, claim, make_private, remove_tree, try_claim
from gloveport.store.redact import MASK, Redactor
from gloveport.store.trail import GENESIS, Trail, read_trail, verify_trail

__all__ = [
    "GENESIS",
    "MASK",
    "DirectoryLock",
    "Redactor",
    "Trail",
    "cannot_write",
    "claim",
    "make_private",
    "read_trail",
    "remove_tree",
    "try_claim",
    "verify_trail",
    "whole_file",
]
