/* SPDX-License-Identifier: MIT */
/*
 * Servers of one mount that follow one another, as keeper/keeper.h describes, under the scripted
 * kernel: each is a clone of this process that shares its table of descriptors. When one dies, what
 * nobody claims is closed, the next is made, and what was not answered is sent again as the kernel
 * does.
 */
#ifndef UNIT_FUSE_LINE_H
#define UNIT_FUSE_LINE_H

#include "each_fd.h"
#include "fuse_kernel.h"
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

struct flight { /* a request that was sent and not answered */
    uint64_t unique;
    size_t n;
    char *bytes;
};

static struct line {
    struct ledger ledger;
    pid_t server;
    struct flight flight[64];
    int nflight;
    char dir[64]; /* the host directory that is served */
    unsigned deaths;
    struct fuse_opts opts;
    bool ours[1024]; /* descriptors that are not a server's */
    unsigned strangers;
    /* To die once more, at this point, as soon as there is a successor. */
    unsigned again;
    /* All die at this point, and it is their own fault. */
    unsigned always;
    uint64_t polled; /* whom the last successor has woken */
} line;
static struct pl_tree *(*line_make)(void); /* NULL: the host directory */

/* ---- descriptors ----------------------------------------------------------------------------- */

UNUSED static void is_ours(int fd)
{
    line.ours[fd] = true;
}

UNUSED static void is_claimed(void *arg, int fd)
{
    ((bool *)arg)[fd] = true;
}

static bool claimed[1024];

UNUSED static void sweep_fd(int fd)
{
    if (line.ours[fd] || claimed[fd])
        return;
    close(fd);
    line.strangers++;
}

/* Closes what nobody claims. */
UNUSED static void sweep(void)
{
    memset(claimed, 0, sizeof(claimed));
    ledger_claims(&line.ledger, is_claimed, claimed);
    line.strangers = 0;
    each_fd(sweep_fd);
}

/* ---- servers --------------------------------------------------------------------------------- */

UNUSED static void server_main(struct kernel *k)
{
    struct pl_err err = {0};
    struct pl_tree *t;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (line_make)
        t = line_make();
    else if (pl_host_open(line.dir, &t, &err) < 0)
        _exit(99);
    pl_keep(t, line.ledger.keep);
    struct fuse_opts opts = line.opts;
    opts.ledger = &line.ledger;
    int r = fuse_serve(k->theirs, t, "", &opts, &k->stats, NULL, NULL, &err);
    if (r < 0)
        fprintf(stderr, "server: %s\n", err.text);
    pl_tree_unref(t);
    exit(-r); /* with exit handlers: LeakSanitizer's */
}

UNUSED static void server_start(struct kernel *k)
{
    fflush(NULL);
    line.server = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
    assert_true(line.server >= 0);
    if (line.server == 0)
        server_main(k);
}

UNUSED static bool server_died(bool wait)
{
    int status;
    if (waitpid(line.server, &status, wait ? 0 : WNOHANG) != line.server)
        return false;
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGKILL);
    line.deaths++;
    return true;
}

/* Waits for a message of the server's: false if it died instead. */
UNUSED static bool server_speaks(struct kernel *k)
{
    struct pollfd p = {.fd = k->fd, .events = POLLIN};
    while (poll(&p, 1, 5) == 0)
        if (server_died(false))
            return poll(&p, 1, 0) == 1;
    return true;
}

UNUSED static void arm(unsigned point, unsigned count)
{
    atomic_store(&line.ledger.head->crash_count, count);
    atomic_store(&line.ledger.head->crash_point, point);
}

/* What the dead server had not read; the kernel would still have it. */
UNUSED static int take_unread(struct kernel *k, struct flight *unread)
{
    static char buf[1 << 20];
    ssize_t n;
    int count = 0;
    while ((n = recv(k->theirs, buf, sizeof(buf), MSG_DONTWAIT)) > 0) {
        struct fuse_in_header h;
        memcpy(&h, buf, sizeof(h));
        unread[count] = (struct flight){h.unique, (size_t)n, malloc((size_t)n)};
        memcpy(unread[count++].bytes, buf, (size_t)n);
    }
    return count;
}

UNUSED static void send_flight(struct kernel *k, const struct flight *f, bool again)
{
    struct fuse_in_header h;
    memcpy(&h, f->bytes, sizeof(h));
    if (again)
        h.unique |= FUSE_UNIQUE_RESEND;
    memcpy(f->bytes, &h, sizeof(h));
    assert_int_equal(write(k->fd, f->bytes, f->n), f->n);
}

/* Waits until the server asks for what was not answered; what else there is the dead one had to
 * say, or it wakes who polls. False if it died before. */
UNUSED static bool server_asks(struct kernel *k)
{
    struct fuse_out_header h;
    char body[512];
    struct iovec iov[2] = {{&h, sizeof(h)}, {body, sizeof(body)}};
    while (server_speaks(k)) {
        assert_true(readv(k->fd, iov, 2) >= (ssize_t)sizeof(h));
        assert_int_equal(h.unique, 0);
        if (h.error == FUSE_NOTIFY_RESEND)
            return true;
        if (h.error == FUSE_NOTIFY_POLL)
            memcpy(&line.polled, body, sizeof(line.polled));
    }
    return false;
}

/* The server is dead: another carries on. */
UNUSED static void successor(struct kernel *k)
{
    struct flight unread[64];
    int nunread = take_unread(k, unread);
    do {
        sweep();
        if (line.always) {
            ledger_blame(&line.ledger);
            arm(line.always, 1);
        }
        if (line.again && atomic_load(&line.ledger.head->crash_point) == LEDGER_NOWHERE) {
            arm(line.again, 1);
            line.again = 0;
        }
        server_start(k);
    } while (!server_asks(k));
    for (int i = 0; i < line.nflight; i++) {
        bool read = true;
        for (int j = 0; j < nunread; j++)
            read &= (unread[j].unique & ~FUSE_UNIQUE_RESEND) != line.flight[i].unique;
        if (read)
            send_flight(k, &line.flight[i], true);
    }
    for (int j = 0; j < nunread; j++) {
        send_flight(k, &unread[j], false);
        free(unread[j].bytes);
    }
}

/* ---- the kernel's side ----------------------------------------------------------------------- */

UNUSED static void line_posted(struct kernel *k, const struct iovec *iov, int n)
{
    struct fuse_in_header h;
    memcpy(&h, iov[0].iov_base, sizeof(h));
    if (h.opcode == FUSE_FORGET || h.opcode == FUSE_INTERRUPT)
        return;
    assert_true(line.nflight < 64);
    struct flight *f = &line.flight[line.nflight++];
    *f = (struct flight){h.unique, 0, malloc(h.len)};
    for (int i = 0; i < n; i++) {
        if (iov[i].iov_len)
            memcpy(f->bytes + f->n, iov[i].iov_base, iov[i].iov_len);
        f->n += iov[i].iov_len;
    }
}

UNUSED static void line_answered(struct kernel *k, uint64_t unique)
{
    int i = 0;
    while (i < line.nflight && line.flight[i].unique != unique)
        i++;
    assert_true(i < line.nflight); /* not answered twice */
    free(line.flight[i].bytes);
    line.flight[i] = line.flight[--line.nflight];
}

UNUSED static void line_await(struct kernel *k)
{
    struct fuse_out_header h = {0};
    do { /* notifications of all kinds are not what is waited for */
        if (h.len)
            assert_true(recv(k->fd, &h, sizeof(h), 0) > 0);
        while (!server_speaks(k))
            successor(k);
        assert_int_equal(recv(k->fd, &h, sizeof(h), MSG_PEEK), sizeof(h));
    } while (h.unique == 0);
}

/* A mount of a new directory in `where`, with its first server. */
UNUSED static struct kernel *line_begin(const char *where, uint32_t nodes)
{
    int fds[2];
    memset(&line, 0, sizeof(line));
    snprintf(line.dir, sizeof(line.dir), "%s/plenum-line.XXXXXX", where);
    assert_non_null(mkdtemp(line.dir));
    assert_int_equal(chmod(line.dir, 0777), 0);
    struct kernel *k =
        mmap(NULL, sizeof(*k), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(k != MAP_FAILED);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    k->fd = fds[0];
    k->theirs = fds[1];
    k->posted = line_posted;
    k->answered = line_answered;
    k->await = line_await;
    fuse_opts_init(&line.opts);
    assert_int_equal(ledger_new(&line.ledger, nodes, true), 0);
    each_fd(is_ours);
    server_start(k);
    k->posted = NULL; /* INIT is never sent again */
    k->answered = NULL;
    kernel_greet(k);
    k->posted = line_posted;
    k->answered = line_answered;
    return k;
}

/* Unmounts: the last server ends by itself and leaves nothing open. */
UNUSED static void line_end(struct kernel *k)
{
    int status;
    char cmd[128];
    close(k->fd);
    line.ours[k->fd] = false;
    assert_int_equal(waitpid(line.server, &status, 0), line.server);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(k->stats.waiting, 0);
    sweep();
    assert_int_equal(line.strangers, 0);
    close(k->theirs);
    ledger_unmap(&line.ledger);
    munmap(k, sizeof(*k));
    snprintf(cmd, sizeof(cmd), "rm -rf %s", line.dir);
    assert_int_equal(system(cmd), 0);
}

/* Kills the server between two requests. */
UNUSED static void line_kill(struct kernel *k)
{
    kill(line.server, SIGKILL);
    assert_true(server_died(true));
    successor(k);
}

#endif
