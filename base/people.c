/* SPDX-License-Identifier: MIT */
/* See people.h. One table for both directions: a record is found by its number or by its name. */
#include "base/people.h"
#include "base/futex.h"
#include "base/limits.h"
#include <errno.h>
#include <grp.h>
#include <pthread.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

enum { KEEP_S = 60 };

struct question {
    uint32_t group, by_name, id; /* id: 0 when asked by name */
    char name[PEOPLE_NAME];      /* "" when asked by number */
};

struct answer {
    struct question q; /* zeroed behind the name */
    UT_hash_handle hh;
    int64_t until;
    int error;
    uint32_t id;
    char name[PEOPLE_NAME];
};

struct people {
    pthread_mutex_t mutex;
    struct answer *answers;
};

struct people *people_new(void)
{
    struct people *p = calloc(1, sizeof(*p));
    if (p)
        pthread_mutex_init(&p->mutex, NULL);
    return p;
}

static void forget_all(struct people *p)
{
    struct answer *a, *next;
    HASH_ITER (hh, p->answers, a, next) {
        HASH_DEL(p->answers, a);
        free(a);
    }
}

void people_free(struct people *p)
{
    if (!p)
        return;
    forget_all(p);
    pthread_mutex_destroy(&p->mutex);
    free(p);
}

/* ---- asking the system ---- */

static int ask_user(const struct question *q, struct answer *a, char *buf, size_t size)
{
    struct passwd pw, *found = NULL;
    int r = q->by_name ? getpwnam_r(q->name, &pw, buf, size, &found)
                       : getpwuid_r(q->id, &pw, buf, size, &found);
    if (found && strlen(pw.pw_name) < sizeof(a->name)) {
        a->id = pw.pw_uid;
        strcpy(a->name, pw.pw_name);
        a->error = 0;
    }
    return r;
}

static int ask_group(const struct question *q, struct answer *a, char *buf, size_t size)
{
    struct group gr, *found = NULL;
    int r = q->by_name ? getgrnam_r(q->name, &gr, buf, size, &found)
                       : getgrgid_r(q->id, &gr, buf, size, &found);
    if (found && strlen(gr.gr_name) < sizeof(a->name)) {
        a->id = gr.gr_gid;
        strcpy(a->name, gr.gr_name);
        a->error = 0;
    }
    return r;
}

static void ask(struct answer *a)
{
    a->error = -ENOENT;
    for (size_t size = 1024; size <= 1 << 20; size *= 4) {
        char *buf = malloc(size);
        if (!buf)
            return;
        int r = a->q.group ? ask_group(&a->q, a, buf, size) : ask_user(&a->q, a, buf, size);
        free(buf);
        if (r != ERANGE)
            return;
    }
}

/* ---- remembering ---- */

static struct answer *recall(struct people *p, const struct question *q)
{
    struct answer *a;
    HASH_FIND(hh, p->answers, q, sizeof(*q), a);
    if (a && a->until < mono_now()) {
        HASH_DEL(p->answers, a);
        free(a);
        a = NULL;
    }
    return a;
}

/* With the answer in *ret, which is remembered if there is memory for it. */
static void answer(struct people *p, const struct question *q, struct answer *ret)
{
    pthread_mutex_lock(&p->mutex);
    struct answer *a = recall(p, q);
    if (a)
        *ret = *a;
    pthread_mutex_unlock(&p->mutex);
    if (a)
        return;
    *ret = (struct answer){.q = *q};
    ask(ret);
    ret->until = mono_now() + KEEP_S * 1000000000ll;
    struct answer *add = malloc(sizeof(*add));
    if (!add)
        return;
    *add = *ret;
    pthread_mutex_lock(&p->mutex);
    if (HASH_COUNT(p->answers) >= LIMIT_PEOPLE)
        forget_all(p);
    if (!recall(p, q)) {
        HASH_ADD(hh, p->answers, q, sizeof(add->q), add);
        add = NULL;
    }
    pthread_mutex_unlock(&p->mutex);
    free(add);
}

void people_name(struct people *p, bool group, uint32_t id, char buf[PEOPLE_NAME])
{
    struct answer a;
    answer(p, &(struct question){.group = group, .id = id}, &a);
    if (a.error == 0)
        strcpy(buf, a.name);
    else
        snprintf(buf, PEOPLE_NAME, "%u", id);
}

int people_number(struct people *p, bool group, const char *name, uint32_t *ret)
{
    struct question q = {.group = group, .by_name = 1};
    struct answer a;
    size_t n = strlen(name);
    if (n == 0 || n >= sizeof(q.name))
        return -ENOENT;
    if (strspn(name, "0123456789") == n && n <= 10) {
        unsigned long long v = strtoull(name, NULL, 10);
        *ret = (uint32_t)v;
        return v < UINT32_MAX ? 0 : -ENOENT;
    }
    strcpy(q.name, name);
    answer(p, &q, &a);
    if (a.error == 0)
        *ret = a.id;
    return a.error;
}
