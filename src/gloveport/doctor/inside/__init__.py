"""The guest's side of the attacks: programs of the standard library alone, carried into a sandbox as text."""

__all__: list[str] = []
