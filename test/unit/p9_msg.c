/* SPDX-License-Identifier: MIT */
/* The 9P codec: every message there and back, every truncation refused, every limit kept, and the
 * layout against sizes and bytes that were written down from the protocol, not from the table. */
#include "base/cursor.h"
#include "p9/msg.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Bytes of each message's body when every string is "abc", every DATA "12345", and walks have two
 * elements. */
struct size {
    uint8_t type;
    uint16_t body;
};
static const struct size sizes_l[] = {
    {7, 4},
    {8, 4},
    {9, 4 + 4 + 6 * 8 + 4},
    {12, 8},
    {13, 13 + 4},
    {14, 4 + 5 + 12},
    {15, 17},
    {16, 4 + 5 + 5 + 4},
    {17, 13},
    {18, 4 + 5 + 16},
    {19, 13},
    {20, 8 + 5},
    {21, 0},
    {22, 4},
    {23, 5},
    {24, 12},
    {25, 8 + 13 + 12 + 5 * 8 + 8 * 8 + 16},
    {26, 4 + 4 + 12 + 8 + 32},
    {27, 0},
    {30, 8 + 5},
    {31, 8},
    {32, 4 + 5 + 12},
    {33, 0},
    {40, 16},
    {41, 4 + 5},
    {50, 8},
    {51, 0},
    {52, 4 + 1 + 4 + 16 + 4 + 5},
    {53, 1},
    {54, 4 + 1 + 16 + 4 + 5},
    {55, 1 + 16 + 4 + 5},
    {70, 8 + 5},
    {71, 0},
    {72, 4 + 5 + 8},
    {73, 13},
    {74, 4 + 5 + 4 + 5},
    {75, 0},
    {76, 4 + 5 + 4},
    {77, 0},
    {100, 4 + 5},
    {101, 4 + 5},
    {102, 4 + 5 + 5 + 4},
    {103, 13},
    {104, 8 + 5 + 5 + 4},
    {105, 13},
    {108, 2},
    {109, 0},
    {110, 8 + 2 + 5 + 5},
    {111, 2 + 26},
    {116, 16},
    {117, 4 + 5},
    {118, 12 + 4 + 5},
    {119, 4},
    {120, 4},
    {121, 0},
    {122, 4},
    {123, 0},
    {180, 16},
    {181, 4},
    {182, 4 + 8 + 8 + 4 + 5},
    {183, 4},
    {184, 4},
    {185, 4 + 5},
    {186, 8 + 4 + 5},
    {187, 8 + 13 + 12 + 5 * 8 + 8 * 8 + 16},
    {188, 16},
    {189, 4 + 5},
    {190, 4},
    {191, 0},
    {200, 0},
    {201, 0},
    {202, 4 + 5 + 4 + 5 + 4},
    {203, 0},
    {204, 24},
    {205, 0},
    {206, 16},
    {207, 8},
    {208, 4 + 8 + 4 + 8 + 8},
    {209, 8},
    {210, 20},
    {211, 17},
    {212, 12},
    {213, 0},
    {214, 12},
    {215, 0},
    {216, 4},
    {217, 0},
    {218, 8 + 5},
    {219, 8 + 13 + 12 + 5 * 8 + 8 * 8 + 16},
    {220, 12 + 4 + 5},
    {221, 4 + 4 + 5},
};
enum { STAT = 2 + 4 + 13 + 4 + 4 + 4 + 8 + 4 * 5 };
#define OLD(tattach, rerror, tcreate, stat)                                                        \
    {100, 4 + 5}, {101, 4 + 5}, {102, 4 + 5 + 5 + (tattach)}, {103, 13},                           \
        {104, 8 + 5 + 5 + (tattach)}, {105, 13}, {107, 5 + (rerror)}, {108, 2}, {109, 0},          \
        {110, 8 + 2 + 5 + 5}, {111, 2 + 26}, {112, 5}, {113, 17},                                  \
        {114, 4 + 5 + 4 + 1 + (tcreate)}, {115, 17}, {116, 16}, {117, 4 + 5}, {118, 12 + 4 + 5},   \
        {119, 4}, {120, 4}, {121, 0}, {122, 4}, {123, 0}, {124, 4}, {125, 2 + 2 + (stat)},         \
        {126, 4 + 2 + 2 + (stat)},                                                                 \
    {                                                                                              \
        127, 0                                                                                     \
    }
static const struct size sizes_u[] = {OLD(4, 4, 5, STAT + 5 + 12)};
static const struct size sizes_base[] = {OLD(0, 0, 0, STAT)};

/* Each test of all messages is run for each dialect. */
struct set {
    enum p9_dialect dialect;
    const struct size *sizes;
    size_t n;
};
#define SET(dialect, sizes)                                                                        \
    {                                                                                              \
        dialect, sizes, sizeof(sizes) / sizeof(*(sizes))                                           \
    }
static struct set sets[] = {SET(P9_L, sizes_l), SET(P9_U, sizes_u), SET(P9_BASE, sizes_base)};
static struct set set; /* the one of the test that runs */

static int choose(void **state)
{
    set = *(struct set *)*state;
    return 0;
}

/* These may have an op behind that. */
static bool has_op(uint8_t type)
{
    static const uint8_t types[] = {12, 14, 16,  18,  20,  26,  70, 72,
                                    74, 76, 120, 122, 202, 204, 208};
    return set.dialect == P9_L && memchr(types, type, sizeof(types));
}

static char payload[] = "12345";

static void fill(struct p9_msg *m, uint8_t type)
{
    uint8_t *p = (uint8_t *)m;
    for (size_t i = 0; i < sizeof(*m); i++)
        p[i] = (uint8_t)(i * 7 + type);
    struct p9_str *strings[] = {&m->name,      &m->name2,         &m->target,         &m->uname,
                                &m->aname,     &m->version,       &m->lock.client_id, &m->ename,
                                &m->extension, &m->stat.name,     &m->stat.uid,       &m->stat.gid,
                                &m->stat.muid, &m->stat.extension};
    for (size_t i = 0; i < sizeof(strings) / sizeof(*strings); i++)
        *strings[i] = p9_str("abc");
    m->type = type;
    m->dialect = (uint8_t)set.dialect;
    m->nwname = m->nwqid = 2;
    m->wname[0] = p9_str("def");
    m->wname[1] = p9_str("ghi");
    m->count = type == P9_Tread || type == P9_Treaddir || type == P9_Rwrite ? 77 : 5;
    m->data = payload;
}

static size_t encode(uint8_t type, uint8_t buf[1024])
{
    struct p9_msg m;
    fill(&m, type);
    int n = p9_encode(&m, buf, 1024);
    assert_true(n >= P9_HDRSZ);
    assert_int_equal(n, p9_encode_size(&m));
    return (size_t)n;
}

static void patch(uint8_t *buf, size_t n)
{
    struct cursor c = cursor_at(buf, 4);
    cursor_put(&c, 4, n);
}

static void test_sizes(void **state)
{
    unsigned named = 0;
    for (int t = 0; t < 256; t++)
        named += p9_encode_size(&(struct p9_msg){.type = (uint8_t)t, .dialect = set.dialect}) != 0;
    assert_int_equal(named, set.n);
    for (size_t i = 0; i < set.n; i++) {
        uint8_t buf[1024];
        assert_non_null(p9_type_name(set.sizes[i].type));
        size_t body = (size_t)set.sizes[i].body + (has_op(set.sizes[i].type) ? 8 : 0);
        if (encode(set.sizes[i].type, buf) != P9_HDRSZ + body)
            fail_msg("%s", p9_type_name(set.sizes[i].type));
    }
}

static void test_there_and_back(void **state)
{
    for (size_t i = 0; i < set.n; i++) {
        uint8_t buf[1024], wire[1024], again[1024];
        char print[2][2048];
        struct p9_msg m, orig;
        size_t n = encode(set.sizes[i].type, buf);
        memcpy(wire, buf, n);
        fill(&orig, set.sizes[i].type);
        assert_int_equal(p9_decode_as(set.dialect, buf, n, &m), 0);
        assert_int_equal(m.tag, orig.tag);
        assert_int_equal(p9_encode(&m, again, sizeof(again)), n);
        assert_memory_equal(wire, again, n);
        assert_string_equal(p9_print(&m, print[0], sizeof(print[0])),
                            p9_print(&orig, print[1], sizeof(print[1])));
    }
}

static void test_apart(void **state)
{
    for (size_t i = 0; i < set.n; i++) {
        uint8_t whole[1024], head[1024];
        struct p9_msg m, back;
        size_t n = encode(set.sizes[i].type, whole);
        fill(&m, set.sizes[i].type);
        int h = p9_encode_head(&m, head, sizeof(head));
        assert_memory_equal(head, whole, (size_t)h);
        if (!p9_has_data(m.type)) {
            assert_int_equal(h, n);
            assert_true(p9_decode_split(head, (size_t)h, payload, 0, &back) < 0);
            continue;
        }
        assert_int_equal(h + 5, n);
        assert_int_equal(p9_decode_split(head, (size_t)h, payload, 4, &back), -EPROTO);
        memcpy(head, whole, (size_t)h); /* decoding may have changed it */
        assert_int_equal(p9_decode_split(head, (size_t)h, payload, 5, &back), 0);
        assert_ptr_equal(back.data, payload);
    }
}

/* Short by any number of bytes, whether the size field knows of it or not, or longer by one. */
static void test_truncations(void **state)
{
    for (size_t i = 0; i < set.n; i++) {
        uint8_t whole[1024];
        size_t n = encode(set.sizes[i].type, whole);
        for (size_t cut = 0; cut <= n + 1; cut++) {
            struct p9_msg m;
            uint8_t *buf = calloc(1, cut + 1); /* of just the size, for ASan */
            uint8_t *exact = malloc(cut ? cut : 1);
            memcpy(buf, whole, cut < n ? cut : n);
            if (cut >= 4 && cut != n) {
                memcpy(exact, buf, cut);
                assert_int_equal(p9_decode_as(set.dialect, exact, cut, &m), -EPROTO);
                patch(buf, cut);
            }
            memcpy(exact, buf, cut);
            bool old = set.sizes[i].type == P9_Tfsync && cut == P9_HDRSZ + 4; /* without datasync */
            int r = p9_decode_as(set.dialect, exact, cut, &m);
            bool no_op = has_op(set.sizes[i].type) && cut == n - 8;
            if (r != (cut == n || old || no_op ? 0 : -EPROTO))
                fail_msg("%s cut to %zu: %d", p9_type_name(set.sizes[i].type), cut, r);
            if (no_op)
                assert_true(m.op == 0 && p9_encode_size(&m) == cut);
            if (old)
                assert_int_equal(m.datasync, 0);
            free(buf);
            free(exact);
        }
    }
}

/* Without an identity a message is byte for byte the standard's; zero is none, and not sent. */
static void test_ops(void **state)
{
    struct p9_msg m = {.type = P9_Tclunk, .tag = 1, .fid = 2}, back;
    uint8_t buf[64], zero[] = {19, 0, 0, 0, 120, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    assert_int_equal(p9_encode(&m, buf, sizeof(buf)), P9_HDRSZ + 4);
    m.op = 3;
    assert_int_equal(p9_encode(&m, buf, sizeof(buf)), P9_HDRSZ + 12);
    assert_int_equal(p9_decode(buf, P9_HDRSZ + 12, &back), 0);
    assert_int_equal(back.op, 3);
    assert_int_equal(p9_decode(zero, sizeof(zero), &back), -EPROTO);
}

/* A buffer that is too small is never written past, and said to be. */
static void test_small_buffers(void **state)
{
    for (size_t i = 0; i < set.n; i++) {
        uint8_t whole[1024];
        struct p9_msg m;
        size_t n = encode(set.sizes[i].type, whole);
        fill(&m, set.sizes[i].type);
        for (size_t room = 0; room < n; room++) {
            uint8_t *buf = malloc(room ? room : 1);
            assert_int_equal(p9_encode(&m, buf, room), -EMSGSIZE);
            free(buf);
        }
    }
}

static void test_bytes(void **state)
{
    static const uint8_t walk[] = {27, 0, 0, 0, 110, 3,   0,   1,   0, 0, 0,   2,   0,  0,
                                   0,  2, 0, 3, 0,   'u', 's', 'r', 3, 0, 'l', 'i', 'b'};
    static const uint8_t version[] = {21, 0, 0,   0,   100, 0xff, 0xff, 0,   0x20, 0,  0,
                                      8,  0, '9', 'P', '2', '0',  '0',  '0', '.',  'L'};
    static const uint8_t lock[] = {38, 0, 0, 0, 52, 1,  0, 9, 0, 0, 0, 1, 1, 0, 0, 0, 16, 0, 0,
                                   0,  0, 0, 0, 0,  32, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0,  0, 0};
    uint8_t buf[64];
    struct p9_msg m = {.type = P9_Twalk,
                       .tag = 3,
                       .fid = 1,
                       .newfid = 2,
                       .nwname = 2,
                       .wname = {p9_str("usr"), p9_str("lib")}};
    assert_int_equal(p9_encode(&m, buf, sizeof(buf)), sizeof(walk));
    assert_memory_equal(buf, walk, sizeof(walk));
    m = (struct p9_msg){
        .type = P9_Tversion, .tag = P9_NOTAG, .msize = 8192, .version = p9_str(P9_VERSION_L)};
    assert_int_equal(p9_encode(&m, buf, sizeof(buf)), sizeof(version));
    assert_memory_equal(buf, version, sizeof(version));
    m = (struct p9_msg){
        .type = P9_Tlock,
        .tag = 1,
        .fid = 9,
        .lock = {
            .type = P9_LOCK_WR, .flags = P9_LOCK_BLOCK, .start = 16, .length = 32, .proc_id = 7}};
    assert_int_equal(p9_encode(&m, buf, sizeof(buf)), sizeof(lock));
    assert_memory_equal(buf, lock, sizeof(lock));
}

static int decode_name(size_t len, int nul_at)
{
    uint8_t buf[8192];
    struct cursor c = cursor_at(buf, sizeof(buf));
    struct p9_msg m;
    size_t n = P9_HDRSZ + 4 + 4 + 2 + len;
    cursor_put(&c, 4, n);
    cursor_put(&c, 1, P9_Tlookup);
    cursor_put(&c, 2, 0);
    cursor_put(&c, 4, 1);
    cursor_put(&c, 4, 2);
    cursor_put(&c, 2, len);
    memset(c.p, 'n', len);
    if (nul_at >= 0)
        c.p[nul_at] = 0;
    int r = p9_decode(buf, n, &m);
    if (r == 0) {
        assert_int_equal(m.name.len, len);
        assert_int_equal(strlen(m.name.s), len);
    }
    return r;
}

static void test_names(void **state)
{
    assert_int_equal(decode_name(0, -1), 0);
    assert_int_equal(decode_name(LIMIT_NAME, -1), 0);
    assert_int_equal(decode_name(LIMIT_NAME + 1, -1), -ENAMETOOLONG);
    assert_int_equal(decode_name(5, 0), -EINVAL);
    assert_int_equal(decode_name(5, 4), -EINVAL);
    char name[LIMIT_STRING + 2];
    uint8_t buf[8192];
    memset(name, 'x', sizeof(name));
    struct p9_msg m = {.type = P9_Tmkdir, .name = {LIMIT_NAME + 1, name}};
    assert_int_equal(p9_encode(&m, buf, sizeof(buf)), -ENAMETOOLONG);
    m.name = (struct p9_str){3, "a\0b"};
    assert_int_equal(p9_encode(&m, buf, sizeof(buf)), -EINVAL);
    m = (struct p9_msg){.type = P9_Rreadlink, .target = {LIMIT_STRING, name}};
    int n = p9_encode(&m, buf, sizeof(buf));
    assert_int_equal(n, P9_HDRSZ + 2 + LIMIT_STRING);
    assert_int_equal(p9_decode(buf, (size_t)n, &m), 0);
    m.target = (struct p9_str){LIMIT_STRING + 1, name};
    assert_int_equal(p9_encode(&m, buf, sizeof(buf)), -ENAMETOOLONG);
}

static void test_walks(void **state)
{
    uint8_t buf[1024];
    struct p9_msg m = {.type = P9_Twalk, .nwname = LIMIT_WALK}, back;
    for (int i = 0; i < LIMIT_WALK; i++)
        m.wname[i] = p9_str("..");
    int n = p9_encode(&m, buf, sizeof(buf));
    assert_true(n > 0);
    assert_int_equal(p9_decode(buf, (size_t)n, &back), 0);
    assert_int_equal(back.nwname, LIMIT_WALK);
    m.nwname++;
    assert_int_equal(p9_encode(&m, buf, sizeof(buf)), -EINVAL);
    m.nwname--;
    n = p9_encode(&m, buf, sizeof(buf));
    buf[15]++; /* nwname; four more bytes for it to read */
    memset(buf + n, 0, 4);
    patch(buf, (size_t)n + 4);
    assert_int_equal(p9_decode(buf, (size_t)n + 4, &back), -EINVAL);
    m = (struct p9_msg){.type = P9_Rwalk, .nwqid = LIMIT_WALK + 1};
    assert_int_equal(p9_encode(&m, buf, sizeof(buf)), -EINVAL);
}

static void test_unknown(void **state)
{
    uint8_t buf[16] = {7, 0, 0, 0, 6, 1, 2};
    struct p9_msg m = {.type = 6};
    assert_int_equal(p9_encode_size(&m), 0);
    assert_int_equal(p9_encode(&m, buf, sizeof(buf)), -EOPNOTSUPP);
    assert_int_equal(p9_decode(buf, 7, &m), -EOPNOTSUPP);
    assert_int_equal(m.type, 6);
    assert_int_equal(m.tag, 0x201);
    assert_null(p9_type_name(6));
}

static void test_stats(void **state)
{
    static const uint8_t wire[] = {
        0x3f, 0, 0, 0,   0,    0,   0,   0,    0x80, 1,   0,   0,   0,   2,   0, 0,   0,
        0,    0, 0, 0,   0xed, 1,   0,   0x80, 3,    0,   0,   0,   4,   0,   0, 0,   0,
        0,    0, 0, 0,   0,    0,   0,   4,    0,    'n', 'a', 'm', 'e', 3,   0, 'b', 'o',
        'b',  5, 0, 's', 't',  'a', 'f', 'f',  4,    0,   'r', 'o', 'o', 't',
    };
    struct p9_stat st = {.qid = {P9_QTDIR, 1, 2},
                         .mode = P9_DMDIR | 0755,
                         .atime = 3,
                         .mtime = 4,
                         .name = p9_str("name"),
                         .uid = p9_str("bob"),
                         .gid = p9_str("staff"),
                         .muid = p9_str("root"),
                         .extension = p9_str("not said"),
                         .n_uid = 5};
    struct p9_stat back;
    uint8_t buf[256];
    size_t n = sizeof(wire);
    assert_int_equal(wire[0], n - 2);
    assert_int_equal(p9_stat_put(P9_BASE, buf, sizeof(buf), &st), n);
    assert_memory_equal(buf, wire, n);
    for (size_t room = 0; room < n; room++)
        assert_int_equal(p9_stat_put(P9_BASE, buf, room, &st), 0);
    for (size_t cut = 1; cut < n; cut++) {
        uint8_t *part = malloc(cut);
        memcpy(part, wire, cut);
        assert_int_equal(p9_stat_get(P9_BASE, part, cut, &back), -EPROTO);
        memcpy(part, wire, cut);
        if (cut >= 2) { /* and its own size says so too */
            part[0] = (uint8_t)(cut - 2);
            assert_int_equal(p9_stat_get(P9_BASE, part, cut, &back), -EPROTO);
        }
        free(part);
    }
    memcpy(buf, wire, n);
    assert_int_equal(p9_stat_get(P9_BASE, buf, sizeof(buf), &back), n);
    assert_string_equal(back.name.s, "name");
    assert_string_equal(back.gid.s, "staff");
    assert_int_equal(back.mode, P9_DMDIR | 0755);
    assert_int_equal(back.extension.len, 0);
    assert_int_equal(back.n_uid, UINT32_MAX); /* what is not said is not changed */
    assert_int_equal(p9_stat_put(P9_U, buf, sizeof(buf), &st), n + 2 + 8 + 12);
    assert_int_equal(p9_stat_get(P9_U, buf, sizeof(buf), &back), n + 2 + 8 + 12);
    assert_string_equal(back.extension.s, "not said");
    assert_int_equal(back.n_uid, 5);
    assert_int_equal(p9_stat_get(P9_U, buf, 0, &back), 0);
}

/* The sentences that clients of old know, and those that servers say; there and back the same. */
static void test_errors(void **state)
{
    static const struct {
        const char *text;
        int error;
    } known[] = {{"file does not exist", ENOENT},
                 {"'/x/y' file does not exist", ENOENT},
                 {"file does not exist: 'x'", ENOENT},
                 {"No such file or directory", ENOENT},
                 {"directory entry not found", ENOENT},
                 {"Permission denied", EACCES},
                 {"permission denied", EACCES},
                 {"create/wstat -- file exists", EEXIST},
                 {"Directory not empty", ENOTEMPTY},
                 {"directory is not empty", ENOTEMPTY},
                 {"exclusive use file already open", EAGAIN},
                 {"fid unknown or out of range", EBADF},
                 {"wstat prohibited", EPERM},
                 {"Owner died", EOWNERDEAD},
                 {"my hovercraft is full of eels", EIO},
                 {"", EIO}};
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
        struct p9_str s = p9_str(known[i].text);
        assert_int_equal(p9_error_number(&s), known[i].error);
    }
    for (int e = 1; e < 134; e++) {
        struct p9_str s = p9_str(p9_error_text(e));
        assert_true(s.len > 0);
        if (strerrordesc_np(e) && e != ENOSYS)
            assert_int_equal(p9_error_number(&s), e);
    }
    assert_string_equal(p9_error_text(100000), p9_error_text(EIO));
}

static void test_dirents(void **state)
{
    uint8_t buf[256];
    struct p9_dirent e = {{P9_QTDIR, 1, 2}, 3, 4, p9_str("name")}, back;
    int n = p9_dirent_put(buf, sizeof(buf), &e);
    assert_int_equal(n, 13 + 8 + 1 + 2 + 4);
    for (size_t room = 0; room < (size_t)n; room++)
        assert_int_equal(p9_dirent_put(buf, room, &e), 0);
    assert_int_equal(p9_dirent_put(buf, (size_t)n, &e), n);
    for (size_t cut = 1; cut < (size_t)n; cut++) {
        uint8_t *part = malloc(cut);
        memcpy(part, buf, cut);
        assert_int_equal(p9_dirent_get(part, cut, &back), -EPROTO);
        free(part);
    }
    assert_int_equal(p9_dirent_get(buf, sizeof(buf), &back), n);
    assert_string_equal(back.name.s, "name");
    assert_int_equal(back.qid.path, 2);
    assert_int_equal(back.offset, 3);
    assert_int_equal(p9_dirent_get(buf, 0, &back), 0);
}

static void test_print(void **state)
{
    char buf[256];
    struct p9_msg m = {.type = P9_Tattach,
                       .tag = 3,
                       .fid = 1,
                       .afid = P9_NOFID,
                       .uname = p9_str("a\033b"),
                       .aname = p9_str("/srv"),
                       .n_uname = 5};
    assert_string_equal(p9_print(&m, buf, sizeof(buf)),
                        "Tattach tag 3 fid 1 afid - uname a\\033b aname /srv n_uname 5");
    for (size_t size = 1; size < 64; size++) {
        char *cut = malloc(size);
        assert_true(strlen(p9_print(&m, cut, size)) < size);
        free(cut);
    }
}

static void test_fids(void **state)
{
    struct p9_msg m = {.type = P9_Trenameat, .dfid = 5, .newdfid = 6};
    assert_true(p9_names_fid(&m, 5) && p9_names_fid(&m, 6));
    assert_false(p9_names_fid(&m, 0)); /* it has no member fid, which is 0 */
}

#define ALL(f)                                                                                     \
    cmocka_unit_test_prestate_setup_teardown(f, choose, NULL, &sets[0]),                           \
        cmocka_unit_test_prestate_setup_teardown(f, choose, NULL, &sets[1]),                       \
        cmocka_unit_test_prestate_setup_teardown(f, choose, NULL, &sets[2])

int main(void)
{
    const struct CMUnitTest tests[] = {
        ALL(test_sizes),
        ALL(test_there_and_back),
        ALL(test_apart),
        ALL(test_truncations),
        ALL(test_small_buffers),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_walks),
        cmocka_unit_test(test_unknown),
        cmocka_unit_test(test_dirents),
        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_print),
        cmocka_unit_test(test_fids),
        cmocka_unit_test(test_ops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
