"""guestd, the helper inside a sandbox: its program, its protocol, and the host's end of it."""

__all__: list[str] = []
