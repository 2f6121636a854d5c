/* SPDX-License-Identifier: MIT */
/* Runs a program of keeper tests in namespaces of its own, three times: as root, as root of a user
 * namespace, and as an ordinary user through fusermount3. */
#ifndef UNIT_KEEPER_STAGES_H
#define UNIT_KEEPER_STAGES_H

#include "keeper_fixture.h"

static int stage_tests(void); /* the program's own: all tests of one stage */

static int stage_setup(void **state)
{
    snprintf(base, sizeof(base), "/tmp/keeper-%s-XXXXXX", stage);
    note = mmap(NULL, sizeof(*note), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!mkdtemp(base) || note == MAP_FAILED || prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
        return -1;
    struct sockaddr_un un = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};
    unlink(un.sun_path);
    log_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (bind(log_fd, (struct sockaddr *)&un, sizeof(un)) < 0)
        return -1;
    return 0;
}

/* After a failure: nothing of it may reach the next test. */
static int clean_up(void **state)
{
    char buf[256];
    kill(-1, SIGKILL); /* all but us in this namespace */
    while (waitpid(-1, NULL, 0) > 0)
        ;
    for (size_t i = 0; i < 2; i++) {
        if (*dirs[i] && mounted(i))
            mount_end(dirs[i], true, NULL);
        rmdir(dirs[i]);
    }
    while (recv(log_fd, buf, sizeof(buf), MSG_DONTWAIT) >= 0)
        ;
    return 0;
}

/* A child that becomes who the stage is about and starts this program again. */
static int child_stage(const char *name, char *self)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        bool user = strcmp(name, "root") != 0;
        if (user && geteuid() == 0 && (setgid(NOBODY) < 0 || setuid(NOBODY) < 0))
            _exit(99);
        prctl(PR_SET_DUMPABLE, 1); /* or /proc/self would be root's */
        if (strcmp(name, "user") == 0 && access("/usr/bin/fusermount3", X_OK) < 0) {
            printf("# user: skipped: fusermount3 is missing\n");
            fflush(NULL);
            _exit(0);
        }
        setenv(STAGE, name, 1);
        unsetenv("XDG_RUNTIME_DIR");
        if (strcmp(name, "userns") == 0)
            execlp("unshare", "unshare", "-Urm", self, NULL);
        else
            execl(self, self, NULL);
        _exit(96);
    }
    int status;
    while (waitpid(pid, &status, 0) != pid)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static int make_node(const char *path, int minor_no, int major_no)
{
    return mknod(path, S_IFCHR | 0666, makedev((unsigned)major_no, (unsigned)minor_no)) < 0 ||
                   chmod(path, 0666) < 0
               ? -1
               : 0;
}

/* Process 1 of its namespace: our own /proc, /dev, /run and /tmp, then the stages. */
static int inside(char *self)
{
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("proc", "/proc", "proc", 0, NULL) < 0 ||
        mount("tmpfs", "/run", "tmpfs", 0, "mode=0755") < 0)
        return 77;
    char keep[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", keep, sizeof(keep) - 1);
    if (n < 0)
        return 77;
    keep[n] = 0;
    /* the program may lie in /tmp, or where users may not go */
    char copy[] = "/run/unit-keeper";
    int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC),
        to = open(copy, O_CREAT | O_WRONLY | O_CLOEXEC, 0755);
    char buf[65536];
    while ((n = read(from, buf, sizeof(buf))) > 0)
        if (write(to, buf, (size_t)n) != n)
            return 77;
    close(from);
    close(to);
    if (mount("tmpfs", "/tmp", "tmpfs", 0, "mode=1777") < 0 ||
        mount("tmpfs", "/dev", "tmpfs", 0, "mode=0777") < 0 || make_node("/dev/null", 3, 1) < 0 ||
        make_node("/dev/zero", 5, 1) < 0 || make_node("/dev/urandom", 9, 1) < 0 ||
        make_node("/dev/fuse", 229, 10) < 0) {
        printf("# skipped: cannot make a /dev of its own: %s\n", strerror(errno));
        return 77;
    }
    mount("fusectl", "/sys/fs/fuse/connections", "fusectl", 0, NULL); /* as systems have it */
    static const char *const stages[] = {"root", "userns", "user"};
    int failures = 0;
    for (size_t i = 0; i < 3; i++) {
        const char *only = getenv("PLENUM_TEST_STAGES");
        if (!only || strstr(only, stages[i]))
            failures += child_stage(stages[i], copy);
    }
    return failures ? 1 : 0;
}

static pid_t inner;

static void too_long(int sig)
{
    kill(inner, SIGKILL); /* takes everything in the namespace with it */
}

int main(int argc, char **argv)
{
    stage = getenv(STAGE);
    if (stage)
        return stage_tests();
    if (geteuid() != 0) {
        printf("skipped: needs root\n");
        return 77;
    }
    if (unshare(CLONE_NEWNS | CLONE_NEWPID) < 0) {
        printf("skipped: no namespaces: %s\n", strerror(errno));
        return 77;
    }
    fflush(NULL);
    inner = fork();
    if (inner == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        exit(inside(argv[0]));
    }
    signal(SIGALRM, too_long);
    alarm(110);
    int status;
    while (waitpid(inner, &status, 0) != inner)
        ;
    /* no leak check here: no thread can be made any more when process 1 is gone */
    fflush(NULL);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

#endif
