/* SPDX-License-Identifier: MIT */
/*
 * Times one kind of operation on a file as it is seen through several mounts, all in this one
 * process: batches of about 2 ms alternate between the files, so that whatever else the machine
 * does falls upon all of them alike. Prints the median of its batches for each file, in nanoseconds
 * an operation, one a line.
 *
 * usage: onefile KIND MILLISECONDS FILE...    (the time is for each file)
 *   read4k rread4k read1m rread1m write4k rwrite4k write1m rwrite1m   in order; r: at random
 *   mmap   maps 1 MiB, reads all of it, unmaps
 *   open   open and close
 *   stat   by its path
 */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { KIB4 = 4 << 10, MIB = 1 << 20, MAX_BATCHES = 100000, BATCH_NS = 2000000 };

struct subject {
    const char *path;
    int fd; /* -1: the kind needs none */
    off_t size, next;
    unsigned seed;
    int n; /* operations in a batch */
    double *batch;
    int batches;
};

struct kind {
    const char *name;
    void (*op)(struct subject *s, const struct kind *k);
    int flags; /* of open, or -1 */
    size_t size;
    int random;
};

static char buf[MIB];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static off_t place(struct subject *s, const struct kind *k)
{
    off_t at = s->next, pieces = s->size / (off_t)k->size;
    if (k->random)
        return (off_t)(rand_r(&s->seed) % (unsigned)pieces) * (off_t)k->size;
    s->next = at + 2 * (off_t)k->size <= s->size ? at + (off_t)k->size : 0;
    return at;
}

static void op_read(struct subject *s, const struct kind *k)
{
    if (pread(s->fd, buf, k->size, place(s, k)) != (ssize_t)k->size)
        err(1, "reading %s", s->path);
}

static void op_write(struct subject *s, const struct kind *k)
{
    if (pwrite(s->fd, buf, k->size, place(s, k)) != (ssize_t)k->size)
        err(1, "writing %s", s->path);
}

static void op_mmap(struct subject *s, const struct kind *k)
{
    char *map = mmap(NULL, k->size, PROT_READ, MAP_SHARED, s->fd, place(s, k));
    if (map == MAP_FAILED)
        err(1, "mapping %s", s->path);
    memcpy(buf, map, k->size);
    munmap(map, k->size);
}

static void op_open(struct subject *s, const struct kind *k)
{
    int fd = open(s->path, O_RDONLY);
    if (fd < 0 || close(fd) < 0)
        err(1, "%s", s->path);
}

static void op_stat(struct subject *s, const struct kind *k)
{
    struct stat st;
    if (stat(s->path, &st) < 0)
        err(1, "%s", s->path);
}

static const struct kind kinds[] = {
    {"read4k", op_read, O_RDONLY, KIB4, 0},
    {"rread4k", op_read, O_RDONLY, KIB4, 1},
    {"read1m", op_read, O_RDONLY, MIB, 0},
    {"rread1m", op_read, O_RDONLY, MIB, 1},
    {"write4k", op_write, O_RDWR, KIB4, 0},
    {"rwrite4k", op_write, O_RDWR, KIB4, 1},
    {"write1m", op_write, O_RDWR, MIB, 0},
    {"rwrite1m", op_write, O_RDWR, MIB, 1},
    {"mmap", op_mmap, O_RDONLY, MIB, 0},
    {"open", op_open, -1, 0, 0},
    {"stat", op_stat, -1, 0, 0},
};

static double batch(struct subject *s, const struct kind *k)
{
    double start = now();
    for (int i = 0; i < s->n; i++)
        k->op(s, k);
    return now() - start;
}

/* Opens the file, warms what can be, and finds how many operations make a batch. */
static void prepare(struct subject *s, const struct kind *k)
{
    struct stat st;
    s->fd = -1;
    s->seed = 1;
    s->n = 1;
    s->batch = calloc(MAX_BATCHES, sizeof(*s->batch));
    if (!s->batch)
        err(1, "memory");
    if (k->flags >= 0) {
        s->fd = open(s->path, k->flags);
        if (s->fd < 0 || fstat(s->fd, &st) < 0)
            err(1, "%s", s->path);
        if (st.st_size < MIB)
            errx(1, "%s: less than a MiB", s->path);
        s->size = st.st_size;
        if (k->flags == O_RDONLY)
            for (off_t at = 0; at < s->size; at += MIB)
                if (pread(s->fd, buf, MIB, at) < 0)
                    err(1, "%s", s->path);
        if (k->random)
            posix_fadvise(s->fd, 0, 0, POSIX_FADV_RANDOM);
    }
    while (batch(s, k) < BATCH_NS && s->n < 1 << 24)
        s->n *= 2;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void measure(struct subject *s, int files, const struct kind *k, double ms)
{
    double end = now() + ms * 1e6 * files;
    for (int turn = 0; (turn < 5 || now() < end) && turn < MAX_BATCHES; turn++)
        for (int i = 0; i < files; i++) {
            /* there and back, so that nobody always comes after the same one */
            struct subject *it = &s[turn % 2 ? files - 1 - i : i];
            it->batch[it->batches++] = batch(it, k) / it->n;
        }
}

int main(int argc, char **argv)
{
    if (argc < 4)
        errx(2, "usage: onefile KIND MILLISECONDS FILE...");
    const struct kind *k = NULL;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
        if (!strcmp(kinds[i].name, argv[1]))
            k = &kinds[i];
    if (!k)
        errx(2, "%s: no such kind", argv[1]);
    memset(buf, 'w', sizeof(buf));
    int files = argc - 3;
    struct subject *s = calloc((size_t)files, sizeof(*s));
    if (!s)
        err(1, "memory");
    for (int i = 0; i < files; i++) {
        s[i].path = argv[3 + i];
        prepare(&s[i], k);
    }
    measure(s, files, k, atof(argv[2]));
    for (int i = 0; i < files; i++) {
        qsort(s[i].batch, (size_t)s[i].batches, sizeof(double), by_size);
        printf("%.1f\n", s[i].batch[s[i].batches / 2]);
    }
    return 0;
}
