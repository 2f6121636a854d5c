#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The server of a service that decides: nothing that ends in .lock is removed but by its owner.

    ./guard.py /run/guard.sock /srv &
    plenum mount 'service(guard/call=remove/match=*.lock,unix!/run/guard.sock,/srv)' /mnt
"""
import os
import socketserver
import sys
from urllib.parse import unquote_to_bytes


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"plenum-service 1\n")
        for line in self.rfile:
            seq, *words = line.split()
            if not seq.isdigit():
                continue  # the greeting, the goodbye
            op, want, result = words[:3]
            about = dict(w.split(b"=", 1) for w in words[3:])
            self.rfile.read(int(about.get(b"data", 0)))
            path = unquote_to_bytes(about.get(b"path", b""))
            mine = int(about[b"uid"]) in (0, os.stat(ROOT + path).st_uid)
            if want == b"ask":
                self.wfile.write(b"answer %s %s\n" % (seq, b"0" if mine else b"EPERM"))


ROOT = os.fsencode(sys.argv[2] if len(sys.argv) > 2 else "/srv")
if os.path.exists(sys.argv[1]):
    os.unlink(sys.argv[1])
socketserver.UnixStreamServer(sys.argv[1], Handler).serve_forever()
