/* SPDX-License-Identifier: MIT */
/*
 * In the file: 'O' a name with its object (again, when either changes or it moves), 'H' some of the
 * object's checksums, 'D' the name is gone, with all beneath, 'I' a move that is about to be made,
 * 'S' the replica's disk has what stands before, 'A' likewise and how far the replica is. A parent
 * stands before what is in it.
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
#define SMALL     11   /* its numbers of 4 and of 8 bytes */
#define LARGE     8
#define OF_NAME   ((uint32_t)(NOTE_DIVERGED | NOTE_NEW | NOTE_DEEP | NOTE_MAYBE))

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

static bool make_room(struct notes *n, uint32_t id)
{
    uint32_t room = n->ids_room ? n->ids_room : 64;
    if (id < n->ids_room)
        return true;
    while (room <= id)
        room *= 2;
    struct note **v = reallocarray(n->by_id, room, sizeof(*v));
    n->by_id = v ? v : n->by_id;
    struct note_object **o = v ? reallocarray(n->objects, room, sizeof(*o)) : NULL;
    if (!o)
        return false;
    n->objects = o;
    memset(v + n->ids_room, 0, (room - n->ids_room) * sizeof(*v));
    memset(o + n->ids_room, 0, (room - n->ids_room) * sizeof(*o));
    n->ids_room = room;
    return true;
}

/* With the object of that number, made if need be. */
static struct note *add(struct notes *n, struct note *dir, const char *name, uint32_t id,
                        uint32_t object)
{
    uint32_t top = id > object ? id : object;
    struct note *note = make_room(n, top) ? calloc(1, sizeof(*note)) : NULL;
    if (!note)
        return NULL;
    struct note_object *o = n->objects[object];
    note->name = strdup(name);
    note->o = o ? o : calloc(1, sizeof(*o));
    note->id = id;
    note->parent = dir;
    if (dir && note->name && note->o)
        HASH_ADD_KEYPTR(hh, dir->children, note->name, strlen(note->name), note);
    if (!note->name || !note->o || (dir && !note->hh.tbl)) {
        free(note->name);
        if (!o)
            free(note->o);
        free(note);
        return NULL;
    }
    note->o->id = object;
    note->o->names++;
    n->objects[object] = note->o;
    n->by_id[id] = note;
    n->nids = top >= n->nids ? top + 1 : n->nids;
    n->count++;
    return note;
}

static struct note *add_of(struct notes *n, struct note *dir, const char *name, uint32_t object,
                           uint64_t ino, uint32_t fmt)
{
    struct note *note = add(n, dir, name, n->nids, object);
    if (note) {
        note->fmt = fmt & S_IFMT;
        notes_ino(n, note, ino);
    }
    return note;
}

struct note *notes_add(struct notes *n, struct note *dir, const char *name, uint64_t ino,
                       uint32_t fmt)
{
    return add_of(n, dir, name, n->nids, ino, fmt);
}

struct note *notes_link(struct notes *n, struct note *dir, const char *name, const struct note *of)
{
    return add_of(n, dir, name, of->o->id, of->ino, of->fmt);
}

static void unref(struct notes *n, struct note_object *o)
{
    if (--o->names > 0)
        return;
    n->objects[o->id] = NULL;
    free(o->hash);
    free(o);
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
        unref(n, at->o);
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

int notes_blocks(struct note_object *o, size_t count)
{
    if (count > o->room) {
        size_t room = count + count / 4;
        uint64_t *v = reallocarray(o->hash, room, sizeof(*v));
        if (!v)
            return -ENOMEM;
        o->hash = v;
        o->room = room;
    }
    if (count > o->nhash)
        memset(o->hash + o->nhash, 0, (count - o->nhash) * sizeof(*o->hash));
    o->nhash = count;
    return 0;
}

struct note *notes_next_beneath(struct note *at, const struct note *top)
{
    if (at->children)
        return at->children;
    while (at != top && !at->hh.next)
        at = at->parent;
    return at == top ? NULL : at->hh.next;
}

/* ---- doubts ---- */

static void doubt(struct notes *n, uint32_t id, bool name, uint64_t first, uint64_t count)
{
    struct note_doubt *last = n->ndoubts ? &n->doubts[n->ndoubts - 1] : NULL;
    if (last && last->id == id && last->name == name &&
        (count == 0 || last->first + last->count == first)) {
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
    n->doubts[n->ndoubts++] = (struct note_doubt){id, name, first, count};
}

static void doubt_put(struct notes *n, const struct note *note)
{
    if (note->flags & (NOTE_NEW | NOTE_MAYBE))
        doubt(n, note->id, true, 0, 0);
    if (note->o->flags & NOTE_BUSY)
        doubt(n, note->o->id, false, 0, 0);
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
    const struct note_object *o = note->o;
    const uint32_t parent = note->parent ? note->parent->id : 0, flags = note->flags | o->flags;
    const uint32_t small[] = {note->id, parent,      flags,      note->fmt,  o->mode, o->uid,
                              o->gid,   o->dst_mode, o->dst_uid, o->dst_gid, o->id};
    const uint64_t large[] = {note->ino,
                              o->extra,
                              o->src.size,
                              (uint64_t)o->src.mtime,
                              (uint64_t)o->src.ctime,
                              o->dst.size,
                              (uint64_t)o->dst.mtime,
                              (uint64_t)o->dst.ctime};
    cursor_put(&c, 1, 'O');
    for (size_t i = 0; i < SMALL; i++)
        cursor_put(&c, 4, small[i]);
    for (size_t i = 0; i < LARGE; i++)
        cursor_put(&c, 8, large[i]);
    cursor_put(&c, 4, o->nhash);
    cursor_put_bytes(&c, note->name, strlen(note->name));
    write_to(n, log, buf, (size_t)(c.p - buf));
}

static void put_blocks(struct notes *n, struct synclog *log, const struct note_object *o,
                       size_t first, size_t count)
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
        cursor_put(&c, 4, o->id);
        cursor_put(&c, 8, first);
        for (size_t i = 0; i < some; i++)
            cursor_put(&c, 8, o->hash[first + i]);
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
    doubt_put(n, note);
}

void notes_put_blocks(struct notes *n, const struct note_object *o, size_t first, size_t count)
{
    put_blocks(n, &n->log, o, first, count);
}

void notes_unknown(struct notes *n, struct note_object *o, size_t first, size_t count)
{
    if (first + count > o->nhash && notes_blocks(o, first + count) < 0) {
        n->error = n->error ? n->error : -ENOMEM;
        return;
    }
    for (size_t i = 0; i < count; i++)
        o->hash[first + i] = NOTE_UNKNOWN;
    put_blocks(n, &n->log, o, first, count);
    doubt(n, o->id, false, first, count);
}

static void put_busy(struct notes *n, const struct note_object *o)
{
    uint8_t buf[5];
    struct cursor c = cursor_at(buf, sizeof(buf));
    cursor_put(&c, 1, 'B');
    cursor_put(&c, 4, o->id);
    write_to(n, &n->log, buf, sizeof(buf));
    doubt(n, o->id, false, 0, 0);
}

/* A name that may not be there; a directory that is elsewhere has all that is in it with it. */
static void doubt_name(struct notes *n, struct note *top)
{
    for (struct note *at = top->parent ? top : NULL; at; at = notes_next_beneath(at, top)) {
        at->flags |= S_ISDIR(at->fmt) ? NOTE_MAYBE | NOTE_DEEP : NOTE_MAYBE;
        notes_put(n, at);
    }
}

/* Written, as what was done since may be safe before this is looked at. */
void notes_doubt(struct notes *n)
{
    struct note_doubt *v = n->doubts;
    size_t count = n->ndoubts;
    n->doubts = NULL;
    n->ndoubts = n->doubts_room = 0;
    for (size_t i = 0; i < count; i++) {
        struct note_object *o = v[i].name ? NULL : n->objects[v[i].id];
        if (v[i].name && n->by_id[v[i].id])
            doubt_name(n, n->by_id[v[i].id]);
        if (o) {
            o->flags |= NOTE_BUSY;
            put_busy(n, o);
        }
        if (o && v[i].count)
            notes_unknown(n, o, v[i].first, v[i].count);
    }
    free(v);
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
    doubt(n, note->id, true, 0, 0);
    return r;
}

/* ---- in ---- */

/* The name `id`, where the record has it: made, or moved there. -errno. */
static int load_name(struct notes *n, uint32_t id, uint32_t up, uint32_t object, const char *name)
{
    struct note *note = id < n->nids ? n->by_id[id] : NULL;
    struct note *dir = id && up < n->nids ? n->by_id[up] : NULL;
    if (id && (!dir || !*name))
        return -EBADMSG;
    struct note *was = dir ? notes_child(dir, name) : NULL;
    if ((was && was != note) || (note && note->o->id != object))
        return -EBADMSG;
    for (struct note *at = dir; note && at; at = at->parent)
        if (at == note)
            return -EBADMSG;
    bool moves = note && dir && (note->parent != dir || strcmp(note->name, name) != 0);
    if (moves && move(note, dir, name) < 0)
        return -ENOMEM;
    if (!note && !(note = add(n, dir, name, id, object)))
        return -ENOMEM;
    n->root = id ? n->root : note;
    if (moves)
        doubt(n, id, true, 0, 0);
    return 0;
}

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
    if (c->bad || len > 255 || memchr(p, 0, len) || memchr(p, '/', len) || small[0] > 1u << 30 ||
        small[10] > 1u << 30)
        return -EBADMSG;
    memcpy(name, p, len);
    int e = load_name(n, small[0], small[1], small[10], name);
    if (e < 0)
        return e;
    struct note *note = n->by_id[small[0]];
    struct note_object *o = note->o;
    if (notes_blocks(o, nhash) < 0)
        return -ENOMEM;
    note->flags = small[2] & OF_NAME;
    o->flags = small[2] & ~OF_NAME;
    note->fmt = small[3];
    o->mode = small[4];
    o->uid = small[5];
    o->gid = small[6];
    o->dst_mode = small[7];
    o->dst_uid = small[8];
    o->dst_gid = small[9];
    o->extra = large[1];
    if (n->intent.note == note)
        n->intent.note = NULL;
    o->src = (struct note_state){large[2], (int64_t)large[3], (int64_t)large[4]};
    o->dst = (struct note_state){large[5], (int64_t)large[6], (int64_t)large[7]};
    notes_ino(n, note, large[0]);
    doubt_put(n, note);
    return 0;
}

static int load_blocks(struct notes *n, struct note_object *o, struct cursor *c)
{
    uint64_t first = cursor_get(c, 8), count = cursor_left(c) / 8;
    if (c->bad || first > 1u << 30)
        return -EBADMSG;
    if (first + count > o->nhash && notes_blocks(o, first + count) < 0)
        return -ENOMEM;
    for (uint64_t i = 0; i < count; i++) {
        o->hash[first + i] = cursor_get(c, 8);
        if (o->hash[first + i] == NOTE_UNKNOWN)
            doubt(n, o->id, false, first + i, 1);
    }
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
    struct note_object *o = !c.bad && id < n->nids ? n->objects[id] : NULL;
    struct note *note = !c.bad && id < n->nids ? n->by_id[id] : NULL;
    if (kind == 'H' && o)
        return load_blocks(n, o, &c);
    if (kind == 'B' && o) {
        o->flags |= NOTE_BUSY;
        doubt(n, o->id, false, 0, 0);
        return 0;
    }
    if (!note || (kind == 'D' && note == n->root) || !strchr("DI", (int)kind))
        return -EBADMSG;
    if (kind == 'D') {
        forget(n, note);
        return 0;
    }
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

/* ---- the file ---- */

static int fill(void *arg, struct synclog *to)
{
    struct notes *n = arg;
    n->error = 0;
    for (struct note *at = n->root; at; at = notes_next_beneath(at, n->root)) {
        put_note(n, to, at);
        put_blocks(n, to, at->o, 0, at->o->nhash);
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
        for (struct note *at = n->root; at; at = notes_next_beneath(at, n->root))
            blocks += at->o->nhash;
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
        n->root = add(n, NULL, "", 0, 0);
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
    free(n->objects);
    free(n->doubts);
    synclog_close(&n->log);
    *n = (struct notes){.log = {.fd = -1}};
}
