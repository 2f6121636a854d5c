/* SPDX-License-Identifier: MIT */
/*
 * Times one kind of file operation in a directory and prints nanoseconds an operation (or, for the
 * streaming kinds, a MiB). usage: fsops DIR KIND COUNT
 */
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static const char *name(int i)
{
    static char buf[32];
    snprintf(buf, sizeof(buf), "f%06d", i);
    return buf;
}

static void make_files(int n)
{
    for (int i = 0; i < n; i++) {
        int fd = open(name(i), O_CREAT | O_WRONLY | O_TRUNC, 0644);
        if (fd < 0 || write(fd, "x", 1) != 1)
            err(1, "%s", name(i));
        close(fd);
    }
}

static void op_create(int n)
{
    for (int i = 0; i < n; i++) {
        int fd = open(name(i), O_CREAT | O_EXCL | O_WRONLY, 0644);
        if (fd < 0)
            err(1, "%s", name(i));
        close(fd);
    }
}

static void op_unlink(int n)
{
    for (int i = 0; i < n; i++)
        if (unlink(name(i)) < 0)
            err(1, "%s", name(i));
}

static void op_stat(int n)
{
    struct stat st;
    for (int i = 0; i < n; i++)
        if (stat(name(i), &st) < 0)
            err(1, "%s", name(i));
}

static void op_open(int n)
{
    for (int i = 0; i < n; i++) {
        int fd = open(name(i), O_RDONLY);
        if (fd < 0)
            err(1, "%s", name(i));
        close(fd);
    }
}

static void op_rename(int n)
{
    for (int i = 0; i < n; i++) {
        char to[64];
        snprintf(to, sizeof(to), "r%s", name(i));
        if (rename(name(i), to) < 0 || rename(to, name(i)) < 0)
            err(1, "%s", to);
    }
}

static void op_mkdir(int n)
{
    for (int i = 0; i < n; i++)
        if (mkdir("d", 0755) < 0 || rmdir("d") < 0)
            err(1, "d");
}

static void op_readdir(int n)
{
    for (int i = 0; i < n; i++) {
        DIR *d = opendir(".");
        if (!d)
            err(1, ".");
        while (readdir(d))
            ;
        closedir(d);
    }
}

enum { MIB = 1 << 20 };

static void op_seqwrite(int n)
{
    char *buf = malloc(MIB);
    memset(buf, 'w', MIB);
    int fd = open("stream", O_CREAT | O_WRONLY | O_TRUNC, 0644);
    for (int i = 0; i < n; i++)
        if (fd < 0 || write(fd, buf, MIB) != MIB)
            err(1, "stream");
    if (close(fd) < 0)
        err(1, "stream");
    free(buf);
}

static void op_seqread(int n)
{
    char *buf = malloc(MIB);
    int fd = open("stream", O_RDONLY);
    for (int i = 0; i < n; i++)
        if (fd < 0 || read(fd, buf, MIB) != MIB)
            err(1, "stream");
    close(fd);
    free(buf);
}

static void op_rand4k(int n)
{
    char buf[4096];
    struct stat st;
    unsigned seed = 1;
    int fd = open("stream", O_RDONLY);
    if (fd < 0 || fstat(fd, &st) < 0 || st.st_size < MIB)
        err(1, "stream");
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
    for (int i = 0; i < n; i++)
        if (pread(fd, buf, 4096, (off_t)(rand_r(&seed) % (unsigned)(st.st_size / 4096)) * 4096) !=
            4096)
            err(1, "stream");
    close(fd);
}

static const struct {
    const char *name;
    void (*run)(int);
    int before; /* 0: nothing, 1: the files must exist, 2: the stream file must exist */
    int clean;  /* removes the files afterwards */
} kinds[] = {
    {"create", op_create, 0, 1},   {"unlink", op_unlink, 1, 0},     {"stat", op_stat, 1, 1},
    {"open", op_open, 1, 1},       {"rename", op_rename, 1, 1},     {"mkdir", op_mkdir, 0, 0},
    {"readdir", op_readdir, 0, 0}, {"seqwrite", op_seqwrite, 0, 0}, {"seqread", op_seqread, 2, 0},
    {"rand4k", op_rand4k, 2, 0},
};

int main(int argc, char **argv)
{
    if (argc != 4)
        errx(2, "usage: fsops DIR KIND COUNT");
    int n = atoi(argv[3]);
    if (chdir(argv[1]) < 0)
        err(1, "%s", argv[1]);
    for (size_t k = 0; k < sizeof(kinds) / sizeof(*kinds); k++) {
        if (strcmp(kinds[k].name, argv[2]))
            continue;
        if (kinds[k].before == 1)
            make_files(n);
        double t = now();
        kinds[k].run(n);
        printf("%.0f\n", (now() - t) / n);
        if (kinds[k].clean)
            op_unlink(n);
        return 0;
    }
    errx(2, "%s: no such kind", argv[2]);
}
