/* SPDX-License-Identifier: MIT */
/* Holes: where they are, and fallocate that makes, fills and moves them. */
#include "conform.h"

#include <linux/falloc.h>
#include <stdlib.h>
#include <unistd.h>

#define MIB (1ull << 20)

static int64_t t_seek(struct pl_file *o, uint64_t off, int whence)
{
    return pl_seek(tree, me, o, off, whence);
}

static int t_falloc(struct pl_file *o, int mode, uint64_t off, uint64_t len)
{
    return pl_fallocate(tree, me, o, mode, off, len);
}

/* What any tree must say: walks data and holes to the end, and reads zeroes in the holes. Returns
 * how many bytes are holes. */
static uint64_t walk(struct pl_file *o)
{
    uint64_t size = fattr(o).size, off = 0, holes = 0;
    while (off < size) {
        int64_t data = t_seek(o, off, SEEK_DATA);
        if (data == -ENXIO)
            data = (int64_t)size; /* a hole to the end */
        OK(data);
        TRUE((uint64_t)data >= off && (uint64_t)data <= size);
        if ((uint64_t)data - off <= 4 * MIB)
            zeroes(o, off, (uint64_t)data - off);
        holes += (uint64_t)data - off;
        if ((uint64_t)data == size)
            break;
        int64_t hole = OK(t_seek(o, (uint64_t)data, SEEK_HOLE));
        TRUE(hole > data && (uint64_t)hole <= size);
        off = (uint64_t)hole;
    }
    IS(t_seek(o, size, SEEK_DATA), -ENXIO);
    IS(t_seek(o, size, SEEK_HOLE), -ENXIO);
    IS(t_seek(o, size + 100, SEEK_DATA), -ENXIO);
    return holes;
}

static void need_holes(void)
{
    struct pl_file *o = mk_open(top, "probe", O_RDWR, 0644);
    say(o, 4 * MIB, "x");
    OK(pl_fsync(tree, me, o, false));
    if (t_seek(o, 0, SEEK_DATA) == 0)
        SKIP(holes, "all is data");
    close_(o);
    rm(top, "probe");
}

CASE(sparse, empty_file)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    walk(o);
    IS(t_seek(o, 0, 99), -EINVAL);
    TRUE(t_seek(o, UINT64_MAX, SEEK_DATA) < 0);
}

CASE(sparse, all_data)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    say(o, 0, "no hole in this");
    IS(t_seek(o, 0, SEEK_DATA), 0);
    IS(t_seek(o, 5, SEEK_DATA), 5);
    IS(t_seek(o, 0, SEEK_HOLE), 15);
    IS(t_seek(o, 14, SEEK_HOLE), 15);
    IS(walk(o), 0);
}

CASE(sparse, whatever_is_said_is_true)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    unsigned seed = 3;
    for (int i = 0; i < 40; i++)
        say(o, rnd(&seed, 8 * MIB), "some data");
    walk(o);
    OK(t_truncate(o->node, 3 * MIB + 5));
    walk(o);
    OK(t_truncate(o->node, 9 * MIB));
    walk(o);
}

CASE(sparse, holes_are_known)
{
    need_holes();
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    say(o, MIB, "data");
    say(o, 3 * MIB, "data");
    OK(t_truncate(o->node, 5 * MIB));
    IS(t_seek(o, 0, SEEK_HOLE), 0);
    IS(t_seek(o, 0, SEEK_DATA), MIB);
    int64_t hole = OK(t_seek(o, MIB, SEEK_HOLE));
    TRUE(hole > (int64_t)MIB && hole <= (int64_t)(MIB + 65536));
    IS(t_seek(o, (uint64_t)hole, SEEK_DATA), 3 * MIB);
    IS(t_seek(o, 4 * MIB, SEEK_DATA), -ENXIO);
    IS(t_seek(o, 4 * MIB, SEEK_HOLE), 4 * MIB);
    TRUE(walk(o) >= 5 * MIB - 2 * 65536);
    TRUE(fattr(o).blocks * 512 < MIB);
}

CASE(sparse, holes_past_four_gigabytes)
{
    need_holes();
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    say(o, 6ull << 30, "far");
    IS(t_seek(o, 0, SEEK_DATA), 6ull << 30);
    IS(t_seek(o, 5ull << 30, SEEK_DATA), 6ull << 30);
    IS(t_seek(o, 5ull << 30, SEEK_HOLE), 5ull << 30);
    TRUE(fattr(o).blocks * 512 < MIB);
}

/* ---- fallocate ------------------------------------------------------------------------------- */

static struct pl_file *filled(size_t n)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    char *buf = malloc(n);
    for (size_t i = 0; i < n; i++)
        buf[i] = (char)('a' + i % 23);
    write_(o, buf, n, 0);
    free(buf);
    return o;
}

/* Still as filled() left it. */
static void untouched(struct pl_file *o, uint64_t off, size_t n)
{
    char *buf = malloc(n);
    for (size_t i = 0; i < n; i++)
        buf[i] = (char)('a' + (off + i) % 23);
    holds(o, off, buf, n);
    free(buf);
}

CASE(sparse, allocate)
{
    struct pl_file *o = filled(1000);
    NEED(fallocate, t_falloc(o, 0, 500, 100));
    IS(fattr(o).size, 1000);
    OK(t_falloc(o, 0, 500, 100000));
    IS(fattr(o).size, 100500);
    untouched(o, 0, 1000);
    zeroes(o, 1000, 99500);
    OK(t_falloc(o, 0, 200000, 10));
    IS(fattr(o).size, 200010);
    zeroes(o, 100500, 99510);
}

CASE(sparse, allocate_and_keep_the_size)
{
    struct pl_file *o = filled(1000);
    NEED(fallocate, t_falloc(o, FALLOC_FL_KEEP_SIZE, 0, MIB));
    IS(fattr(o).size, 1000);
    untouched(o, 0, 1000);
    say(o, 5000, "x");
    zeroes(o, 1000, 4000);
}

CASE(sparse, punch)
{
    struct pl_file *o = filled(300000);
    const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    NEED(punch, t_falloc(o, mode, 1001, 200000));
    IS(fattr(o).size, 300000);
    untouched(o, 0, 1001);
    zeroes(o, 1001, 200000);
    untouched(o, 201001, 98999);
    OK(t_falloc(o, mode, 299000, 500000)); /* past the end */
    IS(fattr(o).size, 300000);
    zeroes(o, 299000, 1000);
    OK(t_falloc(o, mode, 1ull << 30, 4096));
    IS(fattr(o).size, 300000);
    OK(t_falloc(o, mode, 250000, 7)); /* within a block */
    untouched(o, 201001, 48999);
    zeroes(o, 250000, 7);
    untouched(o, 250007, 48993);
    walk(o);
}

CASE(sparse, punched_is_a_hole)
{
    need_holes();
    struct pl_file *o = filled(3 * MIB);
    OK(pl_fsync(tree, me, o, false));
    uint64_t blocks = fattr(o).blocks;
    NEED(punch, t_falloc(o, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, MIB, MIB));
    IS(t_seek(o, 0, SEEK_HOLE), MIB);
    IS(t_seek(o, MIB, SEEK_DATA), 2 * MIB);
    TRUE(fattr(o).blocks <= blocks - MIB / 512);
}

CASE(sparse, zero_range)
{
    struct pl_file *o = filled(100000);
    NEED(zero, t_falloc(o, FALLOC_FL_ZERO_RANGE, 1001, 50000));
    IS(fattr(o).size, 100000);
    untouched(o, 0, 1001);
    zeroes(o, 1001, 50000);
    untouched(o, 51001, 48999);
    OK(t_falloc(o, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 90000, 50000));
    IS(fattr(o).size, 100000);
    zeroes(o, 90000, 10000);
    OK(t_falloc(o, FALLOC_FL_ZERO_RANGE, 95000, 50000));
    IS(fattr(o).size, 145000);
    zeroes(o, 90000, 55000);
}

CASE(sparse, collapse_and_insert)
{
    struct pl_file *o = filled(3 * 65536);
    uint64_t half = 65536;
    NEED(shift, t_falloc(o, FALLOC_FL_COLLAPSE_RANGE, half, half));
    IS(fattr(o).size, 2 * half);
    untouched(o, 0, half);
    char *buf = malloc(half);
    for (size_t i = 0; i < half; i++)
        buf[i] = (char)('a' + (2 * half + i) % 23);
    holds(o, half, buf, half);
    NEED(shift, t_falloc(o, FALLOC_FL_INSERT_RANGE, half, half));
    IS(fattr(o).size, 3 * half);
    zeroes(o, half, half);
    holds(o, 2 * half, buf, half);
    free(buf);
}

CASE(sparse, fallocate_errors)
{
    struct pl_file *o = filled(1000);
    NEED(fallocate, t_falloc(o, 0, 0, 1));
    IS(t_falloc(o, 0, 0, 0), -EINVAL);
    ONE_OF(t_falloc(o, 0, 1ull << 63, 1), -EINVAL, -EFBIG);
    ONE_OF(t_falloc(o, 0, 0, 1ull << 63), -EINVAL, -EFBIG);
    ONE_OF(t_falloc(o, 0, PL_OFF_MAX, PL_OFF_MAX), -EINVAL, -EFBIG);
    ONE_OF(t_falloc(o, FALLOC_FL_PUNCH_HOLE, 0, 10), -EINVAL, -EOPNOTSUPP);
    ONE_OF(t_falloc(o, 0x4000, 0, 10), -EINVAL, -EOPNOTSUPP);
    IS(t_falloc(open_(o->node, O_RDONLY), 0, 0, 10), -EBADF);
    struct pl_file *d = open_(mk_dir(top, "d"), O_RDONLY | O_DIRECTORY);
    ONE_OF(t_falloc(d, 0, 0, 10), -EBADF, -EISDIR, -ENODEV);
    untouched(o, 0, 1000);
    IS(fattr(o).size, 1000);
}

CASE(sparse, fallocate_after_unlink)
{
    struct pl_file *o = filled(10000);
    rm(top, "f");
    NEED(fallocate, t_falloc(o, 0, 0, 20000));
    IS(fattr(o).size, 20000);
    untouched(o, 0, 10000);
}
