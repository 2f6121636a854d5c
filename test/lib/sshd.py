# SPDX-License-Identifier: MIT
"""An sshd of our own on the loopback interface, and what a user would have in ~/.ssh to log in there."""
import os
import pwd
import shutil
import socket
import subprocess

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
THERE = bool(os.access(SSHD, os.X_OK) and shutil.which("ssh"))


class Sshd:
    """Keys and a configuration in a directory of its own. Whoever made it runs `argv`; it says that it is
    listening on standard error. `lines` are added to the configuration."""

    def __init__(self, directory, lines=""):
        self.dir = directory
        os.makedirs(directory, mode=0o700, exist_ok=True)
        os.chmod(directory, 0o700)
        for name in "host", "user":
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{directory}/{name}"], check=True)
        shutil.copy(f"{directory}/user.pub", f"{directory}/authorized_keys")
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as s:
            self.port = s.getsockname()[1]
        self.config(lines)
        self.argv = [SSHD, "-D", "-e", "-f", f"{directory}/config"]
        self.name = f"{pwd.getpwuid(os.geteuid()).pw_name}@127.0.0.1"

    def config(self, lines):
        """Written anew; a running sshd reads it at SIGHUP."""
        with open(f"{self.dir}/config", "w") as f:
            f.write(f"""Port {self.port}
ListenAddress 127.0.0.1
HostKey {self.dir}/host
AuthorizedKeysFile {self.dir}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
Subsystem sftp /usr/lib/openssh/sftp-server
{lines}
""")

    def ssh(self, port=None, first="", args=""):
        """A program that runs ssh to it, or to a relay's port: for PLENUM_SSH. It does `first` before."""
        path = f"{self.dir}/ssh"
        with open(path, "w") as f:
            f.write(f"""#!/bin/sh
{first}
exec ssh -F none -p {port or self.port} -i {self.dir}/user -o IdentitiesOnly=yes -o StrictHostKeyChecking=no \\
    -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR {args} "$@"
""")
        os.chmod(path, 0o755)
        return path
