# SPDX-License-Identifier: MIT
"""Directories to work in: the same tests over a mount of each kind.

    host    a host directory, mounted
    mem     a tree in memory, mounted
    9p      a host directory, served on a unix socket, mounted from there
    duct    one end of a duct over a socket pair; the other end exports a host directory

`native` is the directory below without us: PLACES=native shows what the tests themselves expect.
"""
import os
import pathlib
import socket

import pytest
from conftest import PLENUM, mounted, wait_for

KINDS = os.environ.get("PLACES", "host,mem,9p,duct").split(",")


class Place:
    """`dir`: where to work. `below`: the host directory behind it, or None."""

    def __init__(self, plenum, kind, name="", options="suid,dev"):
        self.plenum, self.kind = plenum, kind
        self.local = kind in ("native", "host", "mem")  # no 9P in between
        self.dir, self.below = plenum.dir(f"at{name}"), plenum.dir(f"below{name}")
        plenum.tmp.chmod(0o755)
        getattr(self, f"make_{kind}")(name, options)
        if kind != "native":
            assert mounted(self.dir)

    def make_native(self, name, options):
        self.dir.rmdir()
        self.dir = self.below

    def make_host(self, name, options):
        self.plenum.run("mount", "-o", options, self.below, self.dir)

    def make_mem(self, name, options):
        self.below = None
        self.plenum.run("mount", "-o", options, "mem:", self.dir)

    def make_9p(self, name, options):
        self.server = self.plenum.serve(self.below, f"unix!s{name}.sock")
        self.plenum.run("mount", "-o", options, f"9p:unix!s{name}.sock", self.dir)

    def make_duct(self, name, options):
        s, t = socket.socketpair()
        with s, t:
            self.near = self.plenum.start("duct", "-o", options, "-", self.dir, stdin=s, stdout=s)
            self.far = self.plenum.start("duct", self.below, "-", stdin=t, stdout=t)
        wait_for(lambda: "mounted" in self.plenum.err(self.near) or self.near.poll() is not None)
        assert self.near.poll() is None, self.plenum.err(self.near)

    def end(self):
        """In good order: nothing that was done here is allowed to hold it."""
        if self.kind == "native":
            return
        self.plenum.run("umount", self.dir)
        if self.kind == "9p":
            self.server.terminate()
            self.plenum.ended(self.server, 0)
        if self.kind == "duct":
            self.plenum.ended(self.near, 0)
            self.plenum.ended(self.far, 0)


@pytest.fixture(params=KINDS)
def place(request, plenum):
    p = Place(plenum, request.param)
    yield p
    p.end()


def tool(name):
    """A program of the build beside plenum."""
    return pathlib.Path(PLENUM).parent / "test" / name
