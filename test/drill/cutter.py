# SPDX-License-Identifier: MIT
"""A TCP relay that misbehaves when it is told to: cuts, halves, stalls, delays, vanishes.

One thread and an epoll for all connections. Every fault is asked for by a method, and done by the
thread, amid whatever is on its way: what has been read and not yet written is lost with a cut.
"""
import collections
import os
import random
import select
import socket
import struct
import threading
import time

CHUNK = 65536
DEPTH = 64 << 20  # bytes on their way in one direction, at most


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
        self.after = None  # so many bytes more are taken, then it is cut


class Relay:
    """Forwards connections to its own port to `port` of 127.0.0.1 (which may be changed)."""

    def __init__(self, port, delay=0.0):
        self.target, self.delay = port, delay
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.links, self.by_fd, self.asked = [], {}, collections.deque()
        self.stalled_until = 0.0
        self.connections = self.bytes = 0
        self.epoll = select.epoll()
        self.wake_r, self.wake_w = os.pipe()
        os.set_blocking(self.wake_w, False)
        self.epoll.register(self.wake_r, select.EPOLLIN)
        self.epoll.register(self.listener, select.EPOLLIN)
        self.ending = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    # ---- what it can be asked for, from any thread ----

    def ask(self, fn):
        self.asked.append(fn)
        try:
            os.write(self.wake_w, b"x")
        except BlockingIOError:
            pass

    def cut(self):
        """All connections, at once, with what is on its way."""
        self.ask(lambda: [self.drop(x) for x in list(self.links)])

    def cut_after(self, n):
        """Each, when it has taken n bytes more: amid a message."""
        def fn():
            for x in self.links:
                x.after = n
        self.ask(fn)

    def half(self):
        """Each ends in one direction only; what is on its way that way still arrives."""
        def fn():
            for x in self.links:
                random.choice(x.ways).eof = True
        self.ask(fn)

    def stall(self, seconds):
        def fn():
            self.stalled_until = time.monotonic() + seconds
        self.ask(fn)

    def vanish(self):
        """What is connected now never hears of its far end again, and is not told."""
        def fn():
            for x in self.links:
                x.vanished = True
                for w in x.ways:
                    w.queue.clear()
        self.ask(fn)

    def close(self):
        self.ending = True
        self.ask(lambda: None)
        self.thread.join()

    # ---- the thread ----

    def drop(self, link):
        self.links.remove(link)
        for s in link.a, link.b:
            self.by_fd.pop(s.fileno(), None)
            try:
                self.epoll.unregister(s)
            except (OSError, ValueError):
                pass
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

    def take(self, link, way, now):
        """Reads what there is. False when the link is gone."""
        try:
            data = way.src.recv(CHUNK if link.after is None else max(1, min(CHUNK, link.after)))
        except BlockingIOError:
            return True
        except OSError:
            self.drop(link)
            return False
        if not data:
            way.eof = True
            return True
        if link.after is not None:
            link.after -= len(data)
            if link.after <= 0:
                self.drop(link)
                return False
        if not link.vanished:
            way.queue.append((now + self.delay, data))
            way.size += len(data)
            self.bytes += len(data)
        return True

    def give(self, link, way, now):
        """Writes what may go by now: seconds until more may, or None."""
        while way.queue and not link.vanished:
            due, data = way.queue[0]
            due = max(due, self.stalled_until)
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
            events = 0
            for w in link.ways:
                if w.src is s and not w.eof and w.size < DEPTH:
                    events |= select.EPOLLIN
                if w.dst is s and w.queue and not link.vanished and w.queue[0][0] <= time.monotonic():
                    events |= select.EPOLLOUT
            self.epoll.modify(s, events)

    def run(self):
        while not self.ending:
            now, wait = time.monotonic(), None
            for link in list(self.links):
                for way in link.ways:
                    if link in self.links:
                        t = self.give(link, way, now)
                        wait = t if wait is None else wait if t is None else min(wait, t)
                if link in self.links:
                    self.interest(link)
            for fd, events in self.epoll.poll(wait):
                if fd == self.wake_r:
                    os.read(fd, 4096)
                elif fd == self.listener.fileno():
                    self.accept()
                elif fd in self.by_fd:
                    link = self.by_fd[fd]
                    way = next(w for w in link.ways if w.src.fileno() == fd)
                    if events & ~select.EPOLLOUT and not way.eof and way.size < DEPTH:
                        self.take(link, way, time.monotonic())
                    elif events & (select.EPOLLERR | select.EPOLLHUP):
                        self.drop(link)
            while self.asked:
                self.asked.popleft()()
        for link in list(self.links):
            self.drop(link)
        self.listener.close()
        self.epoll.close()
        os.close(self.wake_r)
        os.close(self.wake_w)
