# SPDX-License-Identifier: MIT
"""A TCP relay that misbehaves when it is told to: cuts, halves, stalls, slows down, vanishes, is
somewhere else.

Relay is for tests and drills. What passes the bytes is a process of its own (this file, run), for a
test that holds files of a mount open must not be what the mount has to wait for: who starts a process
waits until that has closed them, and who waits in a page fault of a mapping holds the interpreter's
lock. It is one loop with an epoll, for all connections and for the commands; a fault is done amid
whatever is on its way: what has been read and not yet written is lost with a cut.
"""
import collections
import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

CHUNK = 65536
DEPTH = 64 << 20  # bytes on their way in one direction, at most


class Relay:
    """Forwards connections to its own port to `target`, a port of 127.0.0.1. Each command is carried out
    when it returns; any thread may give one."""

    def __init__(self, target):
        self.lock = threading.Lock()
        self.process = subprocess.Popen([sys.executable, __file__, str(target)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.port = self.ask("state")["port"]
        RUNNING.append(self)

    def ask(self, name, *args):
        with self.lock:
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
    def connections(self):
        return self.ask("state")["connections"]

    @property
    def passed(self):
        """Bytes."""
        return self.ask("state")["passed"]

    def point(self, port):
        """Elsewhere, for who connects from now on."""
        self.ask("point", port)

    def cut(self):
        """All connections, at once, with what is on its way."""
        self.ask("cut")

    def cut_after(self, n):
        """Each that there is, when it has taken n bytes more: amid a message."""
        self.ask("cut_after", n)

    def cut_every(self, n, times):
        """All, so many bytes from now on, and from then on."""
        self.ask("cut_every", n, times)

    def half(self):
        """Each ends in one direction only; what is on its way that way still arrives."""
        self.ask("half")

    def stall(self, seconds):
        """Nothing passes, and nothing is closed; what was sent meanwhile comes later, as with TCP."""
        self.ask("stall", seconds)

    def slow(self, delay, seconds):
        """For so long, what comes is held back by `delay` seconds."""
        self.ask("slow", delay, seconds)

    def vanish(self):
        """What is connected now never hears of its far end again, and is not told."""
        self.ask("vanish")

    def hold(self, text):
        """From the piece on that has `text` in it, its connection passes nothing any more until it is
        released, and what came arrives then, whatever has become of who sent it."""
        self.ask("hold", text)

    def release(self):
        self.ask("release")

    @property
    def held(self):
        """Connections that pass nothing, or that have been released and are not over."""
        return self.ask("state")["held"]

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
        RUNNING.remove(self)


RUNNING = []


def end_all():
    for relay in list(RUNNING):
        relay.end()


# ---- the process ----

def reset(s):
    """Closes so that the peer is told by RST, at once."""
    try:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass
    s.close()


class Way:
    """One direction of a connection."""

    def __init__(self, src, dst):
        self.src, self.dst = src, dst
        self.queue = collections.deque()  # (when it may go, bytes)
        self.size = 0
        self.eof = self.done = False


class Link:
    def __init__(self, a, b):
        self.a, self.b = a, b
        self.ways = [Way(a, b), Way(b, a)]
        self.vanished = False
        self.held = self.released = False
        self.after = None  # so many bytes more are taken, then it is cut


class Passing:
    def __init__(self, target):
        self.target = target
        self.links, self.by_fd = [], {}
        self.delay = self.slow_until = self.stalled_until = 0.0
        self.every, self.left, self.cut_at = 0, 0, None
        self.connections = self.passed = self.cuts = 0
        self.text = None
        self.epoll = select.epoll()
        self.epoll.register(0, select.EPOLLIN)
        self.commands = b""
        self.listener, self.port = None, 0
        self.listen()

    # ---- commands ----

    def state(self):
        pass

    def point(self, port):
        self.target = port

    def cut(self):
        self.cuts += 1
        for x in list(self.links):
            self.drop(x)

    def cut_after(self, n):
        for x in self.links:
            x.after = n

    def cut_every(self, n, times):
        self.every, self.left, self.cut_at = n, times, self.passed + n

    def half(self):
        for x in self.links:
            random.choice(x.ways).eof = True

    def stall(self, seconds):
        self.stalled_until = time.monotonic() + seconds

    def slow(self, delay, seconds):
        self.delay, self.slow_until = delay, time.monotonic() + seconds

    def vanish(self):
        for x in self.links:
            x.vanished = True
            for w in x.ways:
                w.queue.clear()

    def hold(self, text):
        self.text = text.encode()

    def release(self):
        self.text = None
        for x in self.links:
            x.released, x.held = x.held, False

    def listen(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        self.epoll.register(self.listener, select.EPOLLIN)

    def refuse(self):
        self.epoll.unregister(self.listener)
        self.listener.close()
        self.cut()

    def command(self):
        """False at the end of who gives them."""
        data = os.read(0, 4096)
        *lines, self.commands = (self.commands + data).split(b"\n")
        for line in lines:
            name, *args = json.loads(line)
            getattr(self, name)(*args)
            print(json.dumps({"port": self.port, "cuts": self.cuts, "passed": self.passed,
                              "connections": self.connections,
                              "held": sum(x.held or x.released for x in self.links)}), flush=True)
        return bool(data)

    # ---- bytes ----

    def drop(self, link):
        self.links.remove(link)
        for s in link.a, link.b:
            if self.by_fd.pop(s.fileno(), None):
                self.epoll.unregister(s)
            reset(s)

    def accept(self):
        try:
            a, _ = self.listener.accept()
        except OSError:
            return
        try:
            b = socket.create_connection(("127.0.0.1", self.target), 5)
        except OSError:
            reset(a)
            return
        link = Link(a, b)
        self.connections += 1
        self.links.append(link)
        for s in a, b:
            s.setblocking(False)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.by_fd[s.fileno()] = link
            self.epoll.register(s, select.EPOLLIN)

    def count(self, link, n):
        """False when that many bytes were one too many for the link."""
        self.passed += n
        if self.cut_at is not None and self.passed >= self.cut_at:
            self.left -= 1
            self.cut_at = self.passed + self.every if self.left else None
            self.cut()
            return False
        if link.after is not None:
            link.after -= n
            if link.after <= 0:
                self.drop(link)
                return False
        return True

    def take(self, link, way, now):
        """Reads what there is."""
        try:
            data = way.src.recv(CHUNK if link.after is None else max(1, min(CHUNK, link.after)))
        except BlockingIOError:
            return
        except OSError:
            if not link.held:
                self.drop(link)
                return
            data = b""
        if not data:
            way.eof = True
            if link.held:  # it is not to be seen by the other end
                self.by_fd.pop(way.src.fileno())
                self.epoll.unregister(way.src)
        elif self.count(link, len(data)) and not link.vanished:
            way.queue.append((now + self.delay if now < self.slow_until else now, data))
            way.size += len(data)
            link.held |= self.text is not None and self.text in data

    def due(self, way):
        """When the first of what is on its way may go."""
        return max(way.queue[0][0], self.stalled_until)

    def give(self, link, way, now):
        """Writes what may go by now: seconds until more may, or None."""
        if link.held:
            return None
        while way.queue and not link.vanished:
            due, data = self.due(way), way.queue[0][1]
            if due > now:
                return due - now
            try:
                n = way.dst.send(data)
            except BlockingIOError:
                return None
            except OSError:
                self.drop(link)
                return None
            way.size -= n
            if n < len(data):
                way.queue[0] = (due, data[n:])
            else:
                way.queue.popleft()
        if way.eof and not way.queue and not way.done and not link.vanished:
            way.done = True
            try:
                way.dst.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            if all(w.done for w in link.ways):
                self.drop(link)
        return None

    def interest(self, link):
        for s in link.a, link.b:
            if s.fileno() not in self.by_fd:
                continue
            events = 0
            for w in link.ways:
                if w.src is s and not w.eof and w.size < DEPTH:
                    events |= select.EPOLLIN
                if w.dst is s and w.queue and not link.vanished and not link.held and self.due(w) <= time.monotonic():
                    events |= select.EPOLLOUT
            self.epoll.modify(s, events)

    def event(self, fd, events):
        if fd == self.listener.fileno():
            self.accept()
        elif fd in self.by_fd:
            link = self.by_fd[fd]
            way = next(w for w in link.ways if w.src.fileno() == fd)
            if events & ~select.EPOLLOUT and not way.eof and way.size < DEPTH:
                self.take(link, way, time.monotonic())
            elif events & (select.EPOLLERR | select.EPOLLHUP):
                self.drop(link)

    def run(self):
        while True:
            now, wait = time.monotonic(), None
            for link in list(self.links):
                for way in link.ways:
                    if link in self.links:
                        t = self.give(link, way, now)
                        wait = t if wait is None else wait if t is None else min(wait, t)
                if link in self.links:
                    self.interest(link)
            for fd, events in self.epoll.poll(wait):
                if fd == 0:
                    if not self.command():
                        return
                else:
                    self.event(fd, events)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Passing(int(sys.argv[1])).run()
