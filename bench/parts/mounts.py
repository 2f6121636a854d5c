"""The candidates: file servers that offer the same host directory through a mount."""
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

from . import common

sftp = "/usr/lib/openssh/sftp-server"
built = common.out / "peers"


def libfuse_examples():
    """Builds libfuse's examples; says so when one is missing, whose columns then are."""
    r = subprocess.run([str(common.top / "bench/peers"), str(built)], text=True, stderr=subprocess.PIPE)
    if r.returncode:
        print(f"libfuse's examples could not all be built:\n{r.stderr.strip()}")


def present(names):
    """Those of them that can be mounted here and now."""
    def is_there(name):
        if name in ("native", "plenum"):
            return True
        if name in ("noopen", "nopassthrough"):
            return common.has_option(name)
        if name.startswith("passthrough_"):
            return os.access(built / name, os.X_OK)
        return bool(shutil.which(name))
    return [n for n in names if is_there(n)]


class Mounts:
    """Mounts of one host directory; they are always taken away."""

    def __init__(self, source, names):
        self.source = source
        self.names = present(names)
        self.base = pathlib.Path(tempfile.mkdtemp(prefix="plenum-bench."))
        self.up = []
        self.servers = []

    def command(self, name, d, options):
        o = ["-o", options] if options else []
        if name == "plenum":
            return [common.plenum, "mount", *o, self.source, d]
        if name in ("noopen", "nopassthrough"):
            return [common.plenum, "mount", "-o", ",".join([name] + o[1:]), self.source, d]
        if name == "passthrough_ll":  # its best: the kernel may keep everything
            return [str(built / name), "-o", f"source={self.source},cache=always", d]
        if name == "sshfs":  # its own protocol over a pipe, no encryption: its best case
            bridge = self.base / "sftp.sh"
            bridge.write_text(f"#!/bin/sh\nexec {sftp}\n")
            bridge.chmod(0o755)
            return ["sshfs", "-o", f"ssh_command={bridge}", f"x:{self.source}", d]
        if name == "bindfs":
            return ["bindfs", *o, self.source, d]
        return [str(built / name), self.source, d]

    def mount(self, name, options=""):
        """Where the candidate's files are. `options` are for plenum and bindfs."""
        if name == "native":
            return self.source
        d = self.base / name
        d.mkdir(exist_ok=True)
        with open(self.base / "errors", "w+") as errors:  # a daemon may keep it open: no pipe
            r = subprocess.run(self.command(name, str(d), options), stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=errors, timeout=60)
            errors.seek(0)
            if r.returncode:
                raise SystemExit(f"{name} cannot be mounted: {errors.read().strip()}")
        self.wait(d)
        return str(d)

    def raw(self, label, *options):
        """bench/rawfuse, which ends when it is unmounted; returns the directory and the process."""
        d = self.base / label
        d.mkdir(exist_ok=True)
        p = subprocess.Popen([common.program("rawfuse"), *options, str(d)], stdout=subprocess.PIPE, text=True)
        self.servers.append(p)
        self.wait(d)
        return str(d), p

    def wait(self, d):
        for _ in range(500):  # some return before they have mounted
            if os.path.ismount(d):
                break
            time.sleep(0.02)
        else:
            raise SystemExit(f"{d}: not mounted after 10 s")
        self.up.append(str(d))

    def umount(self, d):
        if d in self.up:
            for _ in range(50):
                if subprocess.run(["umount", d], stderr=subprocess.DEVNULL).returncode == 0:
                    break
                time.sleep(0.1)
            self.up.remove(d)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for d in list(self.up):
            subprocess.run(["umount", "-l", d], stderr=subprocess.DEVNULL)
        for p in self.servers:
            try:
                p.wait(5)
            except subprocess.TimeoutExpired:
                p.terminate()
                p.wait()
        shutil.rmtree(self.base, ignore_errors=True)
