"""Redis with an append-only file: every write synced, a rewrite of the file, and a crash."""

import os
import signal
import socket
import subprocess
import time

from common import main, payload, run

ENTRIES = 2_000


class Server:
    def __init__(self, directory):
        self.directory = directory
        self.path = directory / "socket"
        command = ["redis-server", "--port", "0", "--unixsocket", self.path, "--dir", directory,
                   "--appendonly", "yes", "--appendfsync", "always", "--save", "",
                   "--daemonize", "no", "--logfile", directory / "log"]
        self.process = subprocess.Popen([str(part) for part in command])
        deadline = time.monotonic() + 60
        while True:
            self.connection = socket.socket(socket.AF_UNIX)
            try:
                self.connection.connect(str(self.path))
                self.file = self.connection.makefile("rb")
                if self.ask(b"PING") == b"PONG":
                    return
            except (OSError, RuntimeError):
                pass
            assert time.monotonic() < deadline and self.process.poll() is None, "no answer"
            time.sleep(0.1)

    def ask(self, *words):
        message = b"*%d\r\n" % len(words)
        self.connection.sendall(
            message + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
        kind, rest = (line := self.file.readline().rstrip(b"\r\n"))[:1], line[1:]
        if kind == b"-":
            raise RuntimeError(rest)
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        return rest

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=60) == 0


def key(number):
    return b"entry-%d" % number


def fill(directory, scale):
    server = Server(directory)
    for number in range(ENTRIES * scale):
        server.ask(b"SET", key(number), payload(number))
        if number == ENTRIES * scale // 2:
            server.ask(b"BGREWRITEAOF")
    for number in range(0, ENTRIES * scale, 5):
        server.ask(b"DEL", key(number))
    server.kill()
    server = Server(directory)
    verify(server, scale)
    server.stop()


def verify(server, scale):
    for number in range(ENTRIES * scale):
        expected = payload(number) if number % 5 else None
        assert server.ask(b"GET", key(number)) == expected, number
    size = server.ask(b"DBSIZE")
    assert size == sum(1 for number in range(ENTRIES * scale) if number % 5), size
    return size


def check(directory, scale):
    manifest, = (directory / "appendonlydir").glob("*.manifest")
    run(["redis-check-aof", manifest])
    server = Server(directory)
    print(verify(server, scale), "append-only file ok")
    server.stop()
    os.stat(directory / "appendonlydir")


if __name__ == "__main__":
    main(fill, check)
