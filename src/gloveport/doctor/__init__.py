"""The doctor: attacks on this host's sandboxes, whole and with each guard taken away, in a network of its own."""

__all__: list[str] = []
