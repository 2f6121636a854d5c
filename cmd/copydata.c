/* SPDX-License-Identifier: MIT */
/*
 * A small file is copied by the calling thread; a large one by a few, each taking the next block
 * that nobody has, so that a link's round trips overlap. `lock` guards where the next block is.
 */
#include "cmd/copydata.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK   (1u << 20)
#define WORKERS 4
#define LARGE   (4u << 20)

struct job {
    struct copier *c;
    struct pl_file *in, *out;
    uint64_t size;
    bool sparse;
    pthread_mutex_t lock; /* guards all below */
    uint64_t next, data_end;
    uint64_t written_to; /* the end of the last byte written */
    int error;
    bool reading;
};

static void fail(struct job *j, int error, bool reading)
{
    pthread_mutex_lock(&j->lock);
    if (!j->error) {
        j->error = error;
        j->reading = reading;
    }
    pthread_mutex_unlock(&j->lock);
}

/* Finds the next stretch of data from j->next on; false at the end. Trees that do not know of holes
 * have one stretch. */
static bool stretch(struct job *j, struct pl_call *call)
{
    struct pl_tree *tree = j->c->src->tree;
    if (j->next >= j->size)
        return false;
    int64_t data = pl_seek(tree, call, j->in, j->next, SEEK_DATA);
    if (data == -ENXIO)
        return false;
    if (data < 0) {
        j->data_end = j->size;
        return true;
    }
    int64_t hole = pl_seek(tree, call, j->in, (uint64_t)data, SEEK_HOLE);
    j->next = (uint64_t)data;
    j->data_end = hole < 0 || (uint64_t)hole > j->size ? j->size : (uint64_t)hole;
    return j->next < j->data_end;
}

static bool next_block(struct job *j, struct pl_call *call, uint64_t *off, size_t *n)
{
    pthread_mutex_lock(&j->lock);
    bool more = !j->error && (j->next < j->data_end || (j->sparse && stretch(j, call)));
    if (more) {
        *off = j->next;
        *n = j->data_end - j->next < BLOCK ? (size_t)(j->data_end - j->next) : BLOCK;
        j->next += *n;
    }
    pthread_mutex_unlock(&j->lock);
    return more;
}

static int write_all(struct job *j, struct pl_call *call, const char *buf, size_t n, uint64_t off)
{
    while (n) {
        ssize_t w = pl_write(j->c->dst->tree, call, j->out, buf, n, off);
        if (w <= 0) {
            fail(j, w < 0 ? (int)w : -ENOSPC, false);
            return -1;
        }
        buf += w;
        off += (uint64_t)w;
        n -= (size_t)w;
        atomic_fetch_add(&j->c->progress->bytes, (uint64_t)w);
    }
    pthread_mutex_lock(&j->lock);
    if (off > j->written_to)
        j->written_to = off;
    pthread_mutex_unlock(&j->lock);
    return 0;
}

static void blocks(struct job *j, struct pl_call *call, char *buf)
{
    uint64_t off;
    size_t n;
    while (next_block(j, call, &off, &n)) {
        while (n) {
            ssize_t r = pl_read(j->c->src->tree, call, j->in, buf, n, off);
            if (r < 0) {
                fail(j, (int)r, true);
                return;
            }
            if (r == 0)
                break; /* it has become shorter */
            if (write_all(j, call, buf, (size_t)r, off) < 0)
                return;
            off += (uint64_t)r;
            n -= (size_t)r;
        }
    }
}

static void *worker(void *arg)
{
    struct job *j = arg;
    struct pl_call call;
    char *buf = malloc(BLOCK);
    if (!buf)
        return NULL; /* the others do it */
    pl_call_init_self(&call);
    walk_call_begin(&call);
    blocks(j, &call, buf);
    walk_call_end(&call);
    pl_call_done(&call);
    free(buf);
    return NULL;
}

/* To the end, wherever that is: streams, and files whose size is not known beforehand. */
static void sequential(struct job *j, struct pl_call *call, char *buf, uint64_t off)
{
    ssize_t r;
    while ((r = pl_read(j->c->src->tree, call, j->in, buf, BLOCK, off)) > 0) {
        if (write_all(j, call, buf, (size_t)r, off) < 0)
            return;
        off += (uint64_t)r;
    }
    if (r < 0)
        fail(j, (int)r, true);
}

int copy_data(struct copier *c, struct pl_file *in, const struct pl_attr *attr, struct pl_file *out,
              bool *ret_reading)
{
    struct job j = {.c = c, .in = in, .out = out, .size = attr->size};
    struct pl_call *call = &c->src->call;
    bool unknown = in->stream || in->direct || attr->size == 0;
    pthread_t threads[WORKERS - 1];
    size_t n = 0;
    char *buf = malloc(attr->size && attr->size < BLOCK && !unknown ? (size_t)attr->size : BLOCK);
    if (!buf)
        return -ENOMEM;
    pthread_mutex_init(&j.lock, NULL);
    j.sparse = attr->blocks < attr->size / 512;
    j.data_end = j.sparse ? 0 : j.size;
    if (unknown) {
        sequential(&j, call, buf, 0);
    } else {
        while (attr->size > LARGE && n < WORKERS - 1 &&
               pthread_create(&threads[n], NULL, worker, &j) == 0)
            n++;
        blocks(&j, call, buf);
        for (size_t i = 0; i < n; i++)
            pthread_join(threads[i], NULL);
    }
    /* The hole at the end. */
    if (!unknown && !j.error && j.sparse && j.written_to < j.size) {
        struct pl_setattr set = {.valid = PL_SET_SIZE, .size = j.size};
        int r = pl_setattr(c->dst->tree, &c->dst->call, out->node, out, &set, &(struct pl_attr){0});
        if (r < 0)
            fail(&j, r, false);
    }
    if (!j.error && walk_interrupted())
        j.error = -EINTR;
    pthread_mutex_destroy(&j.lock);
    free(buf);
    *ret_reading = j.reading;
    return j.error;
}
