/* SPDX-License-Identifier: MIT */
/*
 * A file system of one file, which greets whoever opens it.
 *
 *     mkdir n && ./hello n
 *     cat n/hello
 *     plenum umount n
 *
 * If its server dies, another greets in its place.
 *
 * Without a mount: ./hello --serve 'tcp!localhost!5640' &  plenum cat '9p:tcp!localhost!5640' hello
 */
#include <plenum/plenum.h>

static int greet(const struct pl_made_req *req, struct pl_text *out)
{
    return pl_text_add(out, "Hello, user %u!\n", req->call->cred.uid);
}

int main(int argc, char **argv)
{
    struct pl_made *m = pl_made_new();
    pl_made_file(m, "hello", greet, NULL);
    return pl_main(argc, argv, pl_made_tree(m));
}
