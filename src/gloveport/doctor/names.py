"""The private network's name server: fixed names, names that change their mind, and a note of who asked for what."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import anyio
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from gloveport.doctor.range import ADDRESSES

__all__ = ["NameServer"]

_AT = ADDRESSES
_NAMES: Mapping[str, Sequence[Sequence[str]]] = MappingProxyType(
    {
        # name: what it is told to whoever asks first, second, and from then on
        "good.test": [[_AT["good"]]],
        "reader.test": [[_AT["good"]]],
        "one-port.test": [[_AT["good"]]],
        "deep.wild.test": [[_AT["good"]]],
        "evil.test": [[_AT["evil"]]],
        "evil6.test": [[_AT["evil6"]]],
        "wild.test": [[_AT["evil"]]],
        "sub.good.test": [[_AT["evil"]]],
        "evilgood.test": [[_AT["evil"]]],
        "good.test.evil.test": [[_AT["evil"]]],
        "to-lan.test": [[_AT["lan"]]],
        "to-lan10.test": [[_AT["lan10"]]],
        "to-shared.test": [[_AT["shared"]]],
        "to-metadata.test": [[_AT["metadata"]]],
        "to-unique6.test": [[_AT["unique6"]]],
        "to-loopback.test": [[_AT["loopback"]]],
        "to-loopback6.test": [[_AT["loopback6"]]],
        "to-mapped6.test": [["::ffff:127.0.0.1"]],
        "to-any.test": [["0.0.0.0"]],  # noqa: S104 - an answer, not an address to listen on
        "to-any6.test": [["::"]],
        "to-both.test": [[_AT["lan"], _AT["good"]]],
        "flips.test": [[_AT["good"]], [_AT["lan"]]],
    }
)


class NameServer:
    """Answers on UDP port 53 of every IPv4 address of this network. Nothing is to be remembered: no time to live."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        """Each name, by how often it was asked for."""

    def forget(self) -> None:
        """Begin anew: names that change their mind have not yet."""
        self.asked.clear()

    async def run(self) -> None:
        """Serve until cancelled."""
        async with await anyio.create_udp_socket(family=socket.AF_INET, local_host="0.0.0.0", local_port=53) as asked:  # noqa: S104
            async for data, (host, port) in asked:
                try:
                    answer = self._answer(dns.message.from_wire(data))
                except dns.exception.DNSException:
                    continue
                await asked.sendto(answer.to_wire(), host, port)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = "A" if question.rdtype == dns.rdatatype.A else "AAAA"
        stages = _NAMES.get(name)
        if stages is None:
            self.asked[name] += kind == "A"
            answer.set_rcode(dns.rcode.NXDOMAIN)
            return answer
        stage = stages[min(self.asked[name], len(stages) - 1)]
        self.asked[name] += kind == "AAAA"  # both kinds are asked for at once, this one second
        addresses = [address for address in stage if (":" in address) == (kind == "AAAA")]
        if addresses and question.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            answer.answer.append(dns.rrset.from_text(question.name, 0, "IN", kind, *addresses))
        return answer
