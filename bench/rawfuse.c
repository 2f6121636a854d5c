/* SPDX-License-Identifier: MIT */
/*
 * A server of /dev/fuse that only answers: no tree, no table, no check, one thread. What a request
 * costs here is what the kernel and the switch to another process cost; the rest of a real server's
 * time is its own. It serves a root directory with files f000000, f000001, ... of 64 KiB.
 *
 * usage: rawfuse [-n FILES] [-t SECONDS] [-F] [-p FILE] [-k] DIR
 *   -t  how long the kernel may keep attributes (0: asks each time); names are kept for ever
 *   -F  opens say that close needs no FLUSH
 *   -p  opens hand FILE to the kernel (passthrough), the same for all; else no byte is cached
 *   -k  a process that does nothing holds the device, and starts another server when one dies
 * Prints the process id of the server, of each one with -k, and ends when DIR is unmounted.
 */
#include "fuse/proto.h"
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    FILE_SIZE = 64 << 10,
    MAX_WRITE = 128 << 10,
    BUF_SIZE = MAX_WRITE + 4096,
    RAW_FOPEN_PASSTHROUGH = 1 << 7,
    RAW_NOTIFY_RESEND = 7,
};
#define RAW_PASSTHROUGH (1ull << 37)
#define RAW_HAS_RESEND  (1ull << 39)
#define FOR_EVER        (1u << 30)

static _Alignas(4096) char bytes[FILE_SIZE]; /* what is read of any file */

struct raw_backing {
    int32_t fd;
    uint32_t flags;
    uint64_t padding;
};
#define RAW_BACKING_OPEN _IOW(229, 1, struct raw_backing)

struct raw {
    int fd;           /* /dev/fuse */
    int backing_fd;   /* the file of -p, or -1 */
    int32_t *backing; /* its id once INIT was answered; shared with the servers to come */
    unsigned files;
    uint64_t timeout;
    bool noflush, keep;
};

static void answer(const struct raw *r, const struct fuse_in_header *h, int error, void *data,
                   size_t size)
{
    struct fuse_out_header out = {
        .len = (uint32_t)(sizeof(out) + size), .error = error, .unique = h->unique};
    struct iovec iov[2] = {{&out, sizeof(out)}, {data, size}};
    /* ENOENT: the request was interrupted, ENODEV: the mount is gone, which the next read tells */
    if (writev(r->fd, iov, size ? 2 : 1) < 0 && errno != ENOENT && errno != ENODEV)
        err(1, "answering request %u", h->opcode);
}

static struct fuse_attr attr(const struct raw *r, uint64_t ino)
{
    struct fuse_attr a = {.ino = ino, .nlink = 1, .blksize = 4096, .mode = S_IFREG | 0644};
    if (ino == FUSE_ROOT_ID) {
        a.mode = S_IFDIR | 0755;
        a.nlink = 2;
    } else {
        a.size = FILE_SIZE;
        a.blocks = FILE_SIZE / 512;
    }
    return a;
}

static void op_init(const struct raw *r, const struct fuse_in_header *h, const void *arg)
{
    const struct fuse_init_in *in = arg;
    uint64_t flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES |
                     FUSE_INIT_EXT | RAW_HAS_RESEND;
    if (r->backing_fd >= 0)
        flags |= RAW_PASSTHROUGH;
    if (in->major != FUSE_MAJOR || in->minor < 40)
        errx(1, "the kernel speaks FUSE %u.%u, 7.40 is needed", in->major, in->minor);
    struct fuse_init_out out = {.major = FUSE_MAJOR,
                                .minor = FUSE_MINOR,
                                .max_readahead = in->max_readahead,
                                .flags = (uint32_t)flags,
                                .flags2 = (uint32_t)(flags >> 32),
                                .max_background = 12,
                                .congestion_threshold = 9,
                                .max_write = MAX_WRITE,
                                .time_gran = 1,
                                .max_pages = MAX_WRITE / 4096,
                                .max_stack_depth = 1};
    answer(r, h, 0, &out, sizeof(out));
    if (r->backing_fd < 0)
        return;
    struct raw_backing b = {.fd = r->backing_fd};
    *r->backing = ioctl(r->fd, RAW_BACKING_OPEN, &b);
    if (*r->backing < 0)
        err(1, "giving the kernel the file of -p");
}

static void op_lookup(const struct raw *r, const struct fuse_in_header *h, const char *name)
{
    unsigned i;
    if (h->nodeid != FUSE_ROOT_ID || sscanf(name, "f%6u", &i) != 1 || i >= r->files) {
        answer(r, h, -ENOENT, NULL, 0);
        return;
    }
    struct fuse_entry_out out = {.nodeid = FUSE_ROOT_ID + 1 + i,
                                 .entry_valid = FOR_EVER,
                                 .attr_valid = r->timeout,
                                 .attr = attr(r, FUSE_ROOT_ID + 1 + i)};
    answer(r, h, 0, &out, sizeof(out));
}

static void op_getattr(const struct raw *r, const struct fuse_in_header *h)
{
    struct fuse_attr_out out = {.attr_valid = r->timeout, .attr = attr(r, h->nodeid)};
    answer(r, h, 0, &out, sizeof(out));
}

static void op_open(const struct raw *r, const struct fuse_in_header *h)
{
    struct fuse_open_out out = {.open_flags = r->noflush ? FOPEN_NOFLUSH : 0};
    if (r->backing_fd >= 0) {
        out.open_flags |= RAW_FOPEN_PASSTHROUGH;
        out.backing_id = *r->backing;
    } else {
        out.open_flags |= FOPEN_DIRECT_IO;
    }
    answer(r, h, 0, &out, sizeof(out));
}

static void op_readdir(const struct raw *r, const struct fuse_in_header *h, const void *arg)
{
    static char buf[MAX_WRITE];
    const struct fuse_read_in *in = arg;
    size_t limit = in->size < sizeof(buf) ? in->size : sizeof(buf), n = 0;
    for (uint64_t i = in->offset; i < r->files; i++) {
        struct fuse_dirent d = {.ino = FUSE_ROOT_ID + 1 + i, .off = i + 1, .type = S_IFREG >> 12};
        char name[16];
        d.namelen = (uint32_t)snprintf(name, sizeof(name), "f%06u", (unsigned)i);
        size_t size = FUSE_PAD(sizeof(d) + d.namelen);
        if (n + size > limit)
            break;
        memset(buf + n, 0, size);
        memcpy(buf + n, &d, sizeof(d));
        memcpy(buf + n + sizeof(d), name, d.namelen);
        n += size;
    }
    answer(r, h, 0, buf, n);
}

static void op_read(const struct raw *r, const struct fuse_in_header *h, const void *arg)
{
    const struct fuse_read_in *in = arg;
    size_t left = in->offset < FILE_SIZE ? FILE_SIZE - in->offset : 0;
    answer(r, h, 0, bytes, in->size < left ? in->size : left);
}

static void handle(const struct raw *r, const void *buf)
{
    const struct fuse_in_header *h = buf;
    const void *arg = h + 1;
    struct fuse_open_out opened = {0};
    struct fuse_statfs_out statfs = {.bsize = 4096, .frsize = 4096, .namelen = 255};
    switch (h->opcode) {
    case FUSE_INIT:
        op_init(r, h, arg);
        break;
    case FUSE_LOOKUP:
        op_lookup(r, h, arg);
        break;
    case FUSE_GETATTR:
    case FUSE_SETATTR:
        op_getattr(r, h);
        break;
    case FUSE_OPEN:
        op_open(r, h);
        break;
    case FUSE_OPENDIR:
        answer(r, h, 0, &opened, sizeof(opened));
        break;
    case FUSE_READDIR:
        op_readdir(r, h, arg);
        break;
    case FUSE_READ:
        op_read(r, h, arg);
        break;
    case FUSE_WRITE: {
        struct fuse_write_out out = {.size = ((const struct fuse_write_in *)arg)->size};
        answer(r, h, 0, &out, sizeof(out));
        break;
    }
    case FUSE_STATFS:
        answer(r, h, 0, &statfs, sizeof(statfs));
        break;
    case FUSE_FLUSH:
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
    case FUSE_FSYNC:
    case FUSE_ACCESS:
    case FUSE_DESTROY:
        answer(r, h, 0, NULL, 0);
        break;
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:
        break;
    default:
        answer(r, h, -ENOSYS, NULL, 0);
    }
}

/* The pages are touched first: a request fails with EIO when its server is killed while the kernel
 * has to fault in what it copies the request to, or the answer from. */
static int serve(const struct raw *r)
{
    static _Alignas(4096) char buf[BUF_SIZE];
    memset(buf, 0, sizeof(buf));
    memset(bytes, 'r', sizeof(bytes));
    for (;;) {
        ssize_t n = read(r->fd, buf, sizeof(buf));
        if (n >= (ssize_t)sizeof(struct fuse_in_header))
            handle(r, buf);
        else if (n < 0 && errno == ENODEV)
            return 0;
        else if (n < 0 && errno != EINTR && errno != EAGAIN && errno != ENOENT)
            err(1, "/dev/fuse");
    }
}

/* The servers, one after the other, until one has ended by itself. */
static int keep(const struct raw *r)
{
    const struct fuse_out_header resend = {.len = sizeof(resend), .error = RAW_NOTIFY_RESEND};
    for (bool first = true;; first = false) {
        int status;
        pid_t pid = fork();
        if (pid < 0)
            err(1, "fork");
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            _exit(serve(r));
        }
        if (!first && write(r->fd, &resend, sizeof(resend)) < 0 && errno != ENODEV)
            err(1, "asking the kernel to send again");
        printf("%d\n", pid);
        fflush(stdout);
        if (waitpid(pid, &status, 0) < 0)
            err(1, "waitpid");
        if (WIFEXITED(status))
            return WEXITSTATUS(status);
    }
}

static void mount_raw(struct raw *r, const char *dir)
{
    char options[128];
    r->fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (r->fd < 0)
        err(1, "/dev/fuse");
    /* As plenum mounts, so that the kernel asks both the same. */
    snprintf(options, sizeof(options),
             "fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other", r->fd);
    if (mount("rawfuse", dir, "fuse.rawfuse", MS_NOSUID | MS_NODEV, options) < 0)
        err(1, "mounting on %s", dir);
}

int main(int argc, char **argv)
{
    struct raw r = {.files = 1, .backing_fd = -1};
    int o;
    while ((o = getopt(argc, argv, "n:t:Fp:k")) != -1) {
        if (o == 'n') {
            r.files = (unsigned)atoi(optarg);
        } else if (o == 't') {
            r.timeout = (uint64_t)atoi(optarg);
        } else if (o == 'F') {
            r.noflush = true;
        } else if (o == 'p') {
            r.backing_fd = open(optarg, O_RDWR | O_CLOEXEC);
            if (r.backing_fd < 0)
                err(1, "%s", optarg);
        } else if (o == 'k') {
            r.keep = true;
        } else {
            return 2;
        }
    }
    if (argc - optind != 1)
        errx(2, "usage: rawfuse [-n FILES] [-t SECONDS] [-F] [-p FILE] [-k] DIR");
    r.backing =
        mmap(NULL, sizeof(*r.backing), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (r.backing == MAP_FAILED)
        err(1, "mmap");
    mount_raw(&r, argv[optind]);
    if (r.keep)
        return keep(&r);
    printf("%d\n", getpid());
    fflush(stdout);
    return serve(&r);
}
