/* SPDX-License-Identifier: MIT */
/*
 * In the file: 'O' a note of an object (again, when it changes or moves), 'H' some of its
 * checksums, 'D' it is gone, with all beneath, 'I' a move that is about to be made, 'S' the
 * replica's disk has what stands before, 'A' likewise and how far the replica is. A parent stands
 * before what is in it.
 */
#include "sync/notes.h"
#include "base/cursor.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SLACK     (4u << 20)
#define AT_ONCE   8192 /* checksums in one record */
#define NOTE_SIZE 180  /* about what a note takes in the file */
#define SMALL     10   /* its numbers of 4 and of 8 bytes */
#define LARGE     8

struct note_index {
    uint64_t ino;
    struct note *first;
    UT_hash_handle hh;
};

/* ---- the tree ---- */

struct note *notes_child(const struct note *dir, const char *name)
{
    struct note *note;
    HASH_FIND_STR(dir->children, name, note);
    return note;
}

struct note *notes_find(const struct notes *n, const char *path)
{
    struct note *at = n->root;
    char name[256];
    while (at) {
        path += strspn(path, "/");
        size_t len = strcspn(path, "/");
        if (len == 0 || len >= sizeof(name))
            return len ? NULL : at;
        memcpy(name, path, len);
        name[len] = 0;
        path += len;
        at = notes_child(at, name);
    }
    return NULL;
}

struct note *notes_object(const struct notes *n, uint64_t ino)
{
    struct note_index *x;
    HASH_FIND(hh, n->index, &ino, sizeof(ino), x);
    return x ? x->first : NULL;
}

bool notes_path(const struct note *note, char *buf, size_t size)
{
    if (!note->parent) {
        snprintf(buf, size, "/");
        return size > 1;
    }
    size_t n = 0;
    for (const struct note *p = note; p->parent; p = p->parent)
        n += 1 + strlen(p->name);
    if (n >= size)
        return false;
    buf[n] = 0;
    for (const struct note *p = note; p->parent; p = p->parent) {
        size_t len = strlen(p->name);
        n -= len;
        memcpy(buf + n, p->name, len);
        buf[--n] = '/';
    }
    return true;
}

static void unindex(struct notes *n, struct note *note)
{
    struct note_index *x;
    if (!note->known)
        return;
    HASH_FIND(hh, n->index, &note->ino, sizeof(note->ino), x);
    struct note **at = &x->first;
    while (*at != note)
        at = &(*at)->twin;
    *at = note->twin;
    note->twin = NULL;
    note->known = false;
    if (!x->first) {
        HASH_DEL(n->index, x);
        free(x);
    }
}

void notes_ino(struct notes *n, struct note *note, uint64_t ino)
{
    struct note_index *x;
    unindex(n, note);
    note->ino = ino;
    HASH_FIND(hh, n->index, &ino, sizeof(ino), x);
    if (!x && (x = calloc(1, sizeof(*x)))) {
        x->ino = ino;
        HASH_ADD(hh, n->index, ino, sizeof(x->ino), x);
        if (!x->hh.tbl) {
            free(x);
            x = NULL;
        }
    }
    if (!x)
        return; /* its renames will be copies */
    note->twin = x->first;
    x->first = note;
    note->known = true;
}

static struct note *add(struct notes *n, struct note *dir, const char *name, uint32_t id)
{
    if (id >= n->ids_room) {
        uint32_t room = n->ids_room ? n->ids_room : 64;
        while (room <= id)
            room *= 2;
        struct note **v = reallocarray(n->by_id, room, sizeof(*v));
        if (!v)
            return NULL;
        memset(v + n->ids_room, 0, (room - n->ids_room) * sizeof(*v));
        n->by_id = v;
        n->ids_room = room;
    }
    struct note *note = calloc(1, sizeof(*note));
    if (!note || !(note->name = strdup(name))) {
        free(note);
        return NULL;
    }
    note->id = id;
    note->parent = dir;
    if (dir) {
        HASH_ADD_KEYPTR(hh, dir->children, note->name, strlen(note->name), note);
        if (!note->hh.tbl) {
            free(note->name);
            free(note);
            return NULL;
        }
    }
    n->by_id[id] = note;
    n->nids = id >= n->nids ? id + 1 : n->nids;
    n->count++;
    return note;
}

struct note *notes_add(struct notes *n, struct note *dir, const char *name, uint64_t ino,
                       uint32_t fmt)
{
    struct note *note = add(n, dir, name, n->nids);
    if (note) {
        note->fmt = fmt & S_IFMT;
        notes_ino(n, note, ino);
    }
    return note;
}

/* Not recursive: a tree from the disk may be deep. */
static void forget(struct notes *n, struct note *top)
{
    struct note *at = top, *up;
    for (;;) {
        if (at->children) {
            at = at->children;
            continue;
        }
        up = at->parent;
        unindex(n, at);
        if (n->intent.note == at || n->intent.dir == at)
            n->intent.note = NULL;
        if (up)
            HASH_DEL(up->children, at);
        n->by_id[at->id] = NULL;
        n->count--;
        free(at->name);
        free(at->hash);
        bool end = at == top;
        free(at);
        if (end)
            return;
        at = up;
    }
}

static int move(struct note *note, struct note *dir, const char *name)
{
    char *copy = strdup(name);
    if (!copy)
        return -ENOMEM;
    HASH_DEL(note->parent->children, note);
    free(note->name);
    note->name = copy;
    note->parent = dir;
    HASH_ADD_KEYPTR(hh, dir->children, note->name, strlen(note->name), note);
    return note->hh.tbl ? 0 : -ENOMEM;
}

int notes_blocks(struct note *note, size_t count)
{
    if (count > note->room) {
        size_t room = count + count / 4;
        uint64_t *v = reallocarray(note->hash, room, sizeof(*v));
        if (!v)
            return -ENOMEM;
        note->hash = v;
        note->room = room;
    }
    if (count > note->nhash)
        memset(note->hash + note->nhash, 0, (count - note->nhash) * sizeof(*note->hash));
    note->nhash = count;
    return 0;
}

/* ---- doubts ---- */

static void doubt(struct notes *n, const struct note *note, uint64_t first, uint64_t count)
{
    struct note_doubt *last = n->ndoubts ? &n->doubts[n->ndoubts - 1] : NULL;
    if (last && last->id == note->id && (count == 0 || last->first + last->count == first)) {
        last->count += count;
        return;
    }
    if (n->ndoubts == n->doubts_room) {
        size_t room = n->doubts_room ? 2 * n->doubts_room : 64;
        struct note_doubt *v = reallocarray(n->doubts, room, sizeof(*v));
        if (!v) {
            n->error = n->error ? n->error : -ENOMEM;
            return;
        }
        n->doubts = v;
        n->doubts_room = room;
    }
    n->doubts[n->ndoubts++] = (struct note_doubt){note->id, first, count};
}

static struct note *next_beneath(struct note *at, const struct note *top)
{
    if (at->children)
        return at->children;
    while (at != top && !at->hh.next)
        at = at->parent;
    return at == top ? NULL : at->hh.next;
}

static void doubt_blocks(struct note *note, uint64_t first, uint64_t end)
{
    note->flags |= NOTE_BUSY;
    if (end > note->nhash && end > first && notes_blocks(note, end) < 0)
        end = note->nhash;
    for (; first < end; first++)
        note->hash[first] = NOTE_UNKNOWN;
}

void notes_doubt(struct notes *n)
{
    for (size_t i = 0; i < n->ndoubts; i++) {
        struct note *note = n->by_id[n->doubts[i].id];
        if (!note)
            continue;
        /* A directory that is elsewhere has all that is in it with it. */
        for (struct note *at = note->parent ? note : NULL; at; at = next_beneath(at, note))
            at->flags |= S_ISDIR(at->fmt) ? NOTE_MAYBE | NOTE_DEEP : NOTE_MAYBE;
        uint64_t first = n->doubts[i].first, end = first + n->doubts[i].count;
        doubt_blocks(note, first, end);
        /* What was done by one name of a file was done to the others. */
        struct note *t = S_ISREG(note->fmt) ? notes_object(n, note->ino) : NULL;
        for (; t; t = t->twin)
            if (t != note && t->fmt == note->fmt)
                doubt_blocks(t, first, end);
    }
}

/* ---- out ---- */

static void write_to(struct notes *n, struct synclog *log, const void *rec, size_t size)
{
    int r = n->dry ? 0 : synclog_append(log, rec, size);
    if (r < 0 && !n->error)
        n->error = r;
}

static void put_note(struct notes *n, struct synclog *log, const struct note *note)
{
    uint8_t buf[1 + SMALL * 4 + LARGE * 8 + 4 + 256];
    struct cursor c = cursor_at(buf, sizeof(buf));
    const uint32_t small[] = {note->id,      note->parent ? note->parent->id : 0,
                              note->flags,   note->fmt,
                              note->mode,    note->uid,
                              note->gid,     note->dst_mode,
                              note->dst_uid, note->dst_gid};
    const uint64_t large[] = {note->ino,
                              note->extra,
                              note->src.size,
                              (uint64_t)note->src.mtime,
                              (uint64_t)note->src.ctime,
                              note->dst.size,
                              (uint64_t)note->dst.mtime,
                              (uint64_t)note->dst.ctime};
    cursor_put(&c, 1, 'O');
    for (size_t i = 0; i < SMALL; i++)
        cursor_put(&c, 4, small[i]);
    for (size_t i = 0; i < LARGE; i++)
        cursor_put(&c, 8, large[i]);
    cursor_put(&c, 4, note->nhash);
    cursor_put_bytes(&c, note->name, strlen(note->name));
    write_to(n, log, buf, (size_t)(c.p - buf));
}

static void put_blocks(struct notes *n, struct synclog *log, const struct note *note, size_t first,
                       size_t count)
{
    while (count) {
        size_t some = count < AT_ONCE ? count : AT_ONCE, size = 1 + 4 + 8 + 8 * some;
        uint8_t *buf = malloc(size);
        if (!buf) {
            n->error = n->error ? n->error : -ENOMEM;
            return;
        }
        struct cursor c = cursor_at(buf, size);
        cursor_put(&c, 1, 'H');
        cursor_put(&c, 4, note->id);
        cursor_put(&c, 8, first);
        for (size_t i = 0; i < some; i++)
            cursor_put(&c, 8, note->hash[first + i]);
        write_to(n, log, buf, size);
        free(buf);
        first += some;
        count -= some;
    }
}

static void put_applied(struct notes *n, struct synclog *log)
{
    uint8_t buf[10];
    struct cursor c = cursor_at(buf, sizeof(buf));
    cursor_put(&c, 1, 'A');
    cursor_put(&c, 8, n->applied);
    cursor_put(&c, 1, n->whole);
    write_to(n, log, buf, sizeof(buf));
}

void notes_put(struct notes *n, const struct note *note)
{
    put_note(n, &n->log, note);
    if (note->flags & NOTE_BUSY)
        doubt(n, note, 0, 0);
}

void notes_put_blocks(struct notes *n, const struct note *note, size_t first, size_t count)
{
    put_blocks(n, &n->log, note, first, count);
}

void notes_unknown(struct notes *n, struct note *note, size_t first, size_t count)
{
    if (first + count > note->nhash && notes_blocks(note, first + count) < 0) {
        n->error = n->error ? n->error : -ENOMEM;
        return;
    }
    for (size_t i = 0; i < count; i++)
        note->hash[first + i] = NOTE_UNKNOWN;
    put_blocks(n, &n->log, note, first, count);
    doubt(n, note, first, count);
}

void notes_safe(struct notes *n)
{
    if (n->ndoubts)
        write_to(n, &n->log, "S", 1);
    n->ndoubts = 0;
}

void notes_applied(struct notes *n, uint64_t seq, bool whole)
{
    n->ndoubts = 0;
    n->applied = seq;
    n->whole = whole;
    put_applied(n, &n->log);
}

void notes_del(struct notes *n, struct note *note)
{
    uint8_t buf[5];
    struct cursor c = cursor_at(buf, sizeof(buf));
    cursor_put(&c, 1, 'D');
    cursor_put(&c, 4, note->id);
    write_to(n, &n->log, buf, sizeof(buf));
    forget(n, note);
}

static void set_intent(struct notes *n, struct note *note, struct note *dir, const char *name)
{
    n->intent.note = note;
    n->intent.dir = dir;
    snprintf(n->intent.name, sizeof(n->intent.name), "%s", name);
}

void notes_intend(struct notes *n, struct note *note, struct note *dir, const char *name)
{
    uint8_t buf[1 + 2 * 4 + 256];
    struct cursor c = cursor_at(buf, sizeof(buf));
    cursor_put(&c, 1, 'I');
    cursor_put(&c, 4, note->id);
    cursor_put(&c, 4, dir->id);
    cursor_put_bytes(&c, name, strlen(name));
    write_to(n, &n->log, buf, (size_t)(c.p - buf));
    set_intent(n, note, dir, name);
}

int notes_move(struct notes *n, struct note *note, struct note *dir, const char *name)
{
    int r = move(note, dir, name);
    if (n->intent.note == note)
        n->intent.note = NULL;
    if (r == 0)
        notes_put(n, note);
    doubt(n, note, 0, 0);
    return r;
}

/* ---- in ---- */

static int load_note(struct notes *n, struct cursor *c)
{
    uint32_t small[SMALL];
    uint64_t large[LARGE];
    char name[256] = "";
    for (size_t i = 0; i < SMALL; i++)
        small[i] = (uint32_t)cursor_get(c, 4);
    for (size_t i = 0; i < LARGE; i++)
        large[i] = cursor_get(c, 8);
    size_t nhash = (size_t)cursor_get(c, 4), len = cursor_left(c);
    uint8_t *p = cursor_take(c, len);
    if (c->bad || len > 255 || memchr(p, 0, len) || memchr(p, '/', len) || small[0] > 1u << 30)
        return -EBADMSG;
    memcpy(name, p, len);
    struct note *note = small[0] < n->nids ? n->by_id[small[0]] : NULL;
    struct note *dir = small[0] && small[1] < n->nids ? n->by_id[small[1]] : NULL;
    if (small[0] && (!dir || !len))
        return -EBADMSG;
    struct note *was = dir ? notes_child(dir, name) : NULL;
    if (was && was != note)
        return -EBADMSG;
    for (struct note *up = dir; note && up; up = up->parent)
        if (up == note)
            return -EBADMSG;
    bool moves = note && dir && (note->parent != dir || strcmp(note->name, name) != 0);
    if (!note)
        note = add(n, dir, name, small[0]);
    if (!note || (moves && move(note, dir, name) < 0) || notes_blocks(note, nhash) < 0)
        return -ENOMEM;
    n->root = small[0] ? n->root : note;
    note->flags = small[2];
    note->fmt = small[3];
    note->mode = small[4];
    note->uid = small[5];
    note->gid = small[6];
    note->dst_mode = small[7];
    note->dst_uid = small[8];
    note->dst_gid = small[9];
    note->extra = large[1];
    if (n->intent.note == note)
        n->intent.note = NULL;
    note->src = (struct note_state){large[2], (int64_t)large[3], (int64_t)large[4]};
    note->dst = (struct note_state){large[5], (int64_t)large[6], (int64_t)large[7]};
    notes_ino(n, note, large[0]);
    if ((note->flags & NOTE_BUSY) || moves)
        doubt(n, note, 0, 0);
    return 0;
}

static int load(void *arg, uint8_t *p, size_t size)
{
    struct notes *n = arg;
    struct cursor c = cursor_at(p, size);
    uint64_t kind = cursor_get(&c, 1);
    if (kind == 'O')
        return load_note(n, &c);
    if (kind == 'S' || kind == 'A')
        n->ndoubts = 0;
    if (kind == 'A') {
        n->applied = cursor_get(&c, 8);
        n->whole = cursor_get(&c, 1);
    }
    if (kind == 'S' || kind == 'A')
        return c.bad ? -EBADMSG : 0;
    uint64_t id = cursor_get(&c, 4);
    struct note *note = !c.bad && id < n->nids ? n->by_id[id] : NULL;
    if (!note || (kind == 'D' && note == n->root) || !strchr("DHI", (int)kind))
        return -EBADMSG;
    if (kind == 'D') {
        forget(n, note);
        return 0;
    }
    if (kind == 'I') {
        uint64_t dir = cursor_get(&c, 4);
        size_t len = cursor_left(&c);
        char name[256];
        uint8_t *p2 = cursor_take(&c, len);
        if (c.bad || dir >= n->nids || !n->by_id[dir] || !len || len > 255 || memchr(p2, 0, len))
            return -EBADMSG;
        snprintf(name, sizeof(name), "%.*s", (int)len, (char *)p2);
        set_intent(n, note, n->by_id[dir], name);
        return 0;
    }
    uint64_t first = cursor_get(&c, 8), count = cursor_left(&c) / 8;
    if (c.bad || first > 1u << 30)
        return -EBADMSG;
    if (first + count > note->nhash && notes_blocks(note, first + count) < 0)
        return -ENOMEM;
    for (uint64_t i = 0; i < count; i++) {
        note->hash[first + i] = cursor_get(&c, 8);
        if (note->hash[first + i] == NOTE_UNKNOWN)
            doubt(n, note, first + i, 1);
    }
    return 0;
}

/* ---- the file ---- */

static int fill(void *arg, struct synclog *to)
{
    struct notes *n = arg;
    n->error = 0;
    for (struct note *at = n->root; at; at = next_beneath(at, n->root)) {
        put_note(n, to, at);
        put_blocks(n, to, at, 0, at->nhash);
    }
    put_applied(n, to);
    return n->error; /* an intent need not be kept: this is done between operations */
}

int notes_sync(struct notes *n)
{
    if (n->dry)
        return 0;
    uint64_t useful = n->count * NOTE_SIZE;
    if (n->error || n->log.size > SLACK + 4 * useful) {
        uint64_t blocks = 0;
        for (struct note *at = n->root; at; at = next_beneath(at, n->root))
            blocks += at->nhash;
        if (n->error || n->log.size > SLACK + 4 * (useful + 8 * blocks))
            return synclog_replace(&n->log, fill, n);
    }
    return synclog_sync(&n->log);
}

int notes_open(struct notes *n, const char *path, bool dry, struct pl_err *err)
{
    *n = (struct notes){.dry = dry};
    int r = synclog_open(&n->log, path, load, n, err);
    if (r < 0) {
        notes_close(n);
        return r;
    }
    if (!n->root) {
        n->root = add(n, NULL, "", 0);
        if (!n->root) {
            notes_close(n);
            return pl_fail(err, -ENOMEM, "out of memory");
        }
        n->root->fmt = S_IFDIR;
        notes_put(n, n->root);
    }
    return 0;
}

void notes_close(struct notes *n)
{
    if (n->root)
        forget(n, n->root);
    free(n->by_id);
    free(n->doubts);
    synclog_close(&n->log);
    *n = (struct notes){.log = {.fd = -1}};
}
