"""Ports for programs that must be told one."""

from __future__ import annotations

import random
import socket
from pathlib import Path

ASKED = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""Ports from which the kernel serves whoever asks for any."""


def unasked_port() -> int:
    """A free port of the loopback interface that the kernel gives to nobody else before it is used."""
    first = int(ASKED.read_text().split()[0]) if ASKED.exists() else 32768
    while True:
        port = random.randrange(first // 2, first)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
