#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""QEMU's 9P server on standard input and output: usage: qemu9p.py DIR

QEMU has it as a virtio device only. So this is the driver of a machine that never runs: through
QEMU's qtest protocol it sets up the device and its ring, and passes messages between the ring and
the standard descriptors. Used as `9p:exec!...` and `exec:...`.
"""
import base64
import os
import select
import struct
import subprocess
import sys

MMIO = 0xFEB00000  # of microvm's first virtio-mmio bus
RING, SLOTS, ROOM = 0x100000, 16, (1 << 20) + 4096  # a slot: a request and room for its answer
BUFFERS = 0x200000
DESC, AVAIL, USED = RING, RING + 0x1000, RING + 0x2000


class Machine:
    def __init__(self, directory):
        self.qemu = subprocess.Popen(
            ["qemu-system-x86_64", "-M", "microvm,rtc=off,isa-serial=off", "-nodefaults", "-display", "none",
             "-m", "64", "-S", "-qtest", "stdio", "-qtest-log", "/dev/null",
             "-global", "virtio-mmio.force-legacy=false",
             "-fsdev", f"local,id=f,path={directory},security_model=passthrough,multidevs=remap",
             "-device", "virtio-9p-device,fsdev=f,mount_tag=t,bus=virtio-mmio-bus.0"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, text):
        self.qemu.stdin.write(text.encode() + b"\n")
        self.qemu.stdin.flush()
        while not (line := self.qemu.stdout.readline()).startswith(b"OK"):
            assert line.startswith(b"IRQ"), (text[:60], line)
        return line[2:].strip()

    def reg(self, at, value=None):
        if value is None:
            return int(self.ask(f"readl {MMIO + at:#x}"), 16)
        return self.ask(f"writel {MMIO + at:#x} {value:#x}")

    def put(self, at, data):
        self.ask(f"b64write {at:#x} {len(data)} {base64.b64encode(data).decode()}")

    def get(self, at, n):
        return base64.b64decode(self.ask(f"b64read {at:#x} {n}"))

    def start(self):
        assert self.reg(0) == 0x74726976 and self.reg(8) == 9, "no 9P device there"
        self.reg(0x70, 0)
        self.reg(0x70, 3)
        for half, features in (0, 0), (1, 1):  # VIRTIO_F_VERSION_1
            self.reg(0x24, half)
            self.reg(0x20, features)
        self.reg(0x70, 11)
        self.reg(0x30, 0)
        self.reg(0x38, 2 * SLOTS)
        for at, address in (0x80, DESC), (0x90, AVAIL), (0xA0, USED):
            self.reg(at, address)
            self.reg(at + 4, 0)
        self.reg(0x44, 1)
        self.reg(0x70, 15)


def read_all(n):
    data = b""
    while len(data) < n:
        more = os.read(0, n - len(data))
        if not more:
            return None
        data += more
    return data


def write_all(data):
    while data:
        data = data[os.write(1, data):]


def main():
    m = Machine(sys.argv[1])
    m.start()
    free, sent, taken = list(range(SLOTS)), 0, 0
    while True:
        busy = len(free) < SLOTS
        if free and select.select([0], [], [], 0.0005 if busy else None)[0]:
            head = read_all(4)
            if head is None:
                break
            request = head + read_all(struct.unpack("<I", head)[0] - 4)
            slot = free.pop()
            at = BUFFERS + 2 * slot * ROOM
            m.put(at, request)
            m.put(DESC + 32 * slot, struct.pack("<QIHHQIHH", at, len(request), 1, 2 * slot + 1,
                                                at + ROOM, ROOM, 2, 0))
            m.put(AVAIL + 4 + 2 * (sent % (2 * SLOTS)), struct.pack("<H", 2 * slot))
            sent += 1
            m.put(AVAIL, struct.pack("<HH", 0, sent & 0xFFFF))
            m.reg(0x50, 0)
        while busy and taken & 0xFFFF != struct.unpack("<H", m.get(USED + 2, 2))[0]:
            slot, n = struct.unpack("<II", m.get(USED + 4 + 8 * (taken % (2 * SLOTS)), 8))
            answer = m.get(BUFFERS + slot * ROOM + ROOM, n or 7)
            # It says 0 bytes when a Twstat changed nothing (7.2: v9fs_wstat() completes with 0).
            write_all(answer if n else struct.pack("<I", 7) + answer[4:])
            free.append(slot // 2)
            taken += 1
    m.qemu.kill()


if __name__ == "__main__":
    main()
