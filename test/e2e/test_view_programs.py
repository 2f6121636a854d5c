# SPDX-License-Identifier: MIT
"""Programs in a view, through every door: what they print and what they leave behind is compared with the
same programs on a plain copy of the merged tree. A case is a shell script in test/view/cases."""
import pathlib
import shutil
import subprocess

import pytest

from conftest import PLENUM

VIEW = pathlib.Path(__file__).resolve().parents[1] / "view"
CASES = sorted(p.stem for p in (VIEW / "cases").glob("*.sh"))
DOORS = ["mount", "trap", "preload"]
# Everything but what differs from file system to file system: sizes and times of directories, free space;
# and `nested`, in which the place itself is named.
STATE = r"""find . \( -type d -printf '%P/ %m %u %g\n' \) -o ! -name nested -printf '%P %y %m %n %s %u %g %l\n' | LC_ALL=C sort
find . -type f ! -name nested -exec cksum {} + | LC_ALL=C sort -k3"""
STATE_IN = f'cd "$V" && {{ {STATE}\n}}'


@pytest.fixture
def trees(plenum):
    base = str(plenum.tmp)
    subprocess.run([VIEW / "trees", base], check=True)
    return base


def script(name):
    return f"cd \"$V\" || exit 99\n{(VIEW / 'cases' / name).with_suffix('.sh').read_text()}\n"


def run(argv, where, text):
    """Output and status, with the place where it ran taken out."""
    p = subprocess.run([*argv, "bash", "-c", text], env={"V": where, "PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": where, "LC_ALL": "C.UTF-8"},
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    return p.stdout.decode(errors="replace").replace(where, "$V").splitlines(), p.returncode


def door_there(door):
    p = subprocess.run([PLENUM, "run", f"--door={door}", "--", "true"], capture_output=True, text=True, timeout=60)
    return p.returncode == 0, p.stderr


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("case", CASES)
def test_program(trees, door, case):
    if case == "numbers" and door != "mount":
        pytest.skip("descriptors are those of the files, whose number changes when they are copied up")
    there, why = door_there(door)
    assert there, why
    low_before = run([], f"{trees}/low", STATE_IN)
    view = [PLENUM, "run", f"--door={door}", "--view", f"{trees}/top", f"{trees}/low", "--"]
    want, status = run([], f"{trees}/mix", script(case))
    got, got_status = run(view, f"{trees}/top", script(case))
    assert got == want
    assert got_status == status
    # Seen by another run of the same view: nothing was remembered only.
    assert run(view, f"{trees}/top", STATE_IN) == run([], f"{trees}/mix", STATE_IN)
    assert run([], f"{trees}/low", STATE_IN) == low_before, "what is behind was written to"
