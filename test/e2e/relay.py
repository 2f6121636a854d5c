# SPDX-License-Identifier: MIT
"""TCP that can be cut, held back and pointed elsewhere.

Relay is for tests. What passes the bytes is a process of its own (this file, run), for a test that
holds files of a mount open must not be what the mount has to wait for: who starts a process waits
until that has closed them.
"""
import contextlib
import json
import signal
import socket
import struct
import subprocess
import sys
import threading


class Passing:

    def __init__(self, target):
        self.target = target
        self.lock = threading.Lock()
        self.wires = []
        self.passed = 0
        self.cuts = 0
        self.cut_at = None  # so many bytes later
        self.every, self.left = 0, 0
        self.flows = threading.Event()
        self.flows.set()
        self.server = None
        self.port = 0
        self.listen()

    def listen(self):
        self.server = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.accept, args=(self.server,), daemon=True).start()

    def accept(self, server):
        while True:
            try:
                near, _ = server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                self.reset(near)
                continue
            with self.lock:
                self.wires.append((near, far))
            for x, y in (near, far), (far, near):
                threading.Thread(target=self.copy, args=(x, y), daemon=True).start()

    def copy(self, x, y):
        try:
            while data := x.recv(65536):
                self.flows.wait()
                y.sendall(data)
                self.count(len(data))
        except OSError:
            pass
        for s in x, y:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    def count(self, n):
        with self.lock:
            self.passed += n
            cut = self.cut_at is not None and self.passed >= self.cut_at
            if cut:
                self.left -= 1
                self.cut_at = self.passed + self.every if self.left else None
        if cut:
            self.cut()

    def cut_every(self, n, times):
        with self.lock:
            self.every, self.left, self.cut_at = n, times, self.passed + n

    @staticmethod
    def reset(s):
        with contextlib.suppress(OSError):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.shutdown(socket.SHUT_RDWR)

    def cut(self):
        with self.lock:
            wires, self.wires = self.wires, []
            self.cuts += 1
        for wire in wires:
            for s in wire:
                self.reset(s)

    def refuse(self):
        """From now on nobody gets through."""
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        self.cut()

    def state(self):
        pass

    def point(self, port):
        self.target = port

    def stall(self, on):
        (self.flows.clear if on else self.flows.set)()


class Relay:
    """Commands to the process; each is carried out when it returns."""

    def __init__(self, target):
        self.process = subprocess.Popen([sys.executable, __file__, str(target)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.port = self.ask("state")["port"]
        RUNNING.append(self)

    def ask(self, name, *args):
        self.process.stdin.write(json.dumps([name, *args]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    @property
    def addr(self):
        return f"tcp!127.0.0.1!{self.port}"

    @property
    def cuts(self):
        return self.ask("state")["cuts"]

    @property
    def passed(self):
        return self.ask("state")["passed"]

    def point(self, port):
        self.ask("point", port)

    def stall(self, on):
        """Nothing passes, and nothing is closed; what was sent meanwhile comes later, as with TCP."""
        self.ask("stall", on)

    def cut(self):
        self.ask("cut")

    def cut_every(self, n, times):
        """So many bytes from now on, and from then on."""
        self.ask("cut_every", n, times)

    def refuse(self):
        """Cuts, and nobody gets through any more until it listens again."""
        self.ask("refuse")

    def listen(self):
        self.ask("listen")

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


RUNNING = []


def end_all():
    while RUNNING:
        RUNNING.pop().end()


def main():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    passing = Passing(int(sys.argv[1]))
    for line in sys.stdin:
        name, *args = json.loads(line)
        getattr(passing, name)(*args)
        print(json.dumps({"port": passing.port, "cuts": passing.cuts, "passed": passing.passed}), flush=True)


if __name__ == "__main__":
    main()
