/* SPDX-License-Identifier: MIT */
#include "cmd/viewlink.h"
#include "base/fdpass.h"
#include "keeper/registry.h"
#include "view/call.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef NS_GET_MNTNS_ID /* Linux 6.10 */
#define NS_GET_MNTNS_ID _IOR(NSIO, 5, uint64_t)
#endif
#define PATIENCE 60000 /* ms for an answer */

/* A memory file of the words, or a negative errno. */
static int body(char *const *words, size_t n)
{
    int fd = memfd_create("plenum-view", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(words[i]) + 1;
        if (write(fd, words[i], len) != (ssize_t)len) {
            close(fd);
            return -ENOSPC;
        }
    }
    return fd;
}

/* The words of a body, which anybody may have written. */
static int words_of(int fd, struct viewlink *m)
{
    struct stat st;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > VIEWLINK_BODY)
        return -EPROTO;
    size_t size = (size_t)st.st_size, n = 0;
    char *bytes = malloc(size + 1);
    if (!bytes)
        return -ENOMEM;
    ssize_t got = pread(fd, bytes, size, 0);
    if (got != (ssize_t)size || (size && bytes[size - 1])) {
        free(bytes);
        return -EPROTO;
    }
    for (size_t i = 0; i < size; i++)
        n += !bytes[i];
    m->words = malloc((n + 1) * sizeof(char *) + size);
    if (!m->words) {
        free(bytes);
        return -ENOMEM;
    }
    char *text = memcpy(m->words + n + 1, bytes, size);
    free(bytes);
    for (m->n = 0; m->n < n; text += strlen(text) + 1)
        m->words[m->n++] = text;
    m->words[n] = NULL;
    return 0;
}

int viewlink_send(int sock, const struct viewlink *m)
{
    struct fdpass p = {.type = m->op, .index = m->index, .value = m->value};
    int fd = -1;
    p.len = strnlen(m->text, sizeof(m->text) - 1);
    memcpy(p.data, m->text, p.len);
    if (m->words) {
        fd = body(m->words, m->n);
        if (fd < 0)
            return fd;
        p.fd[p.nfd++] = fd;
    }
    if (m->err >= 0)
        p.fd[p.nfd++] = m->err;
    int r = fdpass_send(sock, &p);
    if (fd >= 0)
        close(fd);
    return r;
}

int viewlink_recv(int sock, struct viewlink *ret)
{
    struct fdpass p;
    *ret = (struct viewlink){.err = -1};
    int r = fdpass_recv(sock, &p);
    if (r <= 0)
        return r;
    ret->op = p.type;
    ret->index = p.index;
    ret->value = p.value;
    snprintf(ret->text, sizeof(ret->text), "%.*s", (int)p.len, p.data);
    r = p.nfd ? words_of(p.fd[0], ret) : 0;
    if (r == 0 && p.nfd > 1) {
        ret->err = p.fd[1];
        p.fd[1] = p.fd[--p.nfd];
    }
    fdpass_drop(&p);
    return r < 0 ? r : 1;
}

void viewlink_done(struct viewlink *m)
{
    free(m->words);
    if (m->err >= 0)
        close(m->err);
    *m = (struct viewlink){.err = -1};
}

int viewlink_namespace_fd(int fd, uint64_t *ret)
{
    struct stat st;
    if (ioctl(fd, NS_GET_MNTNS_ID, ret) == 0)
        return 0;
    if (fstat(fd, &st) < 0)
        return -errno;
    *ret = st.st_ino;
    return 0;
}

int viewlink_namespace(pid_t pid, uint64_t *ret)
{
    char path[64] = "/proc/self/ns/mnt";
    if (pid)
        snprintf(path, sizeof(path), "/proc/%d/ns/mnt", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int r = viewlink_namespace_fd(fd, ret);
    close(fd);
    return r;
}

void viewlink_name(uint64_t ns, char ret[32])
{
    snprintf(ret, 32, "view.%llu", (unsigned long long)ns);
}

void viewlink_trap_name(pid_t supervisor, char ret[32])
{
    snprintf(ret, 32, "trap.%d", supervisor);
}

pid_t viewlink_parent(pid_t pid)
{
    char path[64], text[512];
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;
    if (f)
        fclose(f);
    text[n] = 0;
    const char *end = strrchr(text, ')'); /* of the name, which may have any characters */
    int parent = 0;
    return end && sscanf(end, ") %*c %d", &parent) == 1 ? parent : 0;
}

int viewlink_dial(pid_t pid)
{
    char name[32];
    uint64_t ns, own = 0;
    int r = viewlink_namespace(pid, &ns);
    if (r < 0)
        return r;
    if (!pid || (viewlink_namespace(0, &own) == 0 && own == ns)) {
        long fd = syscall(SYS_mount, "vpath", "", NULL, VIEW_CALL_FLAGS, NULL);
        if (fd >= 0)
            return (int)fd;
    }
    /* Another filter may be in the way; and so ask those who are outside. */
    viewlink_name(ns, name);
    int sock = reg_meet_dial(name);
    /* A supervisor is an ancestor of all that it supervises. */
    for (pid = pid ? pid : getpid(); sock == -ENOENT && pid > 1; pid = viewlink_parent(pid)) {
        viewlink_trap_name(pid, name);
        sock = reg_meet_dial(name);
    }
    return sock;
}

int viewlink_ask(int sock, const struct viewlink *request, struct viewlink *ret, struct pl_err *err)
{
    *ret = (struct viewlink){.err = -1};
    int r = viewlink_send(sock, request);
    if (r < 0)
        return pl_fail(err, r, "the view's server cannot be asked: %s", strerror(-r));
    struct pollfd p = {.fd = sock, .events = POLLIN};
    while ((r = poll(&p, 1, PATIENCE)) < 0 && errno == EINTR)
        ;
    if (r == 0)
        return pl_fail(err, -ETIMEDOUT, "the view's server does not answer");
    r = viewlink_recv(sock, ret);
    if (r <= 0 || ret->op != VIEWLINK_ANSWER)
        return pl_fail(err, -ECONNRESET, "the view's server has ended");
    return ret->value < 0 ? pl_fail(err, (int)ret->value, "%s", ret->text) : 0;
}
