"""What of the host a sandbox may see and write, and which files of a repository a patch may not touch unasked."""

__all__: list[str] = []
