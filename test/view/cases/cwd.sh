cd doc/deep && pwd -P | sed "s|$V||" && cd ../../data/doc && pwd -P | sed "s|$V||" && pwd | sed "s|$V||"
ls f1 er 2>&1; cd deep && cat f10 && cd ../../src/lib && cat sum.h
(cd er 2>/dev/null || echo no er; cd "$V" && cat same/top)
readlink /proc/self/cwd | sed "s|$V||"
python3 -c 'import os; print(os.getcwd().split("/")[-1]); os.chdir(".."); print(open("value").read(), end="")
fd = os.open("lib", os.O_RDONLY); os.fchdir(fd); print(sorted(os.listdir("."))); print(os.stat("sum.c", dir_fd=fd).st_size)'
