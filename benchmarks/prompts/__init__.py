"""How often a person is asked during scripted tasks: Claude Code's regular permissions beside Gloveport's boundary."""
