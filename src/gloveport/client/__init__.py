"""Talking to the runner: its protocol, a blocking connection, and starting it on first use."""

from gloveport.client.codec import decode, encode
from gloveport.client.connection import Connection
from gloveport.client.start import connect, stop_runner

__all__ = ["Connection", "connect", "decode", "encode", "stop_runner"]
