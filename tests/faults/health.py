"""Asks `/healthz` of this host and port for so many seconds, and prints the seconds that each answer took.

A process of its own, so that it measures the service and not the load.
"""

from __future__ import annotations

import json
import socket
import sys
import time

host, port, duration_seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
answer_seconds = []
end = time.monotonic() + duration_seconds
with socket.create_connection((host, port)) as connection:
    while time.monotonic() < end:
        started = time.monotonic()
        connection.sendall(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        answer = b""
        while b'"alive"' not in answer:
            answer += connection.recv(65_536)
        answer_seconds.append(time.monotonic() - started)
        time.sleep(0.005)
print(json.dumps(answer_seconds))
