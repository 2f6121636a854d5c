"""Single operations on a mounted host directory."""
import pathlib
import shutil
import tempfile

from .common import goal, median, one_processor, program, quick, rounds, run, table
from .mounts import Mounts


def fuse():
    kinds = [("stat", 3000), ("open", 3000), ("create", 2000), ("unlink", 2000), ("rename", 1500),
             ("mkdir", 1500), ("readdir", 50), ("seqwrite", 128), ("seqread", 128), ("rand4k", 5000)]
    if quick:
        kinds = [(k, max(n // 4, 20)) for k, n in kinds]
    source = tempfile.mkdtemp(prefix="plenum-src.", dir="/dev/shm")
    figures = {}
    fsops = program("fsops")
    try:
        for i in range(300):
            pathlib.Path(source, f"e{i}").write_text("x")
        with one_processor(), Mounts(source, ["native", "plenum", "bindfs", "sshfs"]) as m:
            for _ in range(rounds):
                for name in m.names:
                    d = m.mount(name)
                    run([fsops, d, "seqwrite", "128"])
                    for kind, n in kinds:
                        figures.setdefault((kind, name), []).append(float(run([fsops, d, kind, str(n)])))
                    m.umount(d)
            names = m.names
    finally:
        shutil.rmtree(source)
    rows = []
    for kind, _ in kinds:
        med = {n: median(figures[kind, n]) for n in names}
        row = [kind] + [f"{med[n] / 1000:.1f}" for n in names] + [f"{med['plenum'] / med['native']:.2f}"]
        for peer in names[2:]:
            row.append(f"{med['plenum'] / med[peer]:.2f}")
        rows.append(row)
        if "bindfs" in med:
            goal(f"{kind} : bindfs", med["plenum"] / med["bindfs"], 1.0, "low")
    table("Fuse: a mounted host directory on tmpfs, us an operation (a MiB for seq*)",
          [""] + names + ["/native"] + [f"/{p}" for p in names[2:]], rows)
