/* SPDX-License-Identifier: MIT */
/* The decoder of FUSE requests: each opcode whole, cut at every byte, and spoilt. The requests end
 * where a page ends that is followed by one that nobody may read. */
#include "fuse/msg.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

/* What the kernel sends, from its own header: bytes of arguments, strings, bytes of data. */
static const struct shape {
    uint32_t opcode;
    const char *name;
    unsigned args, strings, data;
} shapes[] = {
    {1, "LOOKUP", 0, 1, 0},         {2, "FORGET", 8, 0, 0},
    {3, "GETATTR", 16, 0, 0},       {4, "SETATTR", 88, 0, 0},
    {5, "READLINK", 0, 0, 0},       {6, "SYMLINK", 0, 2, 0},
    {8, "MKNOD", 16, 1, 0},         {9, "MKDIR", 8, 1, 0},
    {10, "UNLINK", 0, 1, 0},        {11, "RMDIR", 0, 1, 0},
    {12, "RENAME", 8, 2, 0},        {13, "LINK", 8, 1, 0},
    {14, "OPEN", 8, 0, 0},          {15, "READ", 40, 0, 0},
    {16, "WRITE", 40, 0, 100},      {17, "STATFS", 0, 0, 0},
    {18, "RELEASE", 24, 0, 0},      {20, "FSYNC", 16, 0, 0},
    {21, "SETXATTR", 16, 1, 50},    {22, "GETXATTR", 8, 1, 0},
    {23, "LISTXATTR", 8, 0, 0},     {24, "REMOVEXATTR", 0, 1, 0},
    {25, "FLUSH", 24, 0, 0},        {26, "INIT", 16, 0, 0},
    {27, "OPENDIR", 8, 0, 0},       {28, "READDIR", 40, 0, 0},
    {29, "RELEASEDIR", 24, 0, 0},   {30, "FSYNCDIR", 16, 0, 0},
    {31, "GETLK", 48, 0, 0},        {32, "SETLK", 48, 0, 0},
    {33, "SETLKW", 48, 0, 0},       {34, "ACCESS", 8, 0, 0},
    {35, "CREATE", 16, 1, 0},       {36, "INTERRUPT", 8, 0, 0},
    {38, "DESTROY", 0, 0, 0},       {39, "IOCTL", 32, 0, 60},
    {40, "POLL", 24, 0, 0},         {41, "NOTIFY_REPLY", 0, 0, 0},
    {42, "BATCH_FORGET", 8, 0, 48}, {43, "FALLOCATE", 32, 0, 0},
    {44, "READDIRPLUS", 40, 0, 0},  {45, "RENAME2", 16, 2, 0},
    {46, "LSEEK", 24, 0, 0},        {47, "COPY_FILE_RANGE", 56, 0, 0},
    {50, "SYNCFS", 8, 0, 0},        {51, "TMPFILE", 16, 1, 0},
    {52, "STATX", 24, 0, 0},        {53, "COPY_FILE_RANGE_64", 56, 0, 0},
};
#define NSHAPES (sizeof(shapes) / sizeof(*shapes))

static char *page_end; /* the first byte that may not be read */

static int setup(void **state)
{
    char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    assert_int_equal(mprotect(p + 4096, 4096, PROT_NONE), 0);
    page_end = p + 4096;
    return 0;
}

static int teardown(void **state)
{
    return munmap(page_end - 4096, 8192);
}

/* Decodes `n` bytes whose header claims to be `says` long, from the end of the page. */
static int decode(const char *bytes, size_t n, uint32_t says, bool ext, struct fuse_msg *m)
{
    char *p = page_end - n;
    memcpy(p, bytes, n);
    if (n >= 4)
        memcpy(p, &says, 4);
    return fuse_msg_decode(p, n, ext, m);
}

/* A request of that shape: its length. Its first two strings are "name1" and "name2". */
static size_t build(char *buf, const struct shape *s)
{
    struct fuse_in_header h = {.opcode = s->opcode, .unique = 77, .nodeid = 5, .uid = 1000};
    size_t n = sizeof(h);
    memset(buf + n, 0, s->args);
    if (s->opcode == FUSE_WRITE)
        ((struct fuse_write_in *)(void *)(buf + n))->size = s->data;
    if (s->opcode == FUSE_SETXATTR)
        ((struct fuse_setxattr_in *)(void *)(buf + n))->size = s->data;
    if (s->opcode == FUSE_IOCTL)
        ((struct fuse_ioctl_in *)(void *)(buf + n))->in_size = s->data;
    if (s->opcode == FUSE_BATCH_FORGET)
        ((struct fuse_batch_forget_in *)(void *)(buf + n))->count = s->data / 16;
    n += s->args;
    for (unsigned i = 0; i < s->strings; i++)
        n += (size_t)sprintf(buf + n, "name%u", i + 1) + 1;
    memset(buf + n, 'd', s->data);
    n += s->data;
    h.len = (uint32_t)n;
    memcpy(buf, &h, sizeof(h));
    return n;
}

static void whole(void **state)
{
    char buf[1024] __attribute__((aligned(8)));
    for (size_t i = 0; i < NSHAPES; i++) {
        const struct shape *s = &shapes[i];
        struct fuse_msg m;
        size_t n = build(buf, s);
        assert_int_equal(decode(buf, n, (uint32_t)n, true, &m), 0);
        assert_int_equal(m.h.opcode, s->opcode);
        assert_int_equal(m.h.unique, 77);
        assert_int_equal(m.h.nodeid, 5);
        assert_int_equal(m.h.uid, 1000);
        assert_string_equal(fuse_op_name(s->opcode), s->name);
        if (s->strings > 0)
            assert_string_equal(m.name, "name1");
        if (s->strings > 1)
            assert_string_equal(m.name2, "name2");
        assert_int_equal(m.size, s->data);
        for (unsigned k = 0; k < s->data; k++)
            assert_int_equal(((const char *)m.data)[k], 'd');
    }
}

static void cut(void **state)
{
    char buf[1024] __attribute__((aligned(8)));
    struct fuse_msg m;
    for (size_t i = 0; i < NSHAPES; i++) {
        size_t n = build(buf, &shapes[i]);
        for (size_t k = 0; k < n; k++) {
            assert_int_equal(decode(buf, k, (uint32_t)k, true, &m), -EINVAL);
            assert_int_equal(decode(buf, k, (uint32_t)n, true, &m), -EINVAL);
        }
        /* a header that claims less than there is */
        assert_int_equal(decode(buf, n, (uint32_t)n - 1, true, &m), -EINVAL);
        /* more than there should be is the future's business */
        memset(buf + n, 0, 8);
        assert_int_equal(decode(buf, n + 8, (uint32_t)n + 8, true, &m), 0);
    }
}

static void announced_sizes(void **state)
{
    char buf[1024] __attribute__((aligned(8)));
    struct fuse_msg m;
    for (size_t i = 0; i < NSHAPES; i++) {
        const struct shape *s = &shapes[i];
        if (!s->data)
            continue;
        size_t n = build(buf, s);
        /* the field that holds the size or the count */
        size_t at = s->opcode == FUSE_WRITE ? 40 + 16 : s->opcode == FUSE_IOCTL ? 40 + 24 : 40;
        static const uint32_t bad[] = {1000, 0x7fffffff, 0x80000000, 0xffffffff, 0x10000000};
        for (size_t k = 0; k < sizeof(bad) / sizeof(*bad); k++) {
            memcpy(buf + at, &bad[k], 4);
            assert_int_equal(decode(buf, n, (uint32_t)n, true, &m), -EINVAL);
        }
        uint32_t none = 0;
        memcpy(buf + at, &none, 4);
        assert_int_equal(decode(buf, n, (uint32_t)n, true, &m), 0);
        assert_int_equal(m.size, 0);
    }
}

static void empty_names(void **state)
{
    char buf[1024] __attribute__((aligned(8)));
    struct fuse_msg m;
    for (size_t i = 0; i < NSHAPES; i++) {
        const struct shape *s = &shapes[i];
        for (unsigned k = 0; k < s->strings; k++) {
            size_t n = build(buf, s);
            buf[40 + s->args + 6 * k] = 0;
            /* Of "name1" what follows is taken for the second string: only its end is missing. */
            assert_int_equal(decode(buf, n, (uint32_t)n, true, &m), -EINVAL);
        }
    }
}

static void extensions(void **state)
{
    char buf[1024] __attribute__((aligned(8)));
    struct fuse_msg m;
    const struct shape *s = &shapes[0];
    size_t n = build(buf, s);
    struct fuse_in_header *h = (struct fuse_in_header *)(void *)buf;
    memset(buf + n, 'e', 32);
    h->extlen = 2;
    assert_int_equal(decode(buf, n + 16, (uint32_t)n + 16, true, &m), 0);
    assert_string_equal(m.name, "name1");
    h->extlen = 5; /* more than there is */
    assert_int_equal(decode(buf, n + 16, (uint32_t)n + 16, true, &m), -EINVAL);
    h->extlen = 0xffff;
    assert_int_equal(decode(buf, n + 16, (uint32_t)n + 16, true, &m), -EINVAL);
}

/* The sizes that depend on what was agreed. */
static void compat(void **state)
{
    char buf[1024] __attribute__((aligned(8)));
    struct fuse_msg m;
    struct fuse_in_header h = {.opcode = FUSE_SETXATTR, .unique = 1};
    struct fuse_setxattr_in x = {.size = 3, .flags = 1};
    memcpy(buf, &h, sizeof(h));
    memcpy(buf + 40, &x, 8);
    memcpy(buf + 48, "user.a\0val", 10);
    assert_int_equal(decode(buf, 58, 58, false, &m), 0);
    assert_string_equal(m.name, "user.a");
    assert_int_equal(m.size, 3);
    assert_memory_equal(m.data, "val", 3);
    assert_int_equal(m.a.setxattr.setxattr_flags, 0);

    struct fuse_init_in init = {7, 31, 65536, 0xffffffff, 0xffffffff, {0}};
    h.opcode = FUSE_INIT;
    memcpy(buf, &h, sizeof(h));
    memcpy(buf + 40, &init, sizeof(init));
    assert_int_equal(decode(buf, 56, 56, false, &m), 0);
    assert_int_equal(m.a.init.minor, 31);
    assert_int_equal(m.a.init.flags2, 0); /* was not sent */
    assert_int_equal(decode(buf, 104, 104, false, &m), 0);
    assert_int_equal(m.a.init.flags2, 0xffffffff);
}

static void unknown(void **state)
{
    struct fuse_msg m;
    static const uint32_t ops[] = {0, 7, 19, 37, 48, 49, 54, 1000, 4096, 1048576, 0xffffffff};
    for (size_t i = 0; i < sizeof(ops) / sizeof(*ops); i++) {
        struct fuse_in_header h = {.opcode = ops[i], .unique = 9};
        assert_int_equal(decode((char *)&h, 40, 40, true, &m), -ENOSYS);
        assert_int_equal(m.h.unique, 9);
        assert_string_equal(fuse_op_name(ops[i]), "?");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole),       cmocka_unit_test(cut),    cmocka_unit_test(announced_sizes),
        cmocka_unit_test(empty_names), cmocka_unit_test(compat), cmocka_unit_test(extensions),
        cmocka_unit_test(unknown),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
