/* SPDX-License-Identifier: MIT */
/* Reads a file of a server without mounting it: client ADDR PATH */
#include <fcntl.h>
#include <plenum/plenum.h>
#include <string.h>

int main(int argc, char **argv)
{
    struct pl_err err = {.text = "usage: client ADDR PATH"};
    struct pl_channel *chan;
    struct pl_tree *root;
    struct pl_ns *ns;
    struct pl_fd *fd;
    char buf[65536];
    if (argc != 3 || pl_dial(argv[1], &chan, &err) < 0 || pl_fsmount(chan, NULL, &root, &err) < 0 ||
        pl_ns_new(root, &ns, &err) < 0)
        return fprintf(stderr, "%s\n", err.text), 1;
    ssize_t n = pl_ns_open(ns, argv[2], O_RDONLY, 0, &fd);
    while (n >= 0 && (n = pl_fd_read(fd, buf, sizeof(buf))) > 0)
        fwrite(buf, 1, (size_t)n, stdout);
    return n < 0 ? fprintf(stderr, "%s: %s\n", argv[2], strerror((int)-n)), 1 : 0;
}
