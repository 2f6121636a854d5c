# SPDX-License-Identifier: MIT
"""Links over tls!: they are cut and come back, with certificates and with pre-shared keys; and who comes
back, or answers then, has to be who it was."""
import os
import signal
import subprocess

import pytest
from conftest import fuse, mounted, root, wait_for
from links import Held, cut_amid_a_transfer, is_down, is_up, link, locked, port_of, relays, start  # noqa: F401
from relay import Relay
from test_tls import World, keys

pytestmark = [fuse, root]


def through(relay):
    return relay.addr.replace("tcp!", "tls!")


class Far(World):
    """A server and alice, who know each other by certificate or by a key that both have; a relay between."""

    def __init__(self, plenum, how="cert"):
        super().__init__(plenum)
        self.how = how
        if how == "cert":
            self.friends()
        else:
            line = plenum.run("key", "psk", "alice", env=self.server).stdout
            plenum.run("key", "psk", "--install", "127.0.0.1", env=self.alice, input=line)
        self.access = plenum.tmp / "access"
        self.access.write_text(f"{'cert' if how == 'cert' else 'key'}:alice / rw root\n")
        self.at = plenum.dir("at")

    def serve(self):
        super().serve("--linger", "1m", "--access", self.access)
        self.relay = Relay(port_of(self.s.addr))

    def mount(self, options="hard"):
        self.serve()
        self.plenum.run("mount", "-o", options, f"9p:{through(self.relay)}", self.at, env=self.alice)
        assert link(self.plenum, self.at)["kind"] == "kept"
        return self

    def down(self):
        self.relay.refuse()
        is_down(self.plenum, self.at)


@pytest.fixture(params=["cert", "psk"])
def far(plenum, request):
    return Far(plenum, request.param)


def test_cut_amid_a_transfer(far, plenum):
    far.mount()
    cut_amid_a_transfer(plenum, far, far.files, 12 << 20)


def test_down_for_a_while(far, plenum):
    far.mount()
    held = Held(far.at / "held")
    far.down()
    reader = start("cat", far.at / "hello", stdout=subprocess.PIPE)
    far.relay.listen()
    assert reader.communicate(timeout=30)[0] == b"hallo\n"
    assert locked(far.files / "held")
    held.close()


@pytest.mark.parametrize("how", ["cert", "psk"])
def test_both_directions_of_a_duct(plenum, how):
    far = Far(plenum, how)
    near, there = plenum.dir("near"), plenum.dir("there")
    near.chmod(0o777)
    blob = os.urandom(6 << 20)
    s = plenum.start("duct", "--access", far.access, "-l", "tls!127.0.0.1!0", far.files, there, env=far.server)
    plenum.listening(s)
    far.relay = Relay(int(plenum.err(s).split(" on ")[1].split()[0].rsplit("!", 1)[1]))
    c = plenum.start("duct", "-d", through(far.relay), near, far.at, env=far.alice)
    wait_for(lambda: mounted(there) and mounted(far.at), plenum.err(c))
    for d in near, far.files:
        (d / "blob").write_bytes(blob)
    far.relay.cut_every(2 << 20, 6)
    jobs = [start("cp", near / "blob", far.at / "copy"), start("cp", far.files / "blob", there / "copy"),
            start("cmp", there / "blob", near / "blob"), start("cmp", far.at / "blob", far.files / "blob")]
    assert [j.wait(50) for j in jobs] == [0] * 4
    assert (near / "copy").read_bytes() == blob and (far.files / "copy").read_bytes() == blob
    assert far.relay.cuts == 6
    for at in far.at, there:
        is_up(plenum, at)
        assert link(plenum, at)["kind"] == "kept" and link(plenum, at)["breaks"] > 0
        plenum.run("umount", at)
    plenum.ended(s)
    plenum.ended(c)


def says(plenum, far, text):
    wait_for(lambda: text in (link(plenum, far.at)["why"] or ""), f"{link(plenum, far.at)} is not {text}")


def test_another_server_answers(plenum):
    """Whose certificate is not the one that was trusted: it learns nothing, and the link waits for the right
    one."""
    far = Far(plenum).mount()
    mallory, fake = keys(plenum, "mallory"), plenum.dir("fake")
    (fake / "hello").write_text("not this\n")
    far.made(mallory, "server")
    far.trust(mallory, "alice", far.alice)
    other = plenum.serve(fake, "tls!127.0.0.1!0", env=mallory)
    held = Held(far.at / "held")
    far.relay.refuse()
    far.relay.point(port_of(other.addr))
    far.relay.listen()
    says(plenum, far, "CERTIFICATE HAS CHANGED")
    reader = start("cat", far.at / "hello", stdout=subprocess.PIPE)
    assert link(plenum, far.at)["state"] == "down" and reader.poll() is None
    far.relay.refuse()
    far.relay.point(port_of(far.s.addr))
    far.relay.listen()
    assert reader.communicate(timeout=30)[0] == b"hallo\n"
    assert locked(far.files / "held")
    held.write("still")
    held.close()
    assert (far.files / "held").read_text() == "still\n"


def identity(env, other):
    """Somebody becomes somebody else: the certificate, and its key."""
    mine, theirs = (f"{e['PLENUM_KEYS']}/id.pem" for e in (env, other))
    with open(theirs, "rb") as f:
        data = f.read()
    with open(mine, "wb") as f:
        f.write(data)


def test_a_stranger_comes_back(plenum):
    """A certificate that the server does not know: refused, and the session is kept for who had it."""
    far = Far(plenum).mount()
    held = Held(far.at / "held")
    mallory, saved = keys(plenum, "mallory"), keys(plenum, "saved")
    far.made(mallory, "mallory")
    far.made(saved, "saved")
    identity(saved, far.alice)
    far.down()
    identity(far.alice, mallory)
    far.relay.listen()
    says(plenum, far, "does not trust our certificate")
    assert link(plenum, far.at)["state"] == "down" and locked(far.files / "held")
    identity(far.alice, saved)
    is_up(plenum, far.at)
    held.write("still")
    held.close()
    assert (far.files / "held").read_text() == "still\n"


def test_somebody_else_comes_back(plenum):
    """One whom the server knows too, by another name: the link is not his. What he has is a session of his
    own, and alice's stays hers, with its lock."""
    far = Far(plenum)
    bob = keys(plenum, "bob")
    far.made(bob, "bob")
    far.trust(far.server, "bob", bob)
    far.access.write_text("cert:alice / rw root\ncert:bob / ro nobody\n")
    far.mount()
    held = Held(far.at / "held")
    far.down()
    identity(far.alice, bob)
    far.relay.listen()
    is_up(plenum, far.at)
    with pytest.raises(OSError):
        (far.at / "new").write_text("x")
    assert (far.at / "hello").read_text() == "hallo\n"
    assert locked(far.files / "held")
    held.p.send_signal(signal.SIGKILL)
