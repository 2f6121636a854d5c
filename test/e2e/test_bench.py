# SPDX-License-Identifier: MIT
"""The tools that the benchmarks measure with: a floor that does not answer measures nothing."""
import os
import signal
import subprocess

import pytest
from conftest import PLENUM, TOP, fuse, mounted, root, wait_for

BUILD = os.path.abspath(os.environ.get("PLENUM_BUILD", TOP / "build"))
RAWFUSE, ONEFILE, PAUSE = (f"{BUILD}/bench/{name}" for name in ("rawfuse", "onefile", "pause"))

pytestmark = [fuse, root, pytest.mark.skipif(not os.path.exists(RAWFUSE), reason="bench is not built")]


def raw(plenum, *options):
    """A mounted rawfuse: its directory and process."""
    d = plenum.dir("raw")
    p = plenum.start(argv=[RAWFUSE, *options, str(d)], stdout=subprocess.PIPE, text=True)
    wait_for(lambda: mounted(d) or p.poll() is not None, "rawfuse does not mount")
    assert p.poll() is None, plenum.err(p)
    return d, p


def test_raw_server_answers(plenum):
    d, p = raw(plenum, "-n", "1000")
    assert len(os.listdir(d)) == 1000
    assert (d / "f000999").read_bytes() == b"r" * 65536
    assert not (d / "f001000").exists()
    for kind in ("stat", "open"):
        out = subprocess.run([ONEFILE, kind, "1", d / "f000000", PLENUM], capture_output=True, check=True).stdout
        through, native = map(float, out.split())
        assert through > native > 0
    subprocess.run(["umount", d], check=True)
    assert plenum.ended(p) == ""


def test_raw_server_hands_a_file_to_the_kernel(plenum):
    real = plenum.tmp / "real"
    real.write_bytes(b"real" * 1024)
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 9):
        pytest.skip("the kernel has no passthrough")
    d, p = raw(plenum, "-p", str(real), "-F")
    with open(d / "f000000", "r+b", buffering=0) as f:
        assert f.read(8) == b"realreal"
        os.kill(p.pid, signal.SIGSTOP)
        try:
            assert os.pread(f.fileno(), 4, 4092) == b"real"  # nobody but the kernel can have answered
        finally:
            os.kill(p.pid, signal.SIGCONT)
    subprocess.run(["umount", d], check=True)
    plenum.ended(p)


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["read", "stat"])
def test_pause_of_a_client_while_servers_die(plenum, kind):
    d, p = raw(plenum, "-k")
    client = plenum.start(argv=[PAUSE, d / "f000000", kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True)

    def say(command):
        print(command, file=client.stdin, flush=True)
        return client.stdout.readline()

    for _ in range(30):
        assert say(f"kill {p.stdout.readline().strip()}") == "ok\n"
        waited, longest, calls, errors, errno = map(int, say("report").split())
        assert (errors, errno) == (0, 0)
        assert calls > 0 and 0 < waited and 0 < longest
    client.stdin.close()
    plenum.ended(client)
    subprocess.run(["umount", d], check=True)
    plenum.ended(p)


def test_pause_tells_failed_calls(plenum):
    d, p = raw(plenum)  # without -k: the mount dies with its server
    client = plenum.start(argv=[PAUSE, d / "f000000", "stat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True)
    print(f"kill {p.stdout.readline().strip()}\nreport", file=client.stdin, flush=True)
    assert client.stdout.readline() == "ok\n"
    plenum.ended(p, rc=-signal.SIGKILL)
    print("mark\nreport", file=client.stdin, flush=True)
    client.stdout.readline(), client.stdout.readline()
    _, _, calls, errors, errno = map(int, client.stdout.readline().split())
    assert errors == calls and errno
    client.stdin.close()
    plenum.ended(client)
