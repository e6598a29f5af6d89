"""Talking to the runner: its protocol, a blocking connection, and starting it on first use."""

from gloveport.client.codec import decode, encode
from gloveport.client.connection import Connection
from gloveport.client.desks import DeskPlace, find_desks
from gloveport.client.start import connect, stop_runner

__all__ = ["Connection", "DeskPlace", "connect", "decode", "encode", "find_desks", "stop_runner"]
