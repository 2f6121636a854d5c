/* SPDX-License-Identifier: MIT */
#include "cmd/mountopt.h"
#include "base/limits.h"
#include "base/text.h"
#include "cmd/util.h"
#include "fuse/features.h"
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* USE and DONT: of an enum fuse_choice. */
enum kind { ON, OFF, USE, DONT, HARD, DURATION, SOFT, COUNT, SECONDS, NODES, SIZE, MASK };

#define M(field) offsetof(struct mountopt, mount.field)
#define F(field) offsetof(struct mountopt, fuse.field)
#define L(field) offsetof(struct mountopt, link.field)
static const struct option_row {
    const char *name;
    enum kind kind;
    size_t at;
    int64_t least, most;
} rows[] = {
    {"ro", ON, M(ro), 0, 0},
    {"rw", OFF, M(ro), 0, 0},
    {"noexec", ON, M(noexec), 0, 0},
    {"exec", OFF, M(noexec), 0, 0},
    {"noatime", ON, M(noatime), 0, 0},
    {"atime", OFF, M(noatime), 0, 0},
    {"nosuid", ON, M(nosuid), 0, 0},
    {"suid", OFF, M(nosuid), 0, 0},
    {"nodev", ON, M(nodev), 0, 0},
    {"dev", OFF, M(nodev), 0, 0},
    /* mount(8) takes suid and dev for what holds anyway, and does not tell its helpers of them */
    {"allow_suid", OFF, M(nosuid), 0, 0},
    {"allow_dev", OFF, M(nodev), 0, 0},
    {"nonempty", ON, M(nonempty), 0, 0},
    {"allow_other", ON, M(allow_other), 0, 0},
    {"noallow_other", OFF, M(allow_other), 0, 0},
    {"default_permissions", ON, M(default_permissions), 0, 0},
    {"nodefault_permissions", OFF, M(default_permissions), 0, 0},
    {"timeout", DURATION, F(entry_timeout), 0, INT64_MAX},
    {"timeout", DURATION, F(attr_timeout), 0, INT64_MAX},
    {"timeout", DURATION, F(negative_timeout), 0, INT64_MAX},
    {"entry_timeout", DURATION, F(entry_timeout), 0, INT64_MAX},
    {"attr_timeout", DURATION, F(attr_timeout), 0, INT64_MAX},
    {"negative_timeout", DURATION, F(negative_timeout), 0, INT64_MAX},
    {"watch", USE, F(watch), 0, 0},
    {"nowatch", DONT, F(watch), 0, 0},
    {"direct_io", ON, F(direct_io), 0, 0},
    {"writeback", ON, F(writeback), 0, 0},
    {"open", USE, F(opens), 0, 0},
    {"noopen", DONT, F(opens), 0, 0},
    {"passthrough", USE, F(passthrough), 0, 0},
    {"nopassthrough", DONT, F(passthrough), 0, 0},
    {"confine", ON, offsetof(struct mountopt, confine), 0, 0},
    {"noconfine", OFF, offsetof(struct mountopt, confine), 0, 0},
    {"uring", ON, F(uring), 0, 0},
    {"threads", COUNT, F(threads), 1, 1024},
    {"max_write", SIZE, F(max_write), 4096, 1 << 20},
    {"nodes", NODES, offsetof(struct mountopt, nodes), 1, LEDGER_NODES},
    {"hang", SECONDS, offsetof(struct mountopt, hang), 0, 86400},
    {"linger", DURATION, L(linger), 0, LIMIT_LINGER *INT64_C(1000000000)},
    {"soft", SOFT, L(soft), 1, LIMIT_LINGER *INT64_C(1000000000)},
    {"hard", HARD, L(soft), 0, 0},
    {"keepalive", DURATION, L(keepalive), 0, 3600 * INT64_C(1000000000)},
    {"mask", MASK, 0, 0, 0}, /* for tests */
};
#define ROWS (sizeof(rows) / sizeof(*rows))

void linkopt_init(struct linkopt *o)
{
    *o = (struct linkopt){.linger = -1, .keepalive = -1, .soft = LINKOPT_SOFT};
}

void mountopt_init(struct mountopt *o)
{
    linkopt_init(&o->link);
    mount_opts_init(&o->mount);
    fuse_opts_init(&o->fuse);
    o->hang = 30;
    o->fuse.kernel_checks = o->mount.default_permissions;
    o->confine = true;
}

static int unknown(const char *name, struct pl_err *err)
{
    const char *names[ROWS + 1];
    for (size_t i = 0; i < ROWS; i++)
        names[i] = rows[i].name;
    names[ROWS] = NULL;
    const char *near = util_closest(name, names);
    if (near)
        return pl_fail(err, -EINVAL, "-o %s: unknown mount option (did you mean %s?)", name, near);
    return pl_fail(err, -EINVAL, "-o %s: unknown mount option (see plenum mount --help)", name);
}

static int mask(struct mountopt *o, const char *text, struct pl_err *err)
{
    char bad[64] = "";
    if (text && fuse_features_parse(text, &o->fuse.mask, &o->fuse.mask_minor, bad) == 0)
        return 0;
    const char *near = util_closest(bad, fuse_feature_name);
    return pl_fail(err, -EINVAL, "-o mask=%s: not a feature of the kernel's FUSE%s%s%s", bad,
                   near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
}

/* The value of a row that takes one, or -1. */
static int64_t value_of(const struct option_row *row, const char *text)
{
    bool time = row->kind == DURATION || row->kind == SOFT;
    int64_t v = time ? text_duration(text) : text_size(text);
    return v >= row->least && v <= row->most ? v : -1;
}

static int apply(struct mountopt *o, const struct option_row *row, const char *value,
                 struct pl_err *err)
{
    static const char *const example[] = {
        [DURATION] = "a time, as in 20ms or 1s",
        [COUNT] = "a number from 1 to 1024",
        [NODES] = "a number from 1 to 16777216",
        [SECONDS] = "a number of seconds from 0 to 86400",
        [SIZE] = "a size from 4k to 1M",
        [SOFT] = "a time, as in 60s (to wait for ever: hard)",
    };
    char *at = (char *)o + row->at;
    if (row->kind == MASK)
        return mask(o, value, err);
    if (row->kind < DURATION) {
        if (value)
            return pl_fail(err, -EINVAL, "-o %s: takes no value", row->name);
        if (row->kind == USE || row->kind == DONT)
            *(enum fuse_choice *)at = row->kind == USE ? FUSE_ON : FUSE_OFF;
        else if (row->kind == HARD)
            *(int64_t *)at = 0;
        else
            *(bool *)at = row->kind == ON;
        return 0;
    }
    int64_t v = value ? value_of(row, value) : -1;
    if (v < 0)
        return pl_fail(err, -EINVAL, "-o %s=%s: not %s", row->name, value ? value : "",
                       row->most == LIMIT_LINGER * INT64_C(1000000000) && row->kind == DURATION
                           ? "a time, as in 30s, 10m or 1d, of at most 7d"
                           : example[row->kind]);
    if (row->kind == DURATION || row->kind == SOFT)
        *(int64_t *)at = v;
    else
        *(unsigned *)at = (unsigned)v;
    return 0;
}

static int one(struct mountopt *o, char *opt, struct pl_err *err)
{
    char *value = strchr(opt, '=');
    bool known = false;
    if (value)
        *value++ = 0;
    for (size_t i = 0; i < ROWS; i++) {
        if (strcmp(rows[i].name, opt))
            continue;
        known = true;
        int r = apply(o, &rows[i], value, err);
        if (r < 0)
            return r;
    }
    return known ? 0 : unknown(opt, err);
}

int mountopt_parse(struct mountopt *o, const char *text, struct pl_err *err)
{
    char *copy = strdup(text), *rest = copy, *opt;
    if (!copy)
        return pl_fail(err, -ENOMEM, "out of memory");
    int r = 0;
    while (r == 0 && (opt = strsep(&rest, ",")))
        r = *opt ? one(o, opt, err) : 0;
    free(copy);
    o->fuse.kernel_checks = o->mount.default_permissions;
    return r;
}
