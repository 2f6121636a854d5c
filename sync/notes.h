/* SPDX-License-Identifier: MIT */
/*
 * What a replicator noted of a replica: for each object there, what it was made from and what it
 * looked like when that was done. From this it knows what has changed in the source, and what
 * somebody else has changed in the replica.
 *
 * A tree in memory (a directory renamed is one note moved), and a log on the disk that makes the
 * same tree again. Not locked.
 */
#ifndef SYNC_NOTES_H
#define SYNC_NOTES_H

#include "sync/log.h"
#include <stdbool.h>
#include <time.h>
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

enum note_flag {
    /* of an object */
    NOTE_BUSY = 1 << 0, /* being changed by us: what it looks like says nothing */
    NOTE_RACY = 1 << 2, /* noted so soon after a change that another may bear the same time */
    NOTE_BAD = 1 << 3,  /* could not be made like the source */
    NOTE_LOST = 1 << 5, /* what was written of it is not known: all is compared */
    /* of a name */
    NOTE_DIVERGED = 1 << 1, /* changed by somebody else, and left alone */
    NOTE_NEW = 1 << 4,      /* about to be made: what is there need not be ours */
    NOTE_DEEP = 1 << 6,     /* a directory in which something was not found: listed when it moves */
    NOTE_MAYBE = 1 << 7,    /* it may not be there: about to be removed, or come with a directory */
};

#define NOTE_UNKNOWN 1 /* the checksum of a block that may be anything by now */

struct note_state {
    uint64_t size;
    int64_t mtime, ctime; /* ns; ctime 0: not known */
};

/* What is known of an object at the replica, under however many names. */
struct note_object {
    uint32_t id, flags, names;
    uint32_t mode, uid, gid;             /* of the source */
    uint32_t dst_mode, dst_uid, dst_gid; /* what became of them in the replica */
    uint64_t extra; /* a checksum of xattrs, of a symlink's target, of a device's numbers */
    struct note_state src, dst;
    uint64_t *hash; /* of each block of content; 0: all zeros; or NOTE_UNKNOWN */
    size_t nhash, room;
};

/* A name. */
struct note {
    struct note *parent; /* NULL: the root */
    char *name;
    struct note *children;
    UT_hash_handle hh;     /* among the parent's children */
    struct note *twin;     /* another name of the same object of the source: a hard link */
    struct note_object *o; /* the same one, if it is linked at the replica too */
    uint32_t id, flags, generation;
    bool is_doomed, to_list; /* of who uses them, and not written */
    bool known;              /* in the index by number */
    uint32_t fmt;
    uint64_t ino; /* in the source */
};

/* What may not be on the replica's disk yet: a name, or blocks of an object (none: the object). */
struct note_doubt {
    uint32_t id;
    bool name;
    uint64_t first, count;
};

struct note_index;
struct notes {
    struct synclog log;
    struct note *root;
    struct note **by_id;
    struct note_object **objects; /* by their numbers, which are that of their first name */
    uint32_t nids, ids_room;
    struct note_index *index; /* by the source's number */
    uint64_t count;
    uint64_t applied; /* the last record carried out */
    bool whole, dry;  /* it was compared as a whole once; nothing is written */
    int error;        /* a note could not be written: the first such */
    struct {
        struct note *note; /* a move that was begun, and not noted as done: or NULL */
        struct note *dir;
        char name[256];
    } intent;
    struct note_doubt *doubts;
    size_t ndoubts, doubts_room;
};

int notes_open(struct notes *n, const char *path, bool dry, struct pl_err *err);
void notes_close(struct notes *n);

/* By its path ("/a/b", "/" the root), or name; NULL: none. */
struct note *notes_find(const struct notes *n, const char *path);
struct note *notes_child(const struct note *dir, const char *name);
/* The notes of one object of the source, through `twin`. */
struct note *notes_object(const struct notes *n, uint64_t ino);
/* Of `top` and all beneath it, the one behind `at` (a directory before what is in it); NULL: it is
 * the last. */
struct note *notes_next_beneath(struct note *at, const struct note *top);
/* "/a/b" into a buffer of `size`; false: too long. */
bool notes_path(const struct note *note, char *buf, size_t size);

/* A new one of a new object, which is not written yet. NULL: no memory. */
struct note *notes_add(struct notes *n, struct note *dir, const char *name, uint64_t ino,
                       uint32_t fmt);
/* Likewise one more name of an object. */
struct note *notes_link(struct notes *n, struct note *dir, const char *name, const struct note *of);
/* Takes it and all beneath out. */
void notes_del(struct notes *n, struct note *note);
/* It is about to be moved there: until notes_move() it may be in either place. */
void notes_intend(struct notes *n, struct note *note, struct note *dir, const char *name);
int notes_move(struct notes *n, struct note *note, struct note *dir, const char *name);
/* It stands for another object of the source now. */
void notes_ino(struct notes *n, struct note *note, uint64_t ino);

/* Makes room for the checksums of `count` blocks (those that are new are 0). -ENOMEM. */
int notes_blocks(struct note_object *o, size_t count);

/* Writes what changed: the name and its object; checksums from `first` on. Errors in n->error. */
void notes_put(struct notes *n, const struct note *note);
void notes_put_blocks(struct notes *n, const struct note_object *o, size_t first, size_t count);
/* These blocks are about to be written. Noted at once: who comes after a crash knows that they may
 * be anything. */
void notes_unknown(struct notes *n, struct note_object *o, size_t first, size_t count);
/* The replica is on its disk as it is noted. */
void notes_safe(struct notes *n);
/* It may have lost what was not: what was changed since is noted as being changed, and names as
 * perhaps not there. */
void notes_doubt(struct notes *n);
/* How far the replica is; it is safe. */
void notes_applied(struct notes *n, uint64_t seq, bool whole);
/* Writes the log anew if it has grown far beyond what is in it, and sees it to the disk. */
int notes_sync(struct notes *n);

#endif
