"""Other programs' settings as a policy: what carries over, and what does not, said line by line."""

__all__: list[str] = []
