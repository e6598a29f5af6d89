"""What a spec and its policy come to together: the stricter limit, variables nobody below may change, host paths."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from gloveport.errors import PolicyDenied, Unsupported
from gloveport.model import Bind, Hidden, Limits, Origin, Policy, PolicyLayer, Spec
from gloveport.policy.files.showing import is_within

__all__ = ["check_allowed", "combine", "hide", "hide_copies", "tighten", "writable"]


def combine(spec: Spec) -> Spec:
    """`spec` as its policy lets it be: limits, variables and shown paths of both.

    Raises `PolicyDenied` for what a layer does not leave to those below it.
    """
    layers = spec.policy.layers
    shown: dict[str, None] = {}
    for number, layer in enumerate(layers):
        for path in (layer.files.read_only or ()) if layer.files is not None else ():
            check_allowed(path, layers[:number])
            shown[path] = None
    for path in spec.read_only:
        check_allowed(path, layers)
        shown[path] = None
    return replace(
        spec,
        limits=tighten(spec.limits, spec.policy),
        env=MappingProxyType(_environment(spec.env, spec.policy)),
        read_only=tuple(shown),
    )


def tighten(limits: Limits, policy: Policy) -> Limits:
    """`limits`, none above what a layer names that does not leave them open."""
    changed: dict[str, Any] = {}
    for layer in policy.layers:
        if "limits" in layer.open:
            continue
        for name, most in layer.limits.items():
            asked = changed.get(name, getattr(limits, name))
            bound = int(most) if isinstance(asked, int) else most  # on the wire a layer's limits are all floats
            changed[name] = bound if asked is None else min(asked, bound)
    return replace(limits, **changed)


def _environment(env: Mapping[str, str], policy: Policy) -> dict[str, str]:
    """The variables of every layer and of the spec, its lowest; defaults where none of them says anything."""
    found = {name: value for layer in policy.layers for name, value in layer.defaults.items()}
    closed: dict[str, Origin] = {}
    for layer in (*policy.layers, PolicyLayer(origin=Origin(layer="command line"), environment=env)):
        for name, value in layer.environment.items():
            if name in closed and found[name] != value:
                raise PolicyDenied(
                    f"the variable {name} is set by the policy",
                    hint=f"leave it out, or ask who keeps the policy: {closed[name]}",
                    rule=f"environment.set.{name}: {closed[name]}",
                )
            found[name] = value
            if "environment" not in layer.open:
                closed[name] = layer.origin
    return found


def check_allowed(path: str, layers: Iterable[PolicyLayer]) -> None:
    """Raise `PolicyDenied` when a layer lists which host paths may be shown, and `path` is below none of them.

    `layers` are those above the one that asks for it.
    """
    for layer in layers:
        listed = layer.files.read_only if layer.files is not None else None
        if listed is None or "files" in layer.open:
            continue
        # Both as they resolve: a link below a listed directory may lead anywhere.
        real = os.path.realpath(path)
        if not any(is_within(real, os.path.realpath(place)) for place in listed):
            allowed = ", ".join(listed) or "none"
            raise PolicyDenied(
                f"{path} is not among the host paths that the policy shows ({allowed})",
                hint=f"leave it out, or ask who keeps the policy: {layer.origin}",
                rule=f"files.read_only: {layer.origin}",
                path=path,
            )


def writable(policy: Policy) -> Iterator[str]:
    """The host paths that the guest may write. Raises `PolicyDenied` for one that a layer above does not allow."""
    for number, layer in enumerate(policy.layers):
        for path in layer.files.writable if layer.files is not None else ():
            for above in policy.layers[:number]:
                _check_left(path, above)
            yield path


def _check_left(path: str, above: PolicyLayer) -> None:
    if above.files is None or "files" in above.open:
        return
    real = os.path.realpath(path)
    if not any(is_within(real, os.path.realpath(place)) for place in above.files.writable):
        raise PolicyDenied(
            f"{path} is not among the host paths that the policy lets a sandbox write",
            hint=f"leave it out, or ask who keeps the policy: {above.origin}",
            rule=f"files.writable: {above.origin}",
            path=path,
        )


def hide(policy: Policy, binds: Iterable[Bind], lower: str | None) -> Iterator[Hidden]:
    """What covers the hidden paths wherever a bind shows them. Raises `PolicyDenied` where the workspace would.

    The workspace is the user's own tree, which no mount ever covers.
    """
    shown = list(binds)
    for place, origin in _hidden(policy):
        real = os.path.realpath(place)
        if lower is not None and is_within(real, os.path.realpath(lower)):
            raise PolicyDenied(
                f"the workspace would show {place}, which the policy hides",
                hint="keep it out of the repository's directory, or work on a commit: --commit HEAD",
                rule=f"files.hidden: {origin}",
                path=place,
            )
        for bind in shown:
            source = os.path.realpath(bind.source)
            if is_within(real, source) and os.path.exists(real):
                yield Hidden(bind.target + real[len(source.rstrip("/")) :], is_directory=os.path.isdir(real))


def hide_copies(policy: Policy, copies: Iterable[str]) -> tuple[str, ...]:
    """The copies of `/etc` without the hidden ones. Raises `Unsupported` for a path inside one of them."""
    kept = tuple(copies)
    for place, origin in _hidden(policy):
        kept = tuple(copy for copy in kept if not is_within(copy, place))
        around = next((copy for copy in kept if is_within(place, copy)), None)
        if around is not None:
            raise Unsupported(
                f"{origin}: {around} is copied whole, and {place} cannot be left out of it",
                hint=f"hide {around}",
                capability="files.hidden",
            )
    return kept


def _hidden(policy: Policy) -> Iterator[tuple[str, Origin]]:
    for layer in policy.layers:
        for place in layer.files.hidden if layer.files is not None else ():
            yield place, layer.origin
