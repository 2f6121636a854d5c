/* SPDX-License-Identifier: MIT */
/* The trap door: calls in a view, compared with the same calls in a plain directory. */
#include "test/unit/trap_fixture.h"

#include <dirent.h>
#include <linux/openat2.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/un.h>
#include <sys/xattr.h>

static char long_name[300], long_path[PATH_MAX + 200];

static void make_long(void)
{
    memset(long_name, 'n', 256);
    for (size_t i = 0; i + 2 < sizeof(long_path); i += 2)
        memcpy(long_path + i, "./", 2);
}

static void names(const char *dir)
{
    make_long();
    R(mkdir("d", 0755));
    R(mkdir("f", 0755));
    R(mkdir("f/", 0755));
    R(mkdir("new", 0750));
    R(mkdir("new/", 0750));
    R(mkdir("new2/", 0750));
    R(mkdir("new/a/b", 0755));
    R(mkdir("f/x", 0755));
    R(mkdir("", 0755));
    R(mkdir(".", 0755));
    R(mkdir("..", 0755));
    R(mkdir("ld/in", 0755));
    R(mkdir("dangling", 0755));
    R(mkdir("loop/x", 0755));
    R(mkdir(long_name, 0755));
    R(mkdir(long_path, 0755));
    R(mkdir((char *)8, 0755));
    R(rmdir("d"));
    R(rmdir("f"));
    R(rmdir("."));
    R(rmdir("empty/"));
    R(rmdir("empty"));
    R(rmdir("new/."));
    R(unlink("d"));
    R(unlink("f/"));
    R(unlink("ld/"));
    R(unlink("nothing"));
    R(unlink("l"));
    R(unlink("."));
    R(symlink("f", "l"));
    R(symlink("f", "l"));
    R(symlink("f", "s/"));
    R(symlink("", "s"));
    R(link("f", "h"));
    R(link("f", "h"));
    R(link("d", "hd"));
    R(link("l", "hl"));
    R(linkat(AT_FDCWD, "l", AT_FDCWD, "hf", AT_SYMLINK_FOLLOW));
    R(rename("h", "g"));
    R(rename("g", "d"));
    R(rename("d", "g"));
    R(rename("d", "d/in"));
    R(rename("d", "new"));
    R(rename("nothing", "new"));
    R(rename("g/", "gg"));
    R(rename("g", "gg/"));
    R(rename(".", "x"));
    R(renameat2(AT_FDCWD, "g", AT_FDCWD, "f", RENAME_NOREPLACE));
    R(renameat2(AT_FDCWD, "g", AT_FDCWD, "hf", RENAME_EXCHANGE));
    R(renameat2(AT_FDCWD, "g", AT_FDCWD, "hf", 3));
    R(mknod("fifo", S_IFIFO | 0644, 0));
    R(mknod("node", 0644, 0));
    R(mknod("dir", S_IFDIR | 0644, 0));
    R(access("gone/../f", F_OK));
    R(access("f/../f", F_OK));
    R(access("d/../f", F_OK));
    R(access("f/.", F_OK));
    show("new/x");
    show("d/x");
    show("hf");
}

static void print_stat(const char *name, int r, const struct stat *st)
{
    if (r < 0)
        printf("%s: %s\n", name, strerrorname_np(errno));
    else
        printf("%s: %o n%lu s%ld t%ld\n", name, st->st_mode,
               S_ISDIR(st->st_mode) ? 0 : (unsigned long)st->st_nlink,
               S_ISREG(st->st_mode) ? (long)st->st_size : 0,
               st->st_mtime > 2000000 ? 0 : (long)st->st_mtime);
}

static void stats(const char *dir)
{
    static const char *const paths[] = {"f", "d", "l",    "ld",  "ld/",  "dangling", "loop",   "f/",
                                        "",  ".", "d/..", "d/x", "ld/x", "./d//x",   "nothing"};
    struct timespec t[2] = {{1000123, 5}, {1000456, 7}};
    struct stat st, st2;
    struct statx sx;
    struct statfs fs;
    char buf[100];
    make_long();
    umask(027);
    OK(utimensat(AT_FDCWD, "f", t, 0));
    OK(utimensat(AT_FDCWD, "l", t, AT_SYMLINK_NOFOLLOW));
    OK(utimensat(AT_FDCWD, "d", t, 0));
    R(open("made", O_CREAT | O_RDWR, 0666) < 0);
    R(mkdir("madedir", 0777));
    for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
        bool d = strchr(paths[i], '.'); /* whose times are those of the run */
        int r = stat(paths[i], &st);
        st.st_mtime = d ? 0 : st.st_mtime;
        print_stat(paths[i], r, &st);
        r = lstat(paths[i], &st);
        st.st_mtime = d || S_ISLNK(st.st_mode) ? 0 : st.st_mtime;
        print_stat(paths[i], r, &st);
        OK(statx(AT_FDCWD, paths[i], 0, STATX_BASIC_STATS, &sx));
        R(access(paths[i], R_OK));
        R(readlink(paths[i], buf, sizeof(buf)));
        R(statfs(paths[i], &fs));
        OK(getxattr(paths[i], "user.none", buf, 10));
    }
    R(stat((char *)8, &st));
    R(stat("f", (struct stat *)8));
    R(stat(long_path, &st));
    R(readlink("l", buf, 0));
    R(faccessat(AT_FDCWD, "f", 8, 0));
    int fd = open("f", O_RDONLY), dfd = open("d", O_RDONLY);
    R(fstat(fd, &st));
    R(stat("f", &st2));
    R(st.st_ino == st2.st_ino && st.st_dev == st2.st_dev);
    R(fstat(dfd, &st));
    R(stat("d", &st2));
    R(st.st_ino == st2.st_ino && st.st_dev == st2.st_dev);
    R(fstatat(dfd, "", &st, AT_EMPTY_PATH));
    R(S_ISDIR(st.st_mode));
    R(fstatat(dfd, "x", &st, 0));
    R(fstatat(fd, "x", &st, 0));
    R(fstatat(77, "x", &st, 0));
    R(chmod("f", 0600));
    R(fchmod(fd, 04755));
    R(fchmod(dfd, 0700));
    R(chmod("dangling", 0600));
    R(truncate("f", 2));
    R(truncate("d", 2));
    R(truncate("f", -1));
    OK(futimens(fd, t));
    print_stat("f", stat("f", &st), &st);
    print_stat("d", stat("d", &st), (st.st_mtime = 0, &st));
    print_stat("made", stat("made", &st), (st.st_mtime = 0, &st));
    print_stat("madedir", stat("madedir", &st), (st.st_mtime = 0, &st));
    show("f");
}

static long openat_how(const char *path, uint64_t flags, uint64_t resolve)
{
    struct open_how how = {.flags = flags, .resolve = resolve};
    long fd = syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
    if (fd >= 0)
        close((int)fd);
    return fd < 0 ? -1 : 0;
}

static int flags_of(const char *path, int flags)
{
    int fd = open(path, flags, 0644);
    if (fd < 0)
        return -1;
    int r = fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK);
    r |= (fcntl(fd, F_GETFD) & FD_CLOEXEC) << 20;
    close(fd);
    return r;
}

static void opens(const char *dir)
{
    char buf[20] = {0};
    make_long();
    R(flags_of("f", O_RDONLY));
    R(flags_of("f", O_RDWR | O_APPEND));
    R(flags_of("f", O_WRONLY | O_CLOEXEC));
    R(flags_of("f", O_RDONLY | O_NONBLOCK));
    R(flags_of("d", O_RDONLY | O_CLOEXEC));
    R(flags_of("d", O_RDWR));
    R(flags_of("d", O_RDONLY | O_CREAT));
    R(flags_of("d", O_RDONLY | O_TRUNC));
    R(flags_of("f", O_RDONLY | O_DIRECTORY));
    R(flags_of("l", O_RDONLY | O_NOFOLLOW));
    R(flags_of("ld", O_RDONLY | O_NOFOLLOW));
    R(flags_of("ld/", O_RDONLY | O_NOFOLLOW));
    R(flags_of("loop", O_RDONLY));
    R(flags_of("dangling", O_RDONLY));
    R(flags_of("f", O_CREAT | O_EXCL | O_RDWR));
    R(flags_of("dangling", O_CREAT | O_EXCL | O_RDWR));
    R(flags_of("dangling", O_CREAT | O_RDWR));
    R(access("nothing", F_OK));
    R(flags_of("new/", O_CREAT | O_RDWR));
    R(flags_of("f/", O_RDONLY));
    R(flags_of("f/", O_CREAT | O_RDWR));
    R(flags_of("none/new", O_CREAT | O_RDWR));
    R(flags_of("f/new", O_CREAT | O_RDWR));
    R(flags_of("", O_RDONLY));
    R(flags_of(long_name, O_RDONLY));
    R(flags_of(long_path, O_RDONLY));
    R(flags_of((char *)8, O_RDONLY));
    R(flags_of("d", O_CREAT | O_DIRECTORY));
    R(flags_of(".", O_TMPFILE));
    R(openat_how("d/../f", O_RDONLY, RESOLVE_BENEATH));
    R(openat_how("../f", O_RDONLY, RESOLVE_BENEATH));
    R(openat_how("/f", O_RDONLY, RESOLVE_BENEATH));
    R(openat_how("/f", O_RDONLY, RESOLVE_IN_ROOT));
    R(openat_how("../f", O_RDONLY, RESOLVE_IN_ROOT));
    R(openat_how("l", O_RDONLY, RESOLVE_NO_SYMLINKS));
    R(openat_how("ld/x", O_RDONLY, RESOLVE_NO_SYMLINKS));
    R(openat_how("f", O_RDONLY, RESOLVE_NO_SYMLINKS));
    R(openat_how("f", O_RDONLY, 1 << 20));
    int fd = open("f", O_RDWR | O_TRUNC);
    R(write(fd, "abc", 3));
    R(pread(fd, buf, 10, 0));
    int again = open("f", O_RDONLY);
    R(read(again, buf, 10));
    R(write(again, "x", 1));
    R(close(fd));
    show("f");
    fd = open("f", O_WRONLY | O_APPEND);
    R(write(fd, "de", 2));
    R(close(fd));
    show("f");
    fd = creat("c", 0400);
    R(write(fd, "x", 1));
    R(close(fd));
    show("c");
    fd = open("f", O_RDONLY);
    snprintf(buf, sizeof(buf), "/proc/self/fd/%d", fd);
    R(unlink("f"));
    R(read(fd, buf + 16, 1));
    R(flags_of("f", O_RDONLY));
    R(rename("d/x", "f"));
    show("f");
}

/* A file without a name gets one. */
static void nameless(const char *dir)
{
    char path[40];
    int fd = open(".", O_TMPFILE | O_RDWR, 0600);
    R(write(fd, "tmp", 3));
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    R(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
    R(linkat(AT_FDCWD, path, AT_FDCWD, "f", AT_SYMLINK_FOLLOW));
    show("named");
}

static void list(DIR *d)
{
    char *names[64];
    size_t n = 0;
    for (struct dirent *e; (e = readdir(d)) && n < 64;)
        if (asprintf(&names[n], "%s %d", e->d_name, e->d_type) > 0)
            n++;
    for (size_t i = 0; i < n; i++) /* in order, whatever the tree's is */
        for (size_t j = i + 1; j < n; j++)
            if (strcmp(names[i], names[j]) > 0) {
                char *s = names[i];
                names[i] = names[j];
                names[j] = s;
            }
    for (size_t i = 0; i < n; i++)
        printf("  %s\n", names[i]);
}

static int pass_fd(int fd)
{
    int s[2], got = -1;
    char control[CMSG_SPACE(sizeof(int))] = {0}, byte = 0;
    struct iovec iov = {&byte, 1};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control,
                       .msg_controllen = sizeof(control)};
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    *h = (struct cmsghdr){
        .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(h), &fd, sizeof(fd));
    sendmsg(s[0], &m, 0);
    if (recvmsg(s[1], &m, 0) == 1)
        memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(got));
    return got;
}

static void dirs(const char *dir)
{
    char buf[200], path[PATH_MAX];
    struct stat st;
    DIR *d = opendir(".");
    list(d);
    rewinddir(d);
    list(d);
    int fd = dirfd(d), other = dup(fd);
    R(openat(other, "f", O_RDONLY) < 0);
    R(openat(pass_fd(other), "d/x", O_RDONLY) < 0);
    R(openat(other, "../nothing", O_RDONLY));
    R(read(fd, buf, 10) < 0); /* EISDIR, or EINVAL: file systems differ */
    R(write(fd, buf, 10));
    R(lseek(fd, 0, SEEK_SET));
    R(ftruncate(fd, 0));
    R(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED);
    R(fsync(fd));
    R(fchdir(openat(fd, "d", O_RDONLY)));
    R(access("x", F_OK));
    R(fchdir(openat(fd, "f", O_RDONLY)));
    R(fchdir(99));
    R(chdir(".."));
    R(chdir("ld"));
    R(strcmp(getcwd(path, sizeof(path)) + strlen(dir), "/d"));
    R(getcwd(path, 3) ? 0 : -1);
    R(chdir("../../nothing"));
    R(chdir("x"));
    R(chdir(""));
    R(chdir("../.."));
    R(stat(strrchr(dir, '/') + 1, &st));
    R(chdir(dir));
    pid_t pid = fork();
    if (pid == 0) {
        R(fstatat(fd, "d/y", &st, 0));
        R(chdir("d"));
        R(access("x", F_OK));
        exit(0);
    }
    waitpid(pid, NULL, 0);
    R(access("f", F_OK));
    R(rename("d", "moved"));
    int moved = open("moved", O_RDONLY);
    R(rename("moved", "again"));
    R(faccessat(moved, "x", F_OK, 0));
    R(fchdir(moved));
    R(strcmp(getcwd(path, sizeof(path)) + strlen(dir), "/again"));
    R(rename("../again", "../d"));
    R(strcmp(getcwd(path, sizeof(path)) + strlen(dir), "/d"));
    R(readlink("/proc/self/cwd", path, sizeof(path)) - (long)strlen(dir));
    R(stat("/proc/self/cwd/y", &st));
    snprintf(buf, sizeof(buf), "/proc/self/fd/%d/y", moved);
    R(stat(buf, &st));
    R(chdir(".."));
    R(unlink("d/x"));
    R(unlink("d/y"));
    R(rmdir("d"));
    d = opendir(".");
    list(d);
    for (int i = 0; i < 300; i++) {
        snprintf(path, sizeof(path), "empty/file%d", i);
        close(open(path, O_CREAT | O_WRONLY, 0644));
    }
    d = opendir("empty");
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) { /* each comes once though they go meanwhile */
        snprintf(path, sizeof(path), "empty/%s", e->d_name);
        n += unlink(path) == 0;
    }
    R(n);
    R(rmdir("empty"));
}

static int unix_socket(int type, const char *path, bool listens)
{
    int s = socket(AF_UNIX, type, 0);
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    strcpy(un.sun_path, path);
    const struct sockaddr *a = (const struct sockaddr *)&un;
    if ((listens ? bind(s, a, sizeof(un)) : connect(s, a, sizeof(un))) < 0)
        return -1;
    if (listens && type == SOCK_STREAM)
        listen(s, 5);
    return s;
}

static void sockets(const char *dir)
{
    char buf[10];
    struct stat st;
    int s = unix_socket(SOCK_STREAM, "s", true), d = unix_socket(SOCK_DGRAM, "dg", true);
    R(s < 0);
    R(unix_socket(SOCK_STREAM, "s", true));
    R(unix_socket(SOCK_STREAM, "none", false));
    R(unix_socket(SOCK_STREAM, "f", false));
    int c = unix_socket(SOCK_STREAM, "s", false), a = accept(s, NULL, NULL);
    R(write(c, "hi", 2));
    R(read(a, buf, 10));
    struct sockaddr_un un = {.sun_family = AF_UNIX, .sun_path = "dg"};
    int x = socket(AF_UNIX, SOCK_DGRAM, 0);
    R(sendto(x, "abc", 3, 0, (struct sockaddr *)&un, sizeof(un)));
    R(read(d, buf, 10));
    R(stat("s", &st));
    R(S_ISSOCK(st.st_mode));
    R(unlink("s"));
    R(unix_socket(SOCK_STREAM, "s", false));
    R(mkfifo("p", 0644));
    int r = open("p", O_RDONLY | O_NONBLOCK), w = open("p", O_WRONLY);
    R(write(w, "fifo", 4));
    R(read(r, buf, 10));
}

static void xattrs(const char *dir)
{
    char buf[100];
    int fd = open("f", O_RDONLY), d = open("d", O_RDONLY);
    R(setxattr("f", "user.a", "value", 5, 0));
    R(setxattr("f", "user.a", "value", 5, XATTR_CREATE));
    R(setxattr("f", "user.b", "value", 5, XATTR_REPLACE));
    R(setxattr("f", "user.a", "value", 5, 7));
    R(setxattr("f", "", "value", 5, 0));
    R(fsetxattr(fd, "user.c", "cc", 2, 0));
    R(fsetxattr(d, "user.d", "dd", 2, 0));
    R(getxattr("l", "user.a", buf, 100));
    R(lgetxattr("l", "user.a", buf, 100));
    R(getxattr("f", "user.a", buf, 2));
    R(getxattr("f", "user.c", NULL, 0));
    R(fgetxattr(d, "user.d", buf, 10));
    R(getxattr("d", "user.d", buf, 10));
    R(removexattr("f", "user.a"));
    R(removexattr("f", "user.a"));
    R(fremovexattr(d, "user.d"));
    R(listxattr("f", buf, 100) > 0);
    R(setxattr("nothing", "user.a", "", 0, 0));
}

static const struct program programs[] = {
    {"names", names, false},      {"stats", stats, false}, {"opens", opens, false},
    {"nameless", nameless, true}, {"dirs", dirs, false},   {"sockets", sockets, true},
    {"xattrs", xattrs, false},    {NULL, NULL, false},
};

static void test_program(void **state)
{
    compare(*state);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "case") == 0)
        return program(programs, argv);
    struct CMUnitTest tests[sizeof(programs) / sizeof(*programs)];
    size_t n = 0;
    for (const struct program *p = programs; p->name; p++)
        tests[n++] = (struct CMUnitTest){p->name, test_program, NULL, NULL, (void *)p};
    fixture_start();
    int r = _cmocka_run_group_tests("trap", tests, n, NULL, NULL);
    if (r == 0)
        fixture_end();
    return r;
}
