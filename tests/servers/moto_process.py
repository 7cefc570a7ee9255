"""The process behind `tests.servers.aws`: `python moto_process.py PORT`, then "down" and "up", a line each.

moto keeps everything in memory, so "down" closes its port and keeps the process: what it holds survives.
"""

import sys

from moto.moto_server.threaded_moto_server import ThreadedMotoServer


def main(port: int) -> None:
    """Serve until standard input ends."""
    server = started(port)
    for line in sys.stdin:
        if line == "down\n":
            server.stop()
        else:
            server = started(port)


def started(port: int) -> ThreadedMotoServer:
    """An emulator that serves."""
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    return server


if __name__ == "__main__":
    main(int(sys.argv[1]))
