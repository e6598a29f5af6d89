"""The egress proxy: the only way out of a sandbox, where every connection is decided, bounded and recorded."""

from gloveport.egress.dial import resolve
from gloveport.egress.gate import Gate, OddHost
from gloveport.egress.inject import BoundSecret, Injector, spellings
from gloveport.egress.inspection import Inspection, Termination
from gloveport.egress.proxy import serve_egress
from gloveport.egress.record import Answer, Budget, Destination, EgressRecord, Judge

__all__ = [
    "Answer",
    "BoundSecret",
    "Budget",
    "Destination",
    "EgressRecord",
    "Gate",
    "Injector",
    "Inspection",
    "Judge",
    "OddHost",
    "Termination",
    "resolve",
    "serve_egress",
    "spellings",
]
