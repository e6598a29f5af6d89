"""A private socket on which this user's other processes call: the runner's, and the desk's of each run that asks."""

__all__: list[str] = []
