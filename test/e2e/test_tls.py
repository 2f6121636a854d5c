# SPDX-License-Identifier: MIT
"""tls!, plenum key and the access file: real certificates, strangers of every kind, and what each may
do. OpenSSL's own programs are the foreign peers."""
import os
import shutil
import signal
import socket
import subprocess

import pytest
from conftest import PLENUM, fuse, mounted, root, wait_for

openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")


def keys(plenum, name):
    """The environment of somebody who has keys of their own."""
    return dict(os.environ, PLENUM_KEYS=str(plenum.tmp / f"keys-{name}"))


class World:
    """A server and alice, who trust each other; the server exports `files`."""

    def __init__(self, plenum):
        self.plenum = plenum
        self.server, self.alice = keys(plenum, "server"), keys(plenum, "alice")
        self.made(self.server, "server")
        self.made(self.alice, "alice")
        self.files = plenum.dir("files")
        plenum.tmp.chmod(0o755)
        self.files.chmod(0o777)
        (self.files / "hello").write_text("hallo\n")
        (self.files / "pub").mkdir()
        (self.files / "pub/note").write_text("for all\n")

    def made(self, env, name):
        return self.plenum.run("key", "make", name, env=env).out.split()[1]

    def show(self, env):
        return self.plenum.run("key", "show", env=env).stdout

    def trust(self, env, name, whom):
        self.plenum.run("key", "trust", name, env=env, input=self.show(whom))

    def friends(self):
        self.trust(self.server, "alice", self.alice)
        self.trust(self.alice, "127.0.0.1", self.server)
        return self

    def serve(self, *args):
        self.s = self.plenum.serve(*args, self.files, "tls!127.0.0.1!0", env=self.server)
        self.spec = "9p:" + self.s.addr
        return self.s

    def ls(self, env=None, **kw):
        return self.plenum.run("ls", self.spec, env=env or self.alice, **kw)

    def refused(self, env=None):
        return self.plenum.error("ls", self.spec, env=env or self.alice)


@pytest.fixture
def world(plenum):
    return World(plenum)


def files(text):
    return sorted(text.split())


# ---- keys ----

def test_make_show_list_remove(world, plenum):
    env = world.alice
    name, print_ = plenum.run("key", "show", env=env).out.splitlines()[0][2:].split()
    assert name == "alice" and print_.startswith("sha256:") and len(print_) == 71
    d = env["PLENUM_KEYS"]
    assert os.stat(d).st_mode & 0o7777 == 0o700 and os.stat(f"{d}/id.pem").st_mode & 0o7777 == 0o600
    assert "there is a key already" in plenum.error("key", "make", env=env)
    assert plenum.run("key", "make", "--if-missing", env=env).out.split() == [name, print_]
    assert plenum.run("key", "make", "--renew", "alice", env=env).out.split()[1] != print_
    plenum.run("key", "trust", "bob", print_, env=env)
    plenum.run("key", "trust", "bob", print_, env=env)  # and again
    assert plenum.run("key", "list", env=env).out.split() == ["cert:bob", print_]
    other = print_[:-1] + ("0" if print_[-1] != "0" else "1")
    assert "another certificate is trusted by that name" in plenum.error("key", "trust", "bob", other, env=env)
    plenum.run("key", "remove", "bob", env=env)
    assert plenum.run("key", "list", env=env).out == ""
    assert "nothing is trusted by that name" in plenum.error("key", "remove", "bob", env=env)


def test_bad_usage(world, plenum):
    for args in ([], ["mak"], ["trust"], ["trust", "a b", "sha256:00"], ["trust", "a", "sha256:00"],
                 ["trust", "tcp!host"], ["psk"], ["show", "x"], ["install"], ["make", "a", "b"]):
        assert plenum.error("key", *args, rc=2, env=world.alice)
    assert "not a certificate" in plenum.error("key", "trust", "bob", input=b"rubbish", env=world.alice)


@openssl
def test_certificate_as_openssl_sees_it(world):
    p = subprocess.run(["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-subject"],
                       input=world.show(world.alice), capture_output=True, check=True)
    line = p.stdout.decode().splitlines()
    print_ = line[0].split("=")[1]
    assert line[1].replace(" ", "") == "subject=CN=alice"
    world.plenum.run("key", "trust", "alice", print_, env=world.server)  # as openssl writes it
    world.trust(world.alice, "127.0.0.1", world.server)
    world.serve()
    assert files(world.ls().out) == ["hello", "pub"]


def test_install_over_ssh(world, plenum):
    """A stand-in for ssh that runs the command here, with the server's keys."""
    ssh = plenum.tmp / "ssh"
    (plenum.tmp / "bin").mkdir()
    (plenum.tmp / "bin/plenum").symlink_to(PLENUM)
    ssh.write_text(f"""#!/bin/sh
while [ "$1" != -- ]; do shift; done
[ "$2" = me@127.0.0.1 ] || exit 255
PATH={plenum.tmp}/bin:$PATH PLENUM_KEYS={world.server['PLENUM_KEYS']} exec sh -c "$3"
""")
    ssh.chmod(0o755)
    plenum.run("key", "install", "me@127.0.0.1", env=dict(world.alice, PLENUM_SSH=str(ssh)))
    world.serve()
    assert files(world.ls().out) == ["hello", "pub"]
    p = plenum.run("key", "install", "me@elsewhere", rc=1, env=dict(world.alice, PLENUM_SSH=str(ssh)))
    assert "it did not work there" in p.err


# ---- who is let in ----

def test_both_sides_must_know_each_other(world, plenum):
    world.serve()
    said = world.refused()
    fix = said.split("the same there: ")[1].rstrip(")\n")
    assert "the server's certificate is not known" in said
    plenum.run(*fix.split()[1:], env=world.alice)  # what it says to do
    said = world.refused()
    fix = said.split("(there: ")[1].rstrip(")\n")
    assert "the server does not trust our certificate" in said
    wait_for(lambda: "a certificate that is not trusted" in plenum.err(world.s))
    assert fix in plenum.err(world.s)  # the server's user is told the same
    plenum.run(*fix.split()[1:], env=world.server)  # while it runs
    assert files(world.ls().out) == ["hello", "pub"]


def test_no_key(world, plenum):
    nobody = keys(plenum, "nobody")
    world.friends().serve()
    said = world.refused(nobody)
    assert "there is no key to show who we are (make one: plenum key make)" in said
    said = plenum.error("serve", world.files, "tls!127.0.0.1!0", env=nobody)
    assert "plenum key make" in said


def test_key_that_others_can_read(world, plenum):
    world.friends().serve()
    os.chmod(f"{world.alice['PLENUM_KEYS']}/id.pem", 0o644)
    assert "others may read it (chmod 600 it" in world.refused()
    os.chmod(f"{world.alice['PLENUM_KEYS']}/id.pem", 0o600)
    os.chmod(f"{world.alice['PLENUM_KEYS']}/trusted", 0o666)
    assert "others may write to it" in world.refused()


def test_changed_certificate(world, plenum):
    world.friends().serve()
    plenum.run("key", "make", "--renew", "server", env=world.server)
    said = world.refused()
    assert "THE SERVER'S CERTIFICATE HAS CHANGED" in said and "plenum key remove 127.0.0.1" in said


def test_name_that_was_not_dialed(world, plenum):
    world.trust(world.server, "alice", world.alice)
    world.trust(world.alice, "otherhost", world.server)
    world.serve()
    assert "the server is otherhost, which was not dialed" in world.refused()


def test_one_port_of_a_host(world, plenum):
    world.trust(world.server, "alice", world.alice)
    world.serve()
    port = world.s.addr.split("!")[2]
    plenum.run("key", "trust", "127.0.0.1", "sha256:" + 64 * "0", env=world.alice)
    assert "HAS CHANGED" in world.refused()
    world.trust(world.alice, f"127.0.0.1!{port}", world.server)
    assert files(world.ls().out) == ["hello", "pub"]


def test_trust_asks_the_server(world, plenum):
    """Without a terminal to ask at it says what it has seen, and trusts nobody."""
    world.serve()
    p = plenum.run("key", "trust", world.s.addr, rc=1, env=world.alice, start_new_session=True)
    own = plenum.run("key", "show", env=world.server).out.split()[2]
    assert f"not trusted: {own} (if plenum key show says the same there" in p.err
    assert plenum.run("key", "list", env=world.alice).out == ""


def test_plain_tcp_and_rubbish(world, plenum):
    world.friends().serve()
    host, port = world.s.addr.split("!")[1:]
    for words in b"", b"GET / HTTP/1.0\r\n\r\n", b"\x13\0\0\0\x64\xff\xff\0\0\x10\0\x06\x009P2000", os.urandom(4096):
        with socket.create_connection((host, int(port))) as s:
            s.sendall(words)
            s.shutdown(socket.SHUT_WR)
            s.settimeout(30)
            try:
                while s.recv(4096):
                    pass
            except ConnectionResetError:
                pass
    assert files(world.ls().out) == ["hello", "pub"]
    tcp = plenum.serve(world.files, "tcp!127.0.0.1!0")
    said = plenum.error("ls", "9p:" + tcp.addr.replace("tcp", "tls"), env=world.alice)
    assert "TLS" in said


def test_slow_clients_stall_nobody(world, plenum):
    """As many as there are places for, and more, that begin and say no more."""
    world.friends().serve()
    host, port = world.s.addr.split("!")[1:]
    slow = []
    try:
        for i in range(600):
            s = socket.create_connection((host, int(port)))
            slow.append(s)
            s.sendall(b"\x16\x03\x01\x01"[:i % 5])
        for i in range(3):
            assert files(world.ls().out) == ["hello", "pub"]
    finally:
        for s in slow:
            s.close()


# ---- certificates by openssl ----

def make(plenum, *args, **kw):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True, cwd=plenum.tmp, **kw)


def signed(plenum, env, name, ca, days=1, ext=None):
    """A certificate signed by the authority `ca` (a file name without suffix) for somebody."""
    d = env["PLENUM_KEYS"]
    make(plenum, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "k.pem",
         "-out", "r.pem", "-subj", f"/CN={name}")
    (plenum.tmp / "ext").write_text(ext or "")
    make(plenum, "x509", "-req", "-in", "r.pem", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial",
         "-out", "c.pem", "-days", days, "-extfile", "ext")
    os.makedirs(d, mode=0o700, exist_ok=True)
    text = (plenum.tmp / "k.pem").read_text() + (plenum.tmp / "c.pem").read_text()
    with open(os.open(f"{d}/id.pem", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as f:
        f.write(text)


def authority(plenum, name):
    make(plenum, "req", "-x509", "-newkey", "ed25519", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.pem",
         "-subj", f"/CN={name}", "-days", "2", "-addext", "basicConstraints=critical,CA:TRUE")


@openssl
def test_expired(world, plenum):
    world.serve()
    world.trust(world.alice, "127.0.0.1", world.server)
    d = world.alice["PLENUM_KEYS"]
    (plenum.tmp / "db").write_text("")
    (plenum.tmp / "ca.cnf").write_text("[ca]\ndefault_ca=d\n[d]\ndatabase=db\nnew_certs_dir=.\nserial=serial\n"
                                       "default_md=default\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n")
    make(plenum, "req", "-newkey", "ed25519", "-nodes", "-keyout", "k.pem", "-out", "r.pem", "-subj", "/CN=alice")
    make(plenum, "ca", "-batch", "-config", "ca.cnf", "-create_serial", "-selfsign", "-keyfile", "k.pem", "-in",
         "r.pem", "-out", "c.pem", "-notext", "-startdate", "20200101000000Z", "-enddate", "20210101000000Z")
    both = (plenum.tmp / "k.pem").read_text() + (plenum.tmp / "c.pem").read_text()
    with open(f"{d}/id.pem", "w") as f:
        f.write(both)
    plenum.run("key", "trust", "alice", env=world.server, input=(plenum.tmp / "c.pem").read_bytes())
    assert "our own certificate expired on 2021-01-01" in world.refused()
    # a client that shows it all the same
    p = subprocess.run(["openssl", "s_client", "-connect", "127.0.0.1:" + world.s.addr.split("!")[2], "-cert",
                        "c.pem", "-key", "k.pem", "-tls1_3", "-ign_eof"], cwd=plenum.tmp, capture_output=True,
                       stdin=subprocess.DEVNULL, timeout=30)
    assert b"certificate expired" in p.stderr
    wait_for(lambda: "the client's certificate expired on 2021-01-01" in plenum.err(world.s))


@openssl
def test_authority(plenum):
    """Who is signed for by an authority needs no entry of its own; its common name is its name."""
    world = World(plenum)
    authority(plenum, "ca")
    authority(plenum, "wrong")
    signed(plenum, world.server, "s", "ca", ext="subjectAltName=IP:127.0.0.1")
    signed(plenum, world.alice, "alice", "ca")
    for env in world.server, world.alice:
        shutil.copy(plenum.tmp / "ca.pem", env["PLENUM_KEYS"] + "/ca.pem")
    access = plenum.tmp / "access"
    access.write_text("cert:alice / ro %d\n" % os.geteuid())
    world.serve("--access", access)
    assert files(world.ls().out) == ["hello", "pub"]
    signed(plenum, world.alice, "bob", "ca")
    assert "refuses to let this user in" in world.refused()
    signed(plenum, world.alice, "alice", "wrong")
    assert "the server does not trust our certificate" in world.refused()
    # A name in the list is its certificate's alone.
    signed(plenum, world.alice, "alice", "ca")
    plenum.run("key", "trust", "alice", "sha256:" + 64 * "7", env=world.server)
    assert "does not trust our certificate" in world.refused()
    wait_for(lambda: "another certificate is trusted by that name" in plenum.err(world.s))
    plenum.run("key", "remove", "alice", env=world.server)
    # The server of another host.
    signed(plenum, world.server, "s", "ca", ext="subjectAltName=DNS:elsewhere")
    assert "signed for another host than 127.0.0.1" in world.refused()
    # A name that would be something else in an access file.
    signed(plenum, world.server, "s", "ca", ext="subjectAltName=IP:127.0.0.1")
    signed(plenum, world.alice, "*", "ca")
    assert "does not trust our certificate" in world.refused()
    wait_for(lambda: "no common name that can be used here" in plenum.err(world.s))


# ---- pre-shared keys ----

def test_psk(world, plenum):
    bob = keys(plenum, "bob")
    line = plenum.run("key", "psk", "bob", env=world.server).stdout
    world.serve()
    plenum.run("key", "psk", "--install", "127.0.0.1", env=bob, input=line)
    assert files(world.ls(bob).out) == ["hello", "pub"]
    assert os.stat(bob["PLENUM_KEYS"] + "/psk").st_mode & 0o7777 == 0o600
    plenum.run("key", "remove", "127.0.0.1", env=bob)
    wrong = line.split()[2][:-2] + (b"00" if line.strip()[-2:] != b"00" else b"01")
    plenum.run("key", "psk", "--install", "127.0.0.1", env=bob, input=b"bob bob " + wrong + b"\n")
    assert "the pre-shared key 127.0.0.1 is another there" in world.refused(bob)
    wait_for(lambda: "the client has another pre-shared key bob than we" in plenum.err(world.s))
    assert "not a pre-shared key" in plenum.error("key", "psk", "--install", input=b"x\n", env=bob)


@openssl
def test_foreign_client_by_psk(world, plenum):
    """openssl s_client says Tversion, which our server answers."""
    line = plenum.run("key", "psk", "bob", env=world.server).out.split()
    world.serve()
    host, port = world.s.addr.split("!")[1:]
    p = subprocess.Popen(["openssl", "s_client", "-quiet", "-tls1_3", "-connect", f"{host}:{port}", "-psk", line[2],
                          "-psk_identity", "bob"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL)
    version = b"9P2000.L"
    p.stdin.write((13 + len(version)).to_bytes(4, "little") + b"\x64\xff\xff" + (8192).to_bytes(4, "little") +
                  len(version).to_bytes(2, "little") + version)
    p.stdin.flush()
    answer = p.stdout.read(21)
    p.kill()
    p.wait()
    p.stdin.close()
    p.stdout.close()
    assert answer[4] == 101 and answer.endswith(version)


@openssl
@pytest.mark.parametrize("version", ["-tls1_2"])
def test_older_tls(world, plenum, version):
    world.friends().serve()
    host, port = world.s.addr.split("!")[1:]
    p = subprocess.run(["openssl", "s_client", version, "-connect", f"{host}:{port}"], capture_output=True,
                       stdin=subprocess.DEVNULL, timeout=30)
    assert b"alert protocol version" in p.stderr
    wait_for(lambda: "the client does not speak TLS 1.3" in plenum.err(world.s))


# ---- use ----

@fuse
def test_mount(world, plenum):
    world.friends().serve()
    m = plenum.dir("m")
    plenum.run("mount", world.spec, m, env=world.alice)
    assert (m / "hello").read_text() == "hallo\n"
    if os.geteuid() != 0:
        data = os.urandom(3 << 20)
        (m / "big").write_bytes(data)
        assert (world.files / "big").read_bytes() == data
    plenum.run("umount", m)
    assert not mounted(m)


@fuse
@root
def test_bytes_through_a_mount(world, plenum):
    world.friends()
    access = plenum.tmp / "access"
    access.write_text("cert:alice / rw root\n")
    world.serve("--access", access)
    m = plenum.dir("m")
    plenum.run("mount", world.spec, m, env=world.alice)
    data = os.urandom(20 << 20)
    (m / "big").write_bytes(data)
    assert (world.files / "big").read_bytes() == data
    (world.files / "big2").write_bytes(data)
    assert (m / "big2").read_bytes() == data
    plenum.run("umount", m)


def test_listen_and_dial(world, plenum):
    world.friends()
    s = plenum.start("listen", "tls!127.0.0.1!0", "sh", "-c", 'echo "$PLENUM_WHO $PLENUM_CHANNEL"; exec cat',
                     env=world.server)
    plenum.listening(s)
    addr = plenum.err(s).split(" on ")[1].split()[0]
    script = 'read a; echo "$a" >&2; head -c 3000000 /dev/zero & n=$(head -c 3000000 | wc -c); echo $n >&2; exit 5'
    p = plenum.run("dial", addr, "sh", "-c", script, rc=5, env=world.alice)
    assert p.err.splitlines() == ["cert:alice accepted", "3000000"]
    s.terminate()
    plenum.ended(s)


@fuse
def test_duct(world, plenum):
    world.friends()
    a, b, near = plenum.dir("a"), plenum.dir("b"), plenum.dir("near")
    (near / "mine").write_text("alice's\n")
    s = plenum.start("duct", "-l", "tls!127.0.0.1!0", world.files, a, env=world.server)
    plenum.listening(s)
    addr = plenum.err(s).split(" on ")[1].split()[0]
    c = plenum.start("duct", "-d", addr, near, b, env=world.alice)
    wait_for(lambda: mounted(a) and mounted(b))
    assert (a / "mine").read_text() == "alice's\n" and (b / "hello").read_text() == "hallo\n"
    plenum.run("umount", a)
    plenum.run("umount", b)
    plenum.ended(s)
    plenum.ended(c)


# ---- the access file ----

def test_bad_access_files(world, plenum):
    access = plenum.tmp / "access"
    for text, says in (("cert:a / rw\n", "line 1: too few words"),
                       ("# x\n\ncert:a / rw caller more\n", "line 3: too many words"),
                       ("cert:a / rx caller\n", "rx: neither ro nor rw"),
                       ("cert:a x ro caller\n", "x: not a path"),
                       ("bob / ro caller\n", "bob: not somebody"),
                       ("uid:nosuchuser / ro caller\n", "uid:nosuchuser: no such user"),
                       ("* / ro nosuchuser\n", "nosuchuser: no such user"),
                       ("* / ro map:x\n", "the whole path of a file is needed"),
                       ("* / ro map:/nosuchfile\n", "/nosuchfile: No such file")):
        access.write_text(text)
        said = plenum.error("serve", "--access", access, world.files, "unix!s")
        assert says in said and str(access) in said
    access.write_text("* / ro caller\n")
    access.chmod(0o666)
    assert "others may write to it" in plenum.error("serve", "--access", access, world.files, "unix!s")
    access.unlink()
    assert "No such file" in plenum.error("serve", "--access", access, world.files, "unix!s")


def own_id():
    return os.geteuid()


def test_access_by_certificate_and_key(world, plenum):
    bob = keys(plenum, "bob")
    line = plenum.run("key", "psk", "bob", env=world.server).stdout
    plenum.run("key", "psk", "--install", "127.0.0.1", env=bob, input=line)
    world.friends()
    access = plenum.tmp / "access"
    access.write_text(f"cert:alice /pub ro {own_id()}\nkey:b* / rw {own_id()}\n")
    world.serve("--access", access)
    assert "refuses to let this user in" in world.refused()
    pub = world.spec + ",aname=pub"
    assert plenum.run("cat", pub, "note", env=world.alice).out == "for all\n"
    for name in "pub/../hello", "..", "pubx", "/pub/..":
        plenum.error("ls", world.spec + f",aname={name}", env=world.alice)
    assert plenum.run("ls", world.spec + ",aname=//pub//", env=world.alice).out == "note\n"
    assert "Read-only file system" in plenum.error("mkdir", pub, "d", env=world.alice)
    assert "Read-only file system" in plenum.error("rm", pub, "note", env=world.alice)
    plenum.run("mkdir", world.spec, "d", env=bob)
    assert (world.files / "d").is_dir()
    # read again
    access.write_text(f"key:* /pub ro {own_id()}\ncert:* / ro {own_id()}\n")
    world.s.send_signal(signal.SIGHUP)
    wait_for(lambda: "read again" in plenum.err(world.s))
    assert files(world.ls().out) == ["d", "hello", "pub"]
    assert "refuses to let this user in" in world.refused(bob)
    # what is wrong changes nothing
    access.write_text("nonsense\n")
    world.s.send_signal(signal.SIGHUP)
    wait_for(lambda: "the old rules stay" in plenum.err(world.s))
    assert files(world.ls().out) == ["d", "hello", "pub"]


@root
def test_who_is_confined_reads_its_files_again(world, plenum):
    """Keys for each handshake, the access file and its maps when it is told to: also where the server
    can open nothing else any more."""
    maps = plenum.dir("maps")
    ids, names = maps / "ids", maps / "passwd"
    names.write_text("root:x:0:0::/:/bin/sh\n")
    ids.write_text(f"passwd {names}\n")
    access = plenum.dir("rules") / "access"
    access.write_text(f"cert:alice / rw map:{ids}\n")
    s = plenum.serve("--access", access, "mem:", "tls!127.0.0.1!0", env=world.server)
    spec = "9p:" + s.addr
    plenum.error("ls", spec, env=world.alice)
    world.friends()
    plenum.run("mkdir", spec, "d", env=world.alice)
    for f in access, ids:  # replaced, as an editor does
        (maps / "new").write_text(f.read_text() + "\n")
        os.rename(maps / "new", f)
        s.send_signal(signal.SIGHUP)
        wait_for(lambda: plenum.err(s).count("read again") == (1 if f == access else 2), plenum.err(s))
    assert plenum.run("ls", spec, env=world.alice).out == "d\n"
    # It dials tls! itself, again and again.
    t = plenum.serve(spec, f"unix!{plenum.tmp}/t", env=world.alice)
    assert plenum.run("ls", "9p:" + t.addr).out == "d\n"
    s.kill()
    s.wait()
    plenum.serve("--access", access, "mem:", s.addr, env=world.server)
    assert plenum.run("ls", "9p:" + t.addr).out == ""


def test_access_on_a_unix_socket(world, plenum):
    access = plenum.tmp / "access"
    access.write_text(f"uid:{own_id()} / ro caller\n")
    s = plenum.serve("--access", access, world.files, f"unix!{plenum.tmp}/s")
    assert files(plenum.run("ls", "9p:" + s.addr).out) == ["hello", "pub"]
    plenum.error("mkdir", "9p:" + s.addr, "d")
    access.write_text(f"uid:{own_id() + 1} / rw caller\n")
    s.send_signal(signal.SIGHUP)
    wait_for(lambda: "read again" in plenum.err(s))
    plenum.error("ls", "9p:" + s.addr)


def test_access_over_ssh_and_stdio(world, plenum):
    access = plenum.tmp / "access"
    access.write_text("ssh / ro caller\n")
    command = f"{PLENUM} serve --access {access} {world.files} stdio"
    assert "refuses to let this user in" in plenum.run("ls", f"exec:{command}", rc=1).err
    assert files(plenum.run("ls", f"exec:PLENUM_WHO=ssh {command}").out) == ["hello", "pub"]


@root
def test_as_whom(world, plenum):
    """One user, whoever calls; the caller, but root is nobody; a map."""
    world.friends()
    access, ids = plenum.tmp / "access", plenum.tmp / "ids"
    ids.write_text("uid 100000:0:65536\ngid 100000:0:65536\n")
    access.write_text("cert:alice / rw daemon\n")
    world.serve("--access", access)

    def made(name):
        plenum.run("mkdir", world.spec, name, env=world.alice)
        st = (world.files / name).stat()
        return st.st_uid, st.st_gid

    def rule(text):
        n = plenum.err(world.s).count("read again")
        access.write_text(text)
        world.s.send_signal(signal.SIGHUP)
        wait_for(lambda: plenum.err(world.s).count("read again") > n, plenum.err(world.s))

    assert made("a") == (1, 1)
    rule("cert:alice / rw caller\n")
    assert made("b") == (65534, 65534)
    rule("cert:alice / rw caller+root\n")
    assert made("c") == (0, 0)
    os.chown(world.files, 100000, 100000)
    rule(f"cert:alice / rw map:{ids}\n")
    assert made("d") == (100000, 100000)
    shown = {x.split()[-1]: x.split()[2:4] for x in
             plenum.run("ls", "-l", world.spec, env=world.alice).out.splitlines()}
    assert shown["d"] == ["root", "root"] and shown["c"][0] in ("nobody", "65534")


@root
def test_trusted_without_an_access_file_is_nobody(world, plenum):
    world.friends().serve()
    plenum.run("mkdir", world.spec, "d", env=world.alice)
    assert (world.files / "d").stat().st_uid == 65534
    (world.files / "secret").write_text("x")
    (world.files / "secret").chmod(0o600)
    assert "Permission denied" in plenum.error("cat", world.spec, "secret", env=world.alice)
