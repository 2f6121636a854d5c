#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes the first inputs of the fuzzers of 9P sessions, by the rules of p9_steps.h, to
corpus/p9_server and corpus/p9_client. Run once when those rules change."""
import pathlib
import re

HERE = pathlib.Path(__file__).resolve().parent
TYPES = {name: int(n) for n, name in re.findall(r"M\((\d+), (\w+)", (HERE / "../../p9/table.h").read_text())}
STRINGS = ["", "f", "d", "g", "s", "up", "out", "abs", "..", ".", "/", "../canary", "/etc/passwd", "d/h", "h",
           "new", "host", "mem", "d/..", "user.x", "trusted.x", "security.x", "system.posix_acl_access", "root",
           "nobody", "../../../../etc", "proc", "9P2000.L", "9P2000.L.plenum", "canary"]
NOFID = 255
MESSAGE, FLUSH, VERSION, WAIT, HALVES, BROKEN, RAW, CUT = range(8)


def step(kind, *payload):
    return bytes([kind, len(payload), *payload])


def number(n):
    return [n] if n < 128 else [0xe7, *n.to_bytes(8, "big")]


def s(name):
    return STRINGS.index(name)


def msg(name, tag, *fields):
    return step(MESSAGE, TYPES[name], tag, *fields)


def attach(fid=0, aname=""):
    return msg("Tattach", 0, fid, NOFID, s("root"), s(aname), 0)


def walk(fid, newfid, *names):
    return msg("Twalk", 0, fid, newfid, len(names), *map(s, names))


def version(own=0, msize=1):
    return step(VERSION, own, msize)


def server():
    out = {}
    wait = step(WAIT)
    for own in 0, 1:
        for aname in "", "mem":
            base = version(own) + attach(0, aname)
            f = walk(0, 1, "f") + msg("Tlopen", 1, 1, 2)
            made = base + msg("Tmkdir", 1, 0, s("new"), *number(0o755), 0) + wait + walk(0, 2, "new")
            cases = {
                "read": f + msg("Tread", 2, 1, 0, 100) + msg("Twrite", 3, 1, 0, 3, 65, 66, 67) +
                msg("Tgetattr", 4, 1, 127) + msg("Tclunk", 5, 1) + wait,
                "dir": walk(0, 1) + msg("Tlopen", 1, 1, 0) + msg("Treaddir", 2, 1, 0, *number(4096)) +
                msg("Treaddir", 2, 1, 1, *number(512)),
                "up": walk(0, 1, "d") + walk(1, 2, "..", "..", "..") + walk(0, 3, "up") +
                msg("Treadlink", 1, 3) + walk(0, 4, "out", "canary") + walk(0, 5, "..", "canary") +
                msg("Tlink", 1, 0, 2, s("new")) + wait,
                "xattr": walk(0, 1, "f") + walk(1, 2) + msg("Txattrcreate", 1, 2, s("user.x"), 3, 0) +
                msg("Twrite", 1, 2, 0, 3, 65, 65, 65) + msg("Tclunk", 1, 2) + wait +
                msg("Txattrwalk", 1, 1, 3, s("user.x")) + msg("Tread", 2, 3, 0, 10) +
                msg("Txattrwalk", 1, 1, 4, s("")) + msg("Tread", 1, 4, 0, 100) + wait,
                "lock": f + walk(0, 2, "f") + msg("Tlopen", 1, 2, 2) + msg("Tlock", 2, 1, 1, 0, 0, 0, 1, 1) +
                wait + msg("Tlock", 3, 2, 1, 1, 0, 0, 2, 2) + msg("Tgetlock", 4, 2, 1, 0, 0, 2, 2) +
                step(FLUSH, 3) + wait,
                "set": walk(0, 1, "f") +
                msg("Tsetattr", 1, 1, *number(0x1ff), *number(0o600), 1, 1, 100, 1, 1, 1, 1) +
                msg("Tfsync", 1, 1, 1) + msg("Tstatfs", 2, 1) + msg("Trename", 3, 1, 0, s("new")) +
                msg("Tgetattr", 4, 1, 127) + wait,
            }
            for name, program in cases.items():
                out[f"{name}-{'own' if own else 'plain'}-{aname or 'host'}"] = base + program
            out[f"make-{'own' if own else 'plain'}-{aname or 'host'}"] = (
                made + msg("Tsymlink", 1, 2, s("s"), s("../canary"), 0) +
                msg("Tmknod", 2, 2, s("g"), *number(0o100644), 0, 0, 0) + walk(0, 3) +
                msg("Tlcreate", 3, 3, s("new"), 66, *number(0o644), 0) + wait +
                msg("Trenameat", 4, 2, s("g"), 0, s("h")) + msg("Tunlinkat", 5, 2, s("s"), 0) +
                msg("Tremove", 6, 2) + wait)
            if own:
                out[f"own-{aname or 'host'}"] = (
                    base + f + wait + msg("Tfallocate", 1, 1, 0, 0, *number(4096)) + msg("Tseek", 2, 1, 0, 4) +
                    walk(0, 2, "g") + msg("Tlopen", 1, 2, 2) + msg("Tcopy", 3, 1, 0, 2, 0, 100) +
                    msg("Ttmpfile", 4, 0, 2, *number(0o600), 0, 3) + msg("Taccess", 5, 1, 4) +
                    msg("Tflushfile", 6, 1, 1) + msg("Tsyncfs", 7, 1) + msg("Tlookup", 1, 0, 4, s("d")) +
                    msg("Trename2", 2, 0, s("f"), 0, s("g"), 2) + msg("Tioctl", 3, 1, 1, 16, 4, 1, 2, 3, 4) +
                    msg("Tkey", 4, 1) + msg("Tlist", 5, 0, 0, *number(4096)) + msg("Tsession", 6, 1, 2) +
                    wait + msg("Tend", 1))
    out["again"] = (version() + attach() + walk(0, 1, "f") + version(1) + attach(0, "mem") + walk(0, 1, "f") +
                    version(0, 3) + attach())
    out["flushes"] = version() + attach() + b"".join(walk(0, i, "f") + step(FLUSH, i) for i in range(1, 8)) + wait
    out["broken"] = version() + attach() + step(BROKEN, 0, TYPES["Twalk"], 0, 0, 1, 1, 1, 8) + attach()
    out["raw"] = step(RAW, *b"GET / HTTP/1.0\r\n\r\n")
    out["cut"] = version() + attach() + step(CUT, 9, TYPES["Twrite"], 0, 1, 0, 200, 1)
    out["halves"] = (version() + attach() + step(HALVES, 3, TYPES["Twalk"], 0, 0, 1, 1, 1) +
                     step(HALVES, 30, TYPES["Twrite"], 0, 1, 0, 200, 1))
    return out


def client():
    """A lie at each of the first answers, and none."""
    out = {"honest": b"\0", "honest-own": b"\1"}
    for own in 0, 1:
        name = "own" if own else "plain"
        for at in range(0, 60, 4):
            kind = at // 4 % 12
            out[f"{name}-{at}"] = bytes([own]) + step(0) * at + step(kind, at % 8, 1, 130, 200, 3, 100)
        for at in range(3, 40, 5):
            out[f"{name}-repeat-{at}"] = bytes([own]) + step(0) * at + step(12, 200) + step(1, 255, 0, at, 5, 5, 5)
    return out


def write(kind, inputs):
    directory = HERE / "corpus" / kind
    directory.mkdir(exist_ok=True)
    for name, data in inputs.items():
        (directory / name).write_bytes(data)


write("p9_server", server())
write("p9_client", client())
