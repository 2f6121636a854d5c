/* SPDX-License-Identifier: MIT */
/*
 * What the fuzzers of whole 9P sessions share: an input is a list of steps, each kind[1] size[1]
 * and `size` bytes out of which a message is made by p9/table.h, so that most inputs make sense and
 * each byte of them means something. The mutator knows where the steps begin.
 */
#ifndef FUZZ_P9_STEPS_H
#define FUZZ_P9_STEPS_H

#include "p9/msg.h"
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static inline void check_at(bool ok, int line, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "line %d: not so: %s\n", line, what);
    abort();
}
#define CHECK(e) check_at(e, __LINE__, #e)

/* ---- what is left of a step ---- */

struct luck {
    const uint8_t *p;
    size_t n;
};

static inline uint8_t luck_byte(struct luck *l)
{
    if (!l->n)
        return 0;
    l->n--;
    return *l->p++;
}

/* The next step of an input: false at its end. */
static inline bool luck_step(struct luck *in, uint8_t *kind, struct luck *step)
{
    if (in->n < 2)
        return false;
    *kind = luck_byte(in);
    size_t size = luck_byte(in);
    *step = (struct luck){in->p, size < in->n ? size : in->n};
    in->p += step->n;
    in->n -= step->n;
    return true;
}

static inline uint64_t luck_int(struct luck *l)
{
    static const uint64_t known[] = {128,           255,
                                     256,           511,
                                     512,           4095,
                                     4096,          8192,
                                     32767,         65535,
                                     65536,         65537,
                                     1 << 20,       1 << 24,
                                     0x7fffffff,    0x80000000,
                                     0xffffffff,    0x100000000,
                                     UINT64_MAX,    INT64_MAX,
                                     1ull << 63,    UINT64_MAX - 1,
                                     INT64_MAX - 9, 999999999,
                                     0x7ff,         0xfff,
                                     040755,        0100644,
                                     0120777,       060600,
                                     010644,        0x30000};
    uint8_t s = luck_byte(l);
    uint64_t v = 0;
    if (s < 128)
        return s;
    if (s < 128 + sizeof(known) / sizeof(*known))
        return known[s - 128];
    for (int i = 0; i < (s & 7) + 1; i++)
        v = v << 8 | luck_byte(l);
    return v;
}

/* ---- bytes of a message ---- */

struct bytes {
    uint8_t *p;
    size_t n, room;
};

static inline void bytes_add(struct bytes *b, const void *p, size_t n)
{
    if (b->n + n > b->room) {
        b->room = (b->n + n) * 2;
        b->p = realloc(b->p, b->room);
    }
    if (n)
        memcpy(b->p + b->n, p, n);
    b->n += n;
}

static inline void bytes_int(struct bytes *b, uint64_t v, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        bytes_add(b, &(uint8_t){(uint8_t)(v >> 8 * i)}, 1);
}

/* ---- the table once more, with what the numbers mean left out; of 9P2000.L and us ---- */

#define STEPS_MESSAGES(M) P9_L_MESSAGES(M) P9_COMMON_MESSAGES(M) P9_OWN_MESSAGES(M)

enum steps_kind {
    S_END,
    S_INT,
    S_FID,
    S_MAYBE,
    S_OP,
    S_STR,
    S_NAME,
    S_QID,
    S_NAMES,
    S_QIDS,
    S_DATA
};
struct steps_field {
    uint8_t kind, size;
    uint16_t off;
};

/* clang-format off */
#define STEPS_F(kind, size, m) {kind, size, offsetof(struct p9_msg, m)}
/* clang-format on */
#define U1(m)    STEPS_F(S_INT, 1, m)
#define U2(m)    STEPS_F(S_INT, 2, m)
#define U4(m)    STEPS_F(S_INT, 4, m)
#define U8(m)    STEPS_F(S_INT, 8, m)
#define FID(m)   STEPS_F(S_FID, 4, m)
#define OPT4(m)  STEPS_F(S_MAYBE, 4, m)
#define OP(m)    STEPS_F(S_OP, 8, m)
#define EXT4(m)  STEPS_F(S_INT, 4, m)
#define STR(m)   STEPS_F(S_STR, 0, m)
#define NAME(m)  STEPS_F(S_NAME, 0, m)
#define QID(m)   STEPS_F(S_QID, 0, m)
#define NAMES(m) STEPS_F(S_NAMES, 0, m)
#define QIDS(m)  STEPS_F(S_QIDS, 0, m)
#define DATA(m)  STEPS_F(S_DATA, 4, m)
#define M(num, name, ...)                                                                          \
    static const struct steps_field steps_##name[] = {__VA_ARGS__ __VA_OPT__(, ){S_END, 0, 0}};
STEPS_MESSAGES(M)
#undef M
#undef U1
#undef U2
#undef U4
#undef U8
#undef FID
#undef OPT4
#undef OP
#undef EXT4
#undef STR
#undef NAME
#undef QID
#undef NAMES
#undef QIDS
#undef DATA

static const struct steps_field *const steps_fields[256] = {
#define M(num, name, ...) [num] = steps_##name,
    STEPS_MESSAGES(M)
#undef M
};

/* The request that a byte stands for: its number, or another's for what is none. */
static inline uint8_t steps_request(uint8_t b)
{
    static const uint8_t all[] = {
#define M(num, name, ...) num,
        STEPS_MESSAGES(M)
#undef M
    };
    if (b % 2 == 0 && steps_fields[b])
        return b;
    size_t i = b % sizeof(all);
    while (all[i] % 2)
        i = (i + 1) % sizeof(all);
    return all[i];
}

/* ---- making things up ---- */

static inline void luck_string(struct luck *l, struct bytes *out)
{
    static const char *const known[] = {"",
                                        "f",
                                        "d",
                                        "g",
                                        "s",
                                        "up",
                                        "out",
                                        "abs",
                                        "..",
                                        ".",
                                        "/",
                                        "../canary",
                                        "/etc/passwd",
                                        "d/h",
                                        "h",
                                        "new",
                                        "host",
                                        "mem",
                                        "d/..",
                                        "user.x",
                                        "trusted.x",
                                        "security.x",
                                        "system.posix_acl_access",
                                        "root",
                                        "nobody",
                                        "../../../../etc",
                                        "proc",
                                        "9P2000.L",
                                        "9P2000.L.plenum",
                                        "canary",
                                        "\xff\xfe",
                                        "a\nb"};
    enum { KNOWN = sizeof(known) / sizeof(*known) };
    uint8_t s = luck_byte(l), buf[6000];
    size_t n;
    if (s < 128) {
        n = strlen(known[s % KNOWN]);
        memcpy(buf, known[s % KNOWN], n);
    } else if (s < 136) { /* lengths at their limits */
        n = (size_t[]){254, 255, 256, 1000, 4095, 4096, 5000, 1}[s - 128];
        memset(buf, 'n', n);
        if (n == 1)
            buf[0] = 0;
    } else {
        n = s & 15;
        for (size_t i = 0; i < n; i++)
            buf[i] = luck_byte(l);
    }
    bytes_int(out, n, 2);
    bytes_add(out, buf, n);
}

static inline uint32_t luck_fid(struct luck *l)
{
    uint8_t s = luck_byte(l);
    return s == 255 ? P9_NOFID : s == 254 ? (uint32_t)luck_int(l) : s % 8;
}

static inline void luck_qid(struct luck *l, struct bytes *out)
{
    bytes_int(out, luck_int(l), 1);
    bytes_int(out, luck_int(l), 4);
    bytes_int(out, luck_int(l), 8);
}

static inline void luck_data(struct luck *l, struct bytes *out)
{
    uint8_t s = luck_byte(l);
    size_t n = s < 240 ? s : (size_t[]){0, 4000, 4096, 20000, 65536, 70000, 1 << 19, 100}[s & 7];
    bytes_int(out, s == 239 ? luck_int(l) : n, 4); /* once it lies */
    uint8_t *p = malloc(n + 1);
    memset(p, s, n + 1);
    for (size_t i = 0; i < n && l->n; i++)
        p[i] = luck_byte(l);
    bytes_add(out, p, n);
    free(p);
}

static inline void luck_field(struct luck *l, const struct steps_field *f, struct bytes *out)
{
    uint64_t n;
    switch (f->kind) {
    case S_INT:
        bytes_int(out, luck_int(l), f->size);
        break;
    case S_FID:
        bytes_int(out, luck_fid(l), 4);
        break;
    case S_MAYBE:
    case S_OP:
        n = luck_int(l);
        if (n)
            bytes_int(out, n, f->size);
        break;
    case S_STR:
    case S_NAME:
        luck_string(l, out);
        break;
    case S_QID:
        luck_qid(l, out);
        break;
    case S_NAMES:
        n = luck_int(l);
        bytes_int(out, n, 2);
        for (uint64_t i = 0; i < n && i < 20; i++)
            luck_string(l, out);
        break;
    case S_QIDS:
        n = luck_int(l);
        bytes_int(out, n, 2);
        for (uint64_t i = 0; i < n && i < 20; i++)
            luck_qid(l, out);
        break;
    case S_DATA:
        luck_data(l, out);
        break;
    }
}

static inline void bytes_head(struct bytes *out, uint8_t type, uint16_t tag)
{
    bytes_int(out, 0, 4);
    bytes_int(out, type, 1);
    bytes_int(out, tag, 2);
}

static inline void bytes_seal(struct bytes *out)
{
    for (int i = 0; i < 4; i++)
        out->p[i] = (uint8_t)(out->n >> 8 * i);
}

/* A message of that type, all its fields made up. */
static inline void luck_message(struct luck *l, uint8_t type, uint16_t tag, struct bytes *out)
{
    out->n = 0;
    bytes_head(out, type, tag);
    for (const struct steps_field *f = steps_fields[type]; f && f->kind; f++)
        luck_field(l, f, out);
    bytes_seal(out);
}

/* ---- mutation ---- */

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t na, const uint8_t *b, size_t nb,
                                 uint8_t *out, size_t max_size, unsigned seed);

enum { STEPS_MAX = 400 };

struct steps_list {
    size_t at[STEPS_MAX + 1]; /* where each begins, and the end */
    size_t n;
};

static struct steps_list steps_of(const uint8_t *data, size_t size)
{
    struct steps_list s = {{0}, 0};
    size_t at = 0;
    while (s.n < STEPS_MAX && at + 2 <= size) {
        size_t next = at + 2 + data[at + 1];
        s.at[s.n++] = at;
        at = next < size ? next : size;
    }
    s.at[s.n] = at;
    return s;
}

/* Puts `n` bytes in the place of those from `from` to `to`; the new size, or the old one when there
 * is no room. */
static size_t steps_splice(uint8_t *data, size_t size, size_t max, size_t from, size_t to,
                           const uint8_t *in, size_t n)
{
    if (size - (to - from) + n > max)
        return size;
    memmove(data + from + n, data + to, size - to);
    memcpy(data + from, in, n);
    return size - (to - from) + n;
}

static size_t new_step(uint8_t out[64], unsigned *seed)
{
    size_t n = 2 + (size_t)rand_r(seed) % 24;
    out[0] = rand_r(seed) % 4 ? 0 : (uint8_t)rand_r(seed); /* 0: a message */
    out[1] = (uint8_t)(n - 2);
    for (size_t i = 2; i < n; i++)
        out[i] = (uint8_t)(rand_r(seed) % 3 ? rand_r(seed) % 10 : rand_r(seed));
    if (n > 2)
        out[2] = (uint8_t)rand_r(seed);
    return n;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    struct steps_list s = steps_of(data, size);
    uint8_t step[300];
    size_t i = s.n ? (size_t)rand_r(&seed) % s.n : 0, j = s.n ? (size_t)rand_r(&seed) % s.n : 0;
    size_t from = s.at[i], to = s.n ? s.at[i + 1] : 0, n = to - from;
    if (!s.n)
        return steps_splice(data, size, max, 0, 0, step, new_step(step, &seed));
    memcpy(step, data + from, n);
    switch (rand_r(&seed) % 8) {
    case 0:
        return steps_splice(data, size, max, from, from, step, new_step(step, &seed));
    case 1:
        return s.n > 1 ? steps_splice(data, size, max, from, to, step, 0) : size;
    case 2: /* again, elsewhere */
        return steps_splice(data, size, max, s.at[j], s.at[j], step, n);
    case 3: /* it moves */
        size = steps_splice(data, size, max, from, to, step, 0);
        s = steps_of(data, size);
        j = s.n ? j % s.n : 0;
        return steps_splice(data, size, max, s.at[j], s.at[j], step, n);
    case 4: /* one byte, mostly to a small number */
        if (n > 2)
            data[from + 2 + (size_t)rand_r(&seed) % (n - 2)] =
                (uint8_t)(rand_r(&seed) % 2 ? rand_r(&seed) % 16 : rand_r(&seed));
        return size;
    case 5: /* its kind, or the size of all */
        if (rand_r(&seed) % 4)
            data[from] = (uint8_t)(rand_r(&seed) % 12);
        else
            return LLVMFuzzerMutate(data, size, max);
        return size;
    default: /* what is in it */
        n = 2 + LLVMFuzzerMutate(step + 2, n > 2 ? n - 2 : 0, 255);
        step[1] = (uint8_t)(n - 2);
        return steps_splice(data, size, max, from, to, step, n);
    }
}

/* The beginning of one and the end of another. */
size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t na, const uint8_t *b, size_t nb,
                                 uint8_t *out, size_t max, unsigned seed)
{
    struct steps_list sa = steps_of(a, na), sb = steps_of(b, nb);
    size_t n = sa.at[sa.n ? (size_t)rand_r(&seed) % (sa.n + 1) : 0];
    size_t from = sb.at[sb.n ? (size_t)rand_r(&seed) % (sb.n + 1) : 0], rest = nb - from;
    n = n < max ? n : max;
    rest = rest < max - n ? rest : max - n;
    memcpy(out, a, n);
    memcpy(out + n, b + from, rest);
    return n + rest;
}

#endif

#endif
