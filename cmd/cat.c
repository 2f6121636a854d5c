/* SPDX-License-Identifier: MIT */
#include "cmd/walk.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK (1u << 20)

/* 0, or a negative errno of standard output. */
static int put(const char *buf, size_t n)
{
    while (n) {
        ssize_t w = write(1, buf, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return -errno;
        buf += w;
        n -= (size_t)w;
    }
    return 0;
}

/* False when standard output is broken. */
static bool one(struct walk *w, const char *path, char *buf)
{
    struct pl_node *node;
    struct pl_file *file;
    int out = 0;
    ssize_t n = walk_path(w, path, true, &node, NULL);
    if (n < 0) {
        walk_fail(w, path, (int)n);
        return true;
    }
    n = S_ISDIR(node->fmt) ? -EISDIR : pl_open(w->tree, &w->call, node, O_RDONLY, &file);
    if (n == 0) {
        uint64_t off = 0;
        while (!out && (n = pl_read(w->tree, &w->call, file, buf, BLOCK, off)) > 0) {
            out = put(buf, (size_t)n);
            off += (uint64_t)n;
        }
        pl_close(w->tree, &w->call, file);
    }
    pl_node_unref(node);
    if (n < 0)
        walk_fail(w, path, (int)n);
    if (out < 0) {
        if (out != -EPIPE)
            cmd_fail(w->cmd, "standard output: %s", strerror(-out));
        w->failed = true;
    }
    return out == 0;
}

static int run(const struct cmd *self, int argc, char **argv)
{
    struct walk w;
    while (cmd_opt(self, argc, argv, "", NULL) != -1)
        ;
    if (argc - optind < 2)
        cmd_usage(self, "a SPEC and a path are needed");
    char *buf = malloc(BLOCK);
    if (!buf)
        return cmd_fail(self, "out of memory");
    int status = walk_open(&w, self, argv[optind++]);
    if (status == EXIT_OK) {
        while (optind < argc && !walk_interrupted() && one(&w, argv[optind], buf))
            optind++;
        status = walk_close(&w);
    }
    free(buf);
    return status;
}

const struct cmd cmd_cat = {
    .name = "cat",
    .args = "SPEC PATH...",
    .summary = "Writes files of a tree that is not mounted to standard output",
    .help = "A stream is followed until it ends.\n",
    .example = "  plenum cat ssh:host1:/etc hostname\n",
    .run = run,
};
