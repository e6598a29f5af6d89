"""From what a person names to one policy: files and templates, under the organisation's own file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from gloveport.errors import PolicyDenied
from gloveport.model import MIB, Policy, PolicyLayer
from gloveport.policy.reading.asking import Machine, this_machine
from gloveport.policy.reading.document import Document, read_document
from gloveport.policy.reading.groups import survey_groups
from gloveport.policy.reading.layers import compile_layer, merge_layers
from gloveport.policy.reading.templates import read_template

__all__ = ["ORGANISATION", "is_template", "load_policy"]

ORGANISATION: Final = Path("/etc/gloveport/policy.toml")
"""The highest layer, where it exists: whoever administers the machine writes it."""


def load_policy(
    names: Sequence[str],
    *,
    machine: Machine | None = None,
    organisation: Path = ORGANISATION,
    command_line: PolicyLayer | None = None,
) -> Policy:
    """One policy: the organisation's layer, one layer a name in the order given, and the command line's.

    The organisation's layer is left out only where its file is not there; one that cannot be read is refused.

    A name without a dot and a slash is a template's; any other is a file's.

    `machine` (this one unless given) is asked for its groups of hosts only when a file names one. Raises `NotFound`,
    `InvalidRequest` that lists every mistake of the first file that has any, or `PolicyDenied` when the command line
    asks for more than the layers above allow.
    """
    documents = [] if _is_absent(organisation) else [("organisation", read_document(organisation))]
    documents += [("project", _read(name)) for name in names]
    wanted = {host for _, document in documents for host in _hosts(document) if host.startswith("@")}
    found = survey_groups(machine or this_machine(), names=wanted) if wanted else ()
    groups, defaults = {each.name: each.hosts for each in found}, {each.name: each.variables for each in found}
    layers = [compile_layer(document, layer, groups=groups, defaults=defaults) for layer, document in documents]
    if command_line is None:
        return merge_layers(layers)
    policy = merge_layers([*layers, command_line])
    _check_asked(command_line, policy)
    return policy if layers else Policy(limits=policy.limits)


def is_template(name: str) -> bool:
    """Whether a name is a template's, and not a file's."""
    return "." not in name and "/" not in name


def _is_absent(path: Path) -> bool:
    """Whether nobody put anything there. What leads nowhere, or cannot be looked at, somebody did."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return os.path.exists(path.parent) or not os.path.islink(path.parent)
    except OSError:
        return False
    return False


def _read(name: str) -> Document:
    return read_template(name) if is_template(name) else read_document(Path(name))


def _check_asked(command_line: PolicyLayer, policy: Policy) -> None:
    """Somebody is there to be told, so that more than there can be is refused and not cut down."""
    for name, value in command_line.limits.items():
        most = getattr(policy.limits, name)
        if most < value:
            closed = [layer for layer in policy.layers if layer.limits.get(name) == most]
            raise PolicyDenied(
                f"the policy limits {name} to {_spell(name, most)}, and {_spell(name, value)} is asked",
                hint=f"ask for less, or ask who keeps the policy: {closed[0].origin}",
                rule=f"limits.{name}: {closed[0].origin}",
            )


def _spell(name: str, value: float) -> str:
    return f"{value / MIB:g} MiB" if name.endswith("_bytes") else f"{value:g}"


def _hosts(document: Document) -> Iterator[str]:
    egress = document.body.egress
    if egress is not None:
        for rules in (egress.allow, egress.ask, egress.deny):
            yield from (rule.host for rule in rules)
