/* SPDX-License-Identifier: MIT */
/*
 * A host tree over a new directory, for the tests of the host source. Each program runs its tests
 * in a process for each variant: on ext4 (or whatever /tmp is) and on tmpfs, with file handles and
 * without the capability that they need, so that nodes are found again by name.
 */
#ifndef UNIT_HOST_FIXTURE_H
#define UNIT_HOST_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <plenum/sources.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static struct pl_tree *t;
static struct pl_node *root;
static struct pl_call call, *c = &call;
static struct pl_attr at;
static char top[256];  /* a directory of the test's own; the tree is top/root */
static char real[300]; /* top/root on the host */
static const char *where = "/tmp";
static bool by_name;

/* A path on the host beneath the tree's root; good until the fourth call after. */
static inline const char *host(const char *rel)
{
    static char buf[4][4096];
    static int i;
    i = (i + 1) % 4;
    snprintf(buf[i], sizeof(buf[i]), "%s/%s", real, rel);
    return buf[i];
}

static inline void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static inline void reopen(void)
{
    struct pl_err err;
    if (pl_host_open(real, &t, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(pl_attach(t, c, "", &root, &at), 0);
}

static inline void shut(void)
{
    pl_node_unref(root);
    pl_tree_unref(t);
}

static inline int setup(void **state)
{
    snprintf(top, sizeof(top), "%s/plenum-host-XXXXXX", where);
    assert_non_null(mkdtemp(top));
    assert_int_equal(chmod(top, 0755), 0);
    snprintf(real, sizeof(real), "%s/root", top);
    assert_int_equal(mkdir(real, 0755), 0);
    pl_call_init_self(c);
    reopen();
    return 0;
}

static inline int teardown(void **state)
{
    char cmd[400];
    shut();
    pl_call_done(c);
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", top);
    assert_int_equal(system(cmd), 0);
    return 0;
}

/* The node at `path`, which must be there. */
static inline struct pl_node *node(const char *path)
{
    struct pl_node *n = NULL;
    int r = pl_attach(t, c, path, &n, &at);
    if (r < 0)
        fail_msg("%s: %s", path, strerror(-r));
    return n;
}

static inline int fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;
    while (readdir(d))
        n++;
    closedir(d);
    return n - 3; /* ".", "..", and that of d */
}

static inline void drop_handles(void)
{
    struct __user_cap_header_struct hdr = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct cap[2];
    assert_int_equal(syscall(SYS_capget, &hdr, cap), 0);
    cap[0].effective &= ~(1u << CAP_DAC_READ_SEARCH);
    cap[0].permitted = cap[0].effective;
    assert_int_equal(syscall(SYS_capset, &hdr, cap), 0);
}

/* Runs `group` once for each variant. */
static inline int run_variants(int (*group)(void))
{
    int bad = 0;
    for (int i = 0; i < 4; i++) {
        where = i & 1 ? "/dev/shm" : "/tmp";
        by_name = i & 2;
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
            print_message("--- on %s%s\n", where, by_name ? ", by name" : "");
            if (by_name)
                drop_handles();
            exit(group());
        }
        int status;
        bad |= pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0;
    }
    return bad;
}

#endif
