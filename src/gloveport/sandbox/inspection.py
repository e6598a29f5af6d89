"""What the egress proxies of one installation need to look into TLS: authority, trust, and each sandbox's secrets."""

from __future__ import annotations

import importlib
import os
import secrets
import ssl
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio.to_thread

from gloveport.egress import Injector, Inspection, Termination, spellings
from gloveport.errors import InvalidRequest
from gloveport.model import Plan, Policy
from gloveport.policy.egress.hosts import canonical_host
from gloveport.policy.egress.index import EgressIndex
from gloveport.policy.egress.inspecting import inspects, inspects_any, secret_bindings
from gloveport.sandbox.secrets import bind_secrets, check_bindings, make_placeholders
from gloveport.settings import Settings
from gloveport.store import Redactor
from gloveport.store.files import cannot_write

if TYPE_CHECKING:
    from gloveport.egress.authority import Authority

__all__ = ["Inspector"]


class Inspector:
    """Makes the inspection of each sandbox; most have none, and cost nothing here."""

    def __init__(self, settings: Settings, redactor: Redactor) -> None:
        self._settings = settings
        self._redactor = redactor
        self._authority: Authority | None = None
        self._upstream: ssl.SSLContext | None = None

    @property
    def trust(self) -> Path:
        """What guests trust: this host's certificates and the authority's. A file for them to read."""
        return self._settings.state / "trust.pem"

    def prepare(self, policy: Policy) -> dict[str, str]:
        """Placeholders for a new sandbox: variable → text. Nothing is written, read or asked for.

        Raises `InvalidRequest` or `Unsupported` for secrets that cannot be kept as the policy has them.
        """
        bindings = secret_bindings(policy)
        check_bindings(bindings)
        return make_placeholders(bindings)

    async def open(self, plan: Plan) -> Inspection:
        """What the proxy of one sandbox looks into.

        From then on the redactor knows its secrets, and what the guest trusts is there to read. Raises as
        `bind_secrets`; `BackendUnavailable` without an authority.
        """
        policy = plan.policy
        bound = await bind_secrets(secret_bindings(policy), plan.env)
        self._redactor.learn(spelt.decode() for secret in bound for spelt in spellings(secret))
        if not inspects_any(policy):
            return Inspection()
        self._write_trust()
        if self._upstream is None:
            self._upstream = await anyio.to_thread.run_sync(_upstream_context, self._settings.extra_authorities)

        index = EgressIndex(policy)

        def applies(host: str, port: int) -> bool:
            try:
                asked = canonical_host(host)
            except InvalidRequest:
                return False  # nothing goes there at all
            return inspects(index.about(asked), asked, port)

        termination = Termination(authority=self._load(), upstream=self._upstream, applies=applies)
        return Inspection(injector=Injector(bound), termination=termination)

    def _load(self) -> Authority:
        if self._authority is None:
            # It takes longer to load than the rest of a sandbox, and most policies need none.
            made = importlib.import_module("gloveport.egress.authority").Authority
            self._authority = cast("Authority", made.load(self._settings.data / "authority.pem"))
        return self._authority

    def _write_trust(self) -> None:
        """Whole or not at all: guests hold on to the file that they were shown."""
        text = (_host_certificates() + self._load().certificate).encode()
        if self.trust.is_file() and self.trust.read_bytes() == text:
            return
        scratch = self.trust.with_name(f".trust-{secrets.token_hex(8)}")
        try:
            scratch.write_bytes(text)
            scratch.chmod(0o644)
            scratch.replace(self.trust)
        except OSError as error:
            with suppress(OSError):
                scratch.unlink(missing_ok=True)
            raise cannot_write(self.trust, error) from error


def _host_certificates() -> str:
    """The roots that programs of this host trust."""
    file = ssl.get_default_verify_paths().cafile
    if file is not None and os.path.isfile(file):
        return Path(file).read_text("utf-8", "replace").rstrip() + "\n"
    roots = ssl.create_default_context().get_ca_certs(binary_form=True)
    return "".join(ssl.DER_cert_to_PEM_cert(root) for root in roots)


def _upstream_context(extra: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if extra is not None:
        try:
            context.load_verify_locations(cafile=extra)
        except OSError as error:
            raise InvalidRequest(
                f"cannot use the certificates in {extra}: {error.strerror or error}", hint="check GLOVEPORT_CA_FILE"
            ) from error
    return context
