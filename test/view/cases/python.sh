python3 - <<'P'
import os, mmap, shutil, tempfile, glob, fcntl, errno, threading, socket, pathlib
print(sorted(glob.glob("doc/deep/f1*")), sorted(os.listdir("same")))
print(sorted((e.name, e.is_dir(follow_symlinks=False), e.is_symlink()) for e in os.scandir("data")))
with open("data/random", "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
    m[0:5] = b"HELLO"; m.flush()
print(open("data/random", "rb").read(5))
shutil.copytree("src", "src2"); shutil.move("src2", "a-src"); print(sorted(str(p) for p in pathlib.Path("a-src").rglob("*")))
shutil.rmtree("a-src")
d = os.open("doc", os.O_RDONLY | os.O_DIRECTORY)
f = os.open("deep/f20", os.O_RDWR, dir_fd=d); os.write(f, b"LINE"); os.lseek(f, 0, 0); print(os.read(f, 9)); os.close(f)
os.rename("deep/f20", "f20", src_dir_fd=d, dst_dir_fd=d); os.mkdir("made", dir_fd=d); os.symlink("f20", "l", dir_fd=d); print(os.readlink("l", dir_fd=d), sorted(os.listdir(d)))
os.unlink("f20", dir_fd=d); os.rmdir("made", dir_fd=d); os.close(d)
f = open("same/both"); os.unlink("same/both"); print(f.read(), os.path.exists("same/both"), os.fstat(f.fileno()).st_nlink)
f = os.open("same", os.O_RDWR | os.O_TMPFILE, 0o600); os.write(f, b"tmp"); os.link(f"/proc/self/fd/{f}", "same/linked", src_dir_fd=f, follow_symlinks=True); print(open("same/linked").read())
for path, flags in (("same", os.O_WRONLY), ("src/value", os.O_RDONLY | os.O_DIRECTORY), ("bin/link", os.O_RDONLY | os.O_NOFOLLOW), ("new/", os.O_CREAT | os.O_WRONLY), ("src/value", os.O_CREAT | os.O_EXCL), ("", os.O_RDONLY), ("x" * 256, os.O_RDONLY), ("src/value/x", os.O_RDONLY), ("data/loop", os.O_RDONLY), ("no/no", os.O_CREAT)):
    try:
        os.close(os.open(path, flags)); print(path[:9], "opened")
    except OSError as e:
        print(path[:9], errno.errorcode[e.errno])
def spin(n):
    for i in range(50):
        p = f"doc/deep/t{n}.{i}"; open(p, "w").write(p); os.rename(p, p + "x"); assert open(p + "x").read() == p; os.unlink(p + "x")
ts = [threading.Thread(target=spin, args=(n,)) for n in range(8)]; [t.start() for t in ts]; [t.join() for t in ts]; print(len(os.listdir("doc/deep")))
with open("src/value", "r+") as f: fcntl.lockf(f, fcntl.LOCK_EX); fcntl.flock(f, fcntl.LOCK_EX); print("locked")
s = socket.socket(socket.AF_UNIX); s.bind("same/sock"); s.listen(1)
c = socket.socket(socket.AF_UNIX); c.connect("same/sock"); a, _ = s.accept(); c.send(b"over a socket"); print(a.recv(20)); print(oct(os.stat("same/sock").st_mode & 0o170000))
os.unlink("same/sock"); print(os.statvfs(".").f_namemax)
print(os.path.realpath("data/doc/deep/../private").rsplit("/", 2)[1:], os.access("doc/private", os.R_OK | os.W_OK), os.access("doc/private", os.X_OK))
os.truncate("doc/deep/f30", 4); print(open("doc/deep/f30").read()); os.utime("doc/deep/f30", ns=(1, 2)); print(os.stat("doc/deep/f30").st_mtime_ns)
P
