/* SPDX-License-Identifier: MIT */
/* copy_file_range. */
#include "conform.h"

#include <stdlib.h>

/* All of it, in as many calls as the tree likes to take. */
static void copy_all(struct pl_file *in, uint64_t off_in, struct pl_file *out, uint64_t off_out,
                     size_t n)
{
    while (n) {
        ssize_t r = NEED(copy, pl_copy(tree, me, in, off_in, out, off_out, n));
        if (r == 0)
            FAIL("nothing copied, %zu bytes left", n);
        TRUE((size_t)r <= n);
        off_in += (uint64_t)r;
        off_out += (uint64_t)r;
        n -= (size_t)r;
    }
}

CASE(copy, whole_file)
{
    struct pl_file *in = mk_open(top, "a", O_RDWR, 0644), *out = mk_open(top, "b", O_RDWR, 0644);
    say(in, 0, "some text");
    copy_all(in, 0, out, 0, 9);
    reads(out, "some text");
    reads(in, "some text");
}

CASE(copy, offsets)
{
    struct pl_file *in = mk_open(top, "a", O_RDONLY, 0644), *out = mk_open(top, "b", O_RDWR, 0644);
    say(open_(in->node, O_WRONLY), 0, "0123456789");
    say(out, 0, "abcdefghij");
    copy_all(in, 2, out, 5, 3);
    reads(out, "abcde234ij");
    copy_all(in, 8, out, 12, 2);
    holds(out, 0,
          "abcde234ij\0\0"
          "89",
          14);
    IS(fattr(out).size, 14);
}

CASE(copy, past_the_end)
{
    struct pl_file *in = mk_open(top, "a", O_RDWR, 0644), *out = mk_open(top, "b", O_RDWR, 0644);
    say(in, 0, "text");
    NEED(copy, pl_copy(tree, me, in, 0, out, 0, 1));
    IS(pl_copy(tree, me, in, 4, out, 0, 100), 0);
    IS(pl_copy(tree, me, in, 4000, out, 0, 100), 0);
    IS(pl_copy(tree, me, in, 1, out, 1, 100), 3);
    reads(out, "text");
    IS(pl_copy(tree, me, in, 0, out, 0, 0), 0);
}

CASE(copy, large)
{
    const size_t n = 3000001;
    char *buf = malloc(n);
    unsigned seed = 11;
    for (size_t i = 0; i < n; i++)
        buf[i] = (char)rnd(&seed, 256);
    struct pl_file *in = mk_open(top, "a", O_RDWR, 0644), *out = mk_open(top, "b", O_RDWR, 0644);
    write_(in, buf, n, 0);
    copy_all(in, 0, out, 7, n);
    IS(fattr(out).size, n + 7);
    holds(out, 7, buf, n);
    copy_all(out, 7, in, n, n); /* behind itself by way of the other */
    holds(in, n, buf, n);
    holds(in, 0, buf, n);
    free(buf);
}

CASE(copy, within_one_file)
{
    struct pl_file *o = mk_open(top, "a", O_RDWR, 0644);
    say(o, 0, "0123456789");
    copy_all(o, 0, o, 10, 10);
    reads(o, "01234567890123456789");
    IS(pl_copy(tree, me, o, 0, o, 5, 10), -EINVAL);
    IS(pl_copy(tree, me, o, 5, o, 0, 10), -EINVAL);
    struct pl_file *p = open_(o->node, O_RDWR);
    IS(pl_copy(tree, me, o, 0, p, 5, 10), -EINVAL); /* two opens, one file */
    copy_all(o, 15, p, 0, 5);
    reads(o, "56789567890123456789");
}

/* What is asked for would overlap, what is there does not. */
CASE(copy, to_right_behind_itself)
{
    struct pl_file *o = mk_open(top, "a", O_RDWR, 0644);
    say(o, 0, "0123456789");
    IS(NEED(copy, pl_copy(tree, me, o, 0, o, 10, 100)), 10);
    reads(o, "01234567890123456789");
    IS(pl_copy(tree, me, o, 15, o, 20, 100), 5);
    IS(fattr(o).size, 25);
    IS(pl_copy(tree, me, o, 25, o, 0, 100), 0);
}

CASE(copy, modes_of_opening)
{
    struct pl_file *rw = mk_open(top, "a", O_RDWR, 0644), *out = mk_open(top, "b", O_RDWR, 0644);
    say(rw, 0, "text");
    NEED(copy, pl_copy(tree, me, rw, 0, out, 0, 4));
    IS(pl_copy(tree, me, open_(rw->node, O_WRONLY), 0, out, 0, 4), -EBADF);
    IS(pl_copy(tree, me, rw, 0, open_(out->node, O_RDONLY), 0, 4), -EBADF);
    IS(pl_copy(tree, me, rw, 0, open_(out->node, O_WRONLY | O_APPEND), 0, 4), -EBADF);
    struct pl_file *d = open_(mk_dir(top, "d"), O_RDONLY | O_DIRECTORY);
    ONE_OF(pl_copy(tree, me, d, 0, out, 0, 4), -EISDIR, -EINVAL);
    ONE_OF(pl_copy(tree, me, rw, 0, d, 0, 4), -EISDIR, -EBADF);
    reads(out, "text");
}

CASE(copy, from_unlinked_to_unlinked)
{
    struct pl_file *in = mk_open(top, "a", O_RDWR, 0644), *out = mk_open(top, "b", O_RDWR, 0644);
    say(in, 0, "text");
    rm(top, "a");
    rm(top, "b");
    copy_all(in, 0, out, 0, 4);
    reads(out, "text");
}

CASE(copy, offsets_that_do_not_go)
{
    struct pl_file *in = mk_open(top, "a", O_RDWR, 0644), *out = mk_open(top, "b", O_RDWR, 0644);
    say(in, 0, "text");
    NEED(copy, pl_copy(tree, me, in, 0, out, 0, 4));
    TRUE(pl_copy(tree, me, in, 1ull << 63, out, 0, 4) < 0);
    TRUE(pl_copy(tree, me, in, 0, out, 1ull << 63, 4) < 0);
    TRUE(pl_copy(tree, me, in, 0, out, PL_OFF_MAX, 4) < 0);
    reads(out, "text");
}
