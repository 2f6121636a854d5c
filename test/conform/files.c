/* SPDX-License-Identifier: MIT */
/* Open files: flags, offsets, holes, sizes past 4 GiB and past 2^63. */
#include "conform.h"

#include <assert.h>
#include <poll.h>
#include <stdlib.h>

CASE(files, read_and_write)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    char buf[16];
    say(o, 0, "hello");
    say(o, 5, " world");
    reads(o, "hello world");
    say(o, 6, "W");
    reads(o, "hello World");
    IS(pl_read(tree, me, o, buf, 16, 6), 5); /* short at the end */
    IS(memcmp(buf, "World", 5), 0);
    IS(pl_read(tree, me, o, buf, 16, 11), 0);
    IS(pl_read(tree, me, o, buf, 16, 5000), 0);
    IS(pl_read(tree, me, o, buf, 16, 1ull << 40), 0);
    IS(pl_read(tree, me, o, buf, 0, 0), 0);
}

CASE(files, write_of_nothing)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    IS(pl_write(tree, me, o, "", 0, 0), 0);
    IS(pl_write(tree, me, o, "", 0, 1000), 0);
    IS(fattr(o).size, 0);
}

CASE(files, large_in_one_go)
{
    const size_t n = (4u << 20) + 12345;
    char *a = malloc(n), *b = malloc(n);
    unsigned seed = 7;
    for (size_t i = 0; i < n; i++)
        a[i] = (char)rnd(&seed, 256);
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    write_(o, a, n, 3);
    IS(pl_read(tree, me, o, b, n, 3), n);
    IS(memcmp(a, b, n), 0);
    IS(fattr(o).size, n + 3);
    zeroes(o, 0, 3);
    struct pl_file *p = open_(o->node, O_RDONLY);
    IS(pl_read(tree, me, p, b, n, 1000003), n - 1000000);
    IS(memcmp(a + 1000000, b, n - 1000000), 0);
    free(a);
    free(b);
}

CASE(files, odd_pieces)
{
    const size_t n = 300000;
    unsigned seed = 5;
    char *a = malloc(n);
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    for (size_t i = 0; i < n; i++)
        a[i] = (char)rnd(&seed, 256);
    for (size_t off = 0, part; off < n; off += part) {
        part = 1 + rnd(&seed, 9000);
        part = part < n - off ? part : n - off;
        write_(o, a + off, part, off);
    }
    IS(fattr(o).size, n);
    for (size_t off = 0, part; off < n; off += part) {
        part = 1 + rnd(&seed, 20000);
        part = part < n - off ? part : n - off;
        holds(o, off, a + off, part);
    }
    free(a);
}

CASE(files, modes_of_opening)
{
    struct pl_node *f = mk_text(top, "f", "text");
    char buf[4];
    struct pl_file *r = open_(f, O_RDONLY), *w = open_(f, O_WRONLY);
    IS(pl_write(tree, me, r, "x", 1, 0), -EBADF);
    IS(pl_read(tree, me, w, buf, 4, 0), -EBADF);
    say(w, 0, "T");
    reads(r, "Text");
}

CASE(files, two_opens_one_content)
{
    struct pl_node *f = mk_file(top, "f");
    struct pl_file *a = open_(f, O_RDWR), *b = open_(f, O_RDWR), *c = open_(f, O_RDONLY);
    for (int i = 0; i < 100; i++) {
        char text[32];
        snprintf(text, sizeof(text), "number %d, %*s", i, i % 9, "");
        OK(t_truncate(f, 0));
        say(i & 1 ? a : b, 0, text);
        reads(c, text);
        reads(i & 1 ? b : a, text);
    }
}

CASE(files, append)
{
    struct pl_node *f = mk_text(top, "f", "one");
    struct pl_file *a = open_(f, O_RDWR | O_APPEND), *b = open_(f, O_WRONLY | O_APPEND);
    say(a, 0, "two"); /* wherever it is told to */
    say(b, 1, "three");
    say(a, 1000, "four");
    reads(a, "onetwothreefour");
    say(open_(f, O_WRONLY), 0, "ONE");
    say(b, 0, "!");
    reads(a, "ONEtwothreefour!");
    OK(t_truncate(f, 3));
    say(a, 900, ".");
    reads(a, "ONE.");
}

CASE(files, truncate_at_open)
{
    struct pl_node *f = mk_text(top, "f", "some text");
    struct pl_file *r = open_(f, O_RDONLY);
    close_(open_(f, O_WRONLY | O_TRUNC));
    reads(r, "");
    say(open_(f, O_WRONLY), 0, "more");
    struct pl_file *o = open_(f, O_RDWR | O_TRUNC | O_APPEND);
    reads(o, "");
    say(o, 0, "x");
    reads(r, "x");
}

CASE(files, create_exclusive)
{
    mk_text(top, "f", "text");
    mk_dir(top, "d");
    mk_symlink(top, "l", "nowhere");
    IS(t_create(top, "f", O_CREAT | O_EXCL | O_RDWR, 0644), -EEXIST);
    IS(t_create(top, "d", O_CREAT | O_EXCL | O_RDWR, 0644), -EEXIST);
    IS(t_create(top, "l", O_CREAT | O_EXCL | O_RDWR, 0644), -EEXIST);
    absent(top, "nowhere");
    content(top, "f", "text");
}

CASE(files, create_opens_what_is_there)
{
    struct pl_node *f = mk_text(top, "f", "text");
    OK(t_chmod(f, 0600));
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0777);
    TRUE(same(o->node, f));
    reads(o, "text");
    IS(fattr(o).mode, S_IFREG | 0600); /* the mode is for new files */
    close_(mk_open(top, "f", O_RDWR | O_TRUNC, 0777));
    content(top, "f", "");
}

CASE(files, create_over_what_is_no_file)
{
    mk_dir(top, "d");
    mk_symlink(top, "l", "nowhere");
    IS(t_create(top, "d", O_CREAT | O_RDWR, 0644), -EISDIR);
    ONE_OF(t_create(top, "l", O_CREAT | O_RDWR, 0644), -ELOOP, -EEXIST);
    absent(top, "nowhere");
}

/* The mode of a new file does not bind the open that makes it. */
CASE(files, create_read_only_and_write)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR | O_EXCL, 0444);
    say(o, 0, "text");
    reads(o, "text");
    IS(fattr(o).mode, S_IFREG | 0444);
    o = mk_open(top, "g", O_WRONLY | O_EXCL, 0);
    say(o, 0, "text");
    IS(fattr(o).mode, S_IFREG);
}

CASE(files, open_what_cannot_be)
{
    IS(t_open(mk_symlink(top, "l", "x"), O_RDONLY), -ELOOP);
    TRUE(t_open(mk_dir(top, "d"), O_RDONLY | O_TRUNC) < 0);
    NEED(special, t_make(top, "s", S_IFSOCK | 0644));
    TRUE(t_open(look(top, "s"), O_RDONLY) < 0);
}

CASE(files, hole_before_data)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    say(o, 1 << 20, "end");
    IS(fattr(o).size, (1 << 20) + 3);
    zeroes(o, 0, 1 << 20);
    holds(o, 1 << 20, "end", 3);
    say(o, 5000, "middle");
    zeroes(o, 0, 5000);
    holds(o, 5000, "middle", 6);
    zeroes(o, 5006, (1 << 20) - 5006);
}

CASE(files, what_was_cut_off_is_gone)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    char buf[10000];
    memset(buf, 'x', sizeof(buf));
    write_(o, buf, sizeof(buf), 0);
    OK(t_truncate(o->node, 100));
    say(o, 9000, "end");
    zeroes(o, 100, 8900);
    holds(o, 0, buf, 100);
    holds(o, 9000, "end", 3);
}

CASE(files, past_four_gigabytes)
{
    static const uint64_t at[] = {(1ull << 31) - 2, (1ull << 32) - 3, (1ull << 32) + 5000,
                                  5ull << 30, 1ull << 40};
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    for (size_t i = 0; i < sizeof(at) / sizeof(*at); i++) {
        char text[32];
        snprintf(text, sizeof(text), "%llu", (unsigned long long)at[i]);
        say(o, at[i], text);
        IS(fattr(o).size, at[i] + strlen(text));
    }
    for (size_t i = 0; i < sizeof(at) / sizeof(*at); i++) {
        char text[32];
        snprintf(text, sizeof(text), "%llu", (unsigned long long)at[i]);
        holds(o, at[i], text, strlen(text));
        zeroes(o, at[i] - 1000, 1000);
    }
    OK(t_truncate(o->node, (1ull << 32) + 1));
    IS(attr(o->node).size, (1ull << 32) + 1);
    struct pl_file *a = open_(o->node, O_WRONLY | O_APPEND);
    say(a, 0, "end");
    holds(o, (1ull << 32) + 1, "end", 3);
}

CASE(files, past_the_largest_offset)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    char buf[16] = "";
    say(o, 0, "text");
    ONE_OF(pl_write(tree, me, o, buf, 1, 1ull << 63), -EINVAL, -EFBIG);
    ONE_OF(pl_write(tree, me, o, buf, 1, UINT64_MAX), -EINVAL, -EFBIG);
    ONE_OF(pl_write(tree, me, o, buf, 16, PL_OFF_MAX), -EINVAL, -EFBIG);
    ONE_OF(pl_write(tree, me, o, buf, 16, PL_OFF_MAX - 8), -EINVAL, -EFBIG);
    IS(pl_read(tree, me, o, buf, 16, 1ull << 63), -EINVAL);
    IS(pl_read(tree, me, o, buf, 16, UINT64_MAX), -EINVAL);
    ONE_OF(pl_read(tree, me, o, buf, 16, PL_OFF_MAX), 0, -EINVAL);
    reads(o, "text");
}

CASE(files, last_byte_there_may_be)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    int64_t r = pl_write(tree, me, o, "x", 1, PL_OFF_MAX - 1);
    if (r >= 0) {
        IS(r, 1);
        IS(fattr(o).size, PL_OFF_MAX);
        holds(o, PL_OFF_MAX - 1, "x", 1);
    } else {
        ONE_OF(r, -EFBIG, -ENOSPC);
        IS(fattr(o).size, 0);
    }
}

CASE(files, direct)
{
    struct pl_node *f = mk_text(top, "f", "");
    struct pl_file *o;
    void *buf;
    int r = pl_open(tree, me, f, O_RDWR | O_DIRECT, &o);
    if (r == -EINVAL || r == -EOPNOTSUPP)
        SKIP(direct, "open: %d", r);
    OK(r);
    keep_file(o);
    if (posix_memalign(&buf, 4096, 16384))
        FAIL("no memory");
    memset(buf, 'd', 16384);
    write_(o, buf, 16384, 0);
    memset(buf, 0, 16384);
    IS(pl_read(tree, me, o, buf, 8192, 8192), 8192);
    for (int i = 0; i < 8192; i++)
        TRUE(((char *)buf)[i] == 'd');
    holds(open_(f, O_RDONLY), 1000, buf, 3000);
    free(buf);
}

CASE(files, tmpfile)
{
    struct pl_node *n, *d = mk_dir(top, "d");
    struct pl_file *o;
    struct pl_attr a;
    NEED(tmpfile, pl_tmpfile(tree, me, d, O_RDWR, 0640, &n, &a, &o));
    keep(n);
    keep_file(o);
    IS(a.mode, S_IFREG | 0640);
    IS(a.nlink, 0);
    say(o, 0, "text");
    struct entries l = entries_of(d);
    IS(l.n, 0);
    entries_free(&l);
    OK(t_link(n, d, "named"));
    IS(attr(n).nlink, 1);
    content(d, "named", "text");
    TRUE(same(look(d, "named"), n));
}

CASE(files, tmpfile_for_good)
{
    struct pl_node *n;
    struct pl_file *o;
    struct pl_attr a;
    NEED(tmpfile, pl_tmpfile(tree, me, top, O_RDWR | O_EXCL, 0600, &n, &a, &o));
    keep(n);
    keep_file(o);
    say(o, 0, "text");
    IS(t_link(n, top, "named"), -ENOENT);
    reads(o, "text");
}

CASE(files, sync)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    say(o, 0, "text");
    OK(pl_fsync(tree, me, o, true));
    OK(pl_fsync(tree, me, o, false));
    OK(pl_syncfs(tree, me, top));
    OK(pl_fsync(tree, me, open_(o->node, O_RDONLY), false));
    reads(o, "text");
}

CASE(files, flush_many_times)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR | O_SYNC, 0644);
    for (int i = 0; i < 5; i++) {
        say(o, (uint64_t)i, "x");
        OK(pl_flush(tree, me, o, (uint64_t)i));
    }
    reads(o, "xxxxx");
}

CASE(files, unknown_ioctl)
{
    char buf[16] = "";
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    IS(pl_ioctl(tree, me, o, 0xc010feed, buf, sizeof(buf), sizeof(buf)), -ENOTTY);
}

CASE(files, always_ready)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    int64_t r = OK(pl_poll(tree, me, o, NULL));
    IS(r & (POLLIN | POLLOUT), POLLIN | POLLOUT);
}

CASE(files, many_open_at_once)
{
    enum { N = 600 };
    struct pl_file *o[N];
    char name[32];
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof(name), "f%d", i % 50);
        o[i] = mk_open(top, name, O_RDWR, 0644);
    }
    for (int i = 0; i < N; i++)
        write_(o[i], &i, sizeof(i), (uint64_t)i * sizeof(i));
    for (int i = 0; i < N; i++)
        holds(o[i % 50 + N - 50], (uint64_t)i * sizeof(i), &i, sizeof(i));
    for (int i = 0; i < N; i += 2)
        close_(o[i]);
    for (int i = 1; i < N; i += 2)
        holds(o[i], (uint64_t)i * sizeof(i), &i, sizeof(i));
}
