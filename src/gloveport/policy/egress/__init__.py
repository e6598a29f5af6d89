"""Where traffic may go: hosts in one spelling, the rules about them, and what the proxy must look into to keep them."""

__all__: list[str] = []
