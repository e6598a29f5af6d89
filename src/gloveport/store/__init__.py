"""What is kept on disk: directories and their owners, trails of events, and redaction on the way in."""

from gloveport.store.copying import copy_exactly, dress_like
from gloveport.store.draft import Draft
from gloveport.store.files import cannot_write, whole_file
from gloveport.store.identity import FIRST_UID, LAYER_OWNER
from gloveport.store.layers import ReadLayer, glance, read_layer
from gloveport.store.layout import DirectoryLock, claim, make_private, remove_tree, try_claim
from gloveport.store.redact import MASK, Redactor
from gloveport.store.saved_file import Part, SavedFile, read_file, write_file
from gloveport.store.snapshots import Snapshots
from gloveport.store.trail import GENESIS, Trail, read_trail, verify_trail

__all__ = [
    "FIRST_UID",
    "GENESIS",
    "LAYER_OWNER",
    "MASK",
    "DirectoryLock",
    "Draft",
    "Part",
    "ReadLayer",
    "Redactor",
    "SavedFile",
    "Snapshots",
    "Trail",
    "cannot_write",
    "claim",
    "copy_exactly",
    "dress_like",
    "glance",
    "make_private",
    "read_file",
    "read_layer",
    "read_trail",
    "remove_tree",
    "try_claim",
    "verify_trail",
    "whole_file",
    "write_file",
]
