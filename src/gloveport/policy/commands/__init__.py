"""Commands and tool calls: a shell's grammar, rules over what it would run, and what they have let pass and refused."""

__all__: list[str] = []
