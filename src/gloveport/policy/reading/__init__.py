"""From files and templates to layers: strict, with file and line in every complaint."""

__all__: list[str] = []
