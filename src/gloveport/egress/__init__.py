"""The egress proxy: the only way out of a sandbox, where every connection is decided, bounded and recorded."""

from gloveport.egress.gate import Gate, OddHost
from gloveport.egress.inject import BoundSecret, Injector, spellings
from gloveport.egress.inspection import Inspection, Termination
from gloveport.egress.parent import ParentProxy
from gloveport.egress.proxy import serve_egress
from gloveport.egress.record import Answer, Budget, Destination, EgressRecord, Judge
from gloveport.egress.resolve import Resolver
from gloveport.egress.sigv4 import AwsKey, is_signing_installed, load_signing
from gloveport.egress.tape import EgressPlayer, EgressTape, TapeOfEgress

__all__ = [
    "Answer",
    "AwsKey",
    "BoundSecret",
    "Budget",
    "Destination",
    "EgressPlayer",
    "EgressRecord",
    "EgressTape",
    "Gate",
    "Injector",
    "Inspection",
    "Judge",
    "OddHost",
    "ParentProxy",
    "Resolver",
    "TapeOfEgress",
    "Termination",
    "is_signing_installed",
    "load_signing",
    "serve_egress",
    "spellings",
]
