/* SPDX-License-Identifier: MIT */
/*
 * Between replica.c (which objects, and when), replica_find.c (where they are, and what is noted of
 * them for later), replica_look.c (are they as they were left), replica_move.c (removing and
 * moving), replica_make.c (one object), replica_data.c (its content) and replica_attr.c (what else
 * it has).
 */
#ifndef SYNC_REPLICA_PRIV_H
#define SYNC_REPLICA_PRIV_H

#include "sync/replica.h"

#define PATH_SIZE 8192
#define RANGES    16
#define MAX_DEPTH (PATH_SIZE / 2)
#define LIMBO     ".plenum-limbo-" /* in the root: what is in the way, until it is known why */
#define FOREIGN   1                /* instead of 0: somebody else has changed the file meanwhile */

/* The directory that was used last. */
struct spot {
    char *path;
    struct pl_node *node;
    uint64_t ino;
};

/* What was written of an object: of the records that are carried out. */
struct written {
    uint64_t ino;
    size_t n;
    struct {
        uint64_t from, to;
    } range[RANGES];
    bool done;       /* it was carried out, */
    uint32_t object; /* at this one */
    UT_hash_handle hh;
};

struct ids {
    uint32_t *v;
    size_t n, room;
};

struct replica_state {
    struct pl_node *sroot, *droot;
    struct spot sdir, ddir;
    struct written *written;
    struct ids doomed, touched, deep; /* notes: to be removed, to get times, to be listed */
    struct ids dirty;                 /* to be synced */
    uint32_t generation;
    const struct journal_record *rec;    /* that is carried out; NULL: none */
    bool comparing, no_owners, no_links; /* no: the replica has none */
    bool local;                          /* files of this machine: they have descriptors */
    bool unsure; /* the replica may have forgotten what was done, since the last batch that was */
    bool moved;  /* dry: not everything is where it would be by now */
};

/* An object in both. */
struct pair {
    const char *path;
    struct note *note;
    struct pl_node *src, *dst;
    struct pl_attr sattr, dattr;
    bool fresh;     /* the replica's was just made, or is to be taken over: nothing is noted */
    bool untrusted; /* what is noted of its content may not be so */
    bool touched;   /* its times are others, and what is in it the same */
    bool ours;      /* it may be overwritten, whatever it is */
};

/* ---- replica_find.c ---- */
int64_t replica_ns(const struct timespec *t);
/* True if the error is of this object alone. */
bool replica_minor(int e);
/* Counts it, and tells who wants to know. */
void replica_tell(struct replica *r, enum replica_kind kind, const char *path, const char *detail);
/* Forgets the directory that was used last. */
void replica_spot_clear(struct spot *s);
const char *replica_last_name(const char *path);
/* What is at the path in the source, and in the replica; a directory of the replica. */
int replica_src_find(struct replica *r, const char *path, struct pl_node **ret,
                     struct pl_attr *attr);
int replica_dst_find(struct replica *r, const char *path, struct pl_node **ret,
                     struct pl_attr *attr);
int replica_dst_dir(struct replica *r, const char *path, struct pl_node **ret);
/* What an error of the replica's object means: FOREIGN if it is gone, or is another by now. (Stale
 * is also what a server that was restarted has forgotten.) */
int replica_dst_gone(struct replica *r, const struct pair *p, int e);
/* Is there nothing at the path in the source? Its number there, 0: nothing that can be seen. */
bool replica_src_gone(struct replica *r, const char *path);
uint64_t replica_src_ino(struct replica *r, const char *path);
/* Lists of notes: `touch` are directories that get their times, `list` those whose names are looked
 * at, `doom` what is to be removed. */
void replica_add_id(struct ids *ids, const struct note *n);
void replica_touch(struct replica *r, struct note *dir);
void replica_list(struct replica *r, struct note *dir);
void replica_doom(struct replica *r, struct note *n);
/* An error of one object is told and noted, of one that has gone from the source ignored (0);
 * others are returned. */
int replica_trouble(struct replica *r, const char *path, struct note *n, int e);
/* What was done since the last time is on the replica's disk, and noted as safe. */
int replica_sync(struct replica *r);

/* ---- replica_look.c ---- */
/* What is to be done with an object: on with it, leave it, make it anew (nothing is noted there any
 * more). */
enum verdict { GO, SKIP, ANEW };
/* Size and times, where they can be had. */
bool replica_same_state(const struct note *n, const struct pl_attr *a);
/* Does the replica's object look as it was noted? 1 yes, 0 no, or an error. */
int replica_as_noted(struct replica *r, struct pair *p);
/* We have renamed or linked it, by which its ctime is another; it was as noted just before. */
void replica_renamed(struct replica *r, struct note *n, struct pl_node *node);
/* Puts the replica's own version under another name. */
int replica_put_aside(struct replica *r, const char *path);
/* Somebody else changed what is at the path: what is to be done, or an error. */
int replica_diverged(struct replica *r, const char *path, struct note *n, const char *how);
/* Of a name that is noted as new: is it what we were about to make when we ended? */
bool replica_just_made(struct replica *r, const struct pair *p);
/* Looks at the replica's object of a note: fills p->dst, p->dattr with a reference, unless ANEW
 * (there is none, and the note is gone). */
int replica_look(struct replica *r, struct pair *p);

/* ---- replica_move.c ---- */
/* Limbo: what was in the way, until it is known what became of it. `more`: records follow. */
bool replica_in_limbo(const struct note *n);
int replica_reap_all(struct replica *r, bool more);
void replica_look_later(struct replica *r, struct note *dir);
/* It, if it is a directory, and those beneath are to be listed, also by who comes after us. */
void replica_list_beneath(struct replica *r, struct note *top);
/* Renames something noted; nothing may be in its way but what is noted too. */
int replica_move(struct replica *r, struct note *n, const char *from, const char *to,
                 struct note *dir);
/* A rename that a dead predecessor was amid. */
int replica_finish_intent(struct replica *r);
/* Takes away what is at the path in the replica, to limbo if it may be wanted. */
int replica_clear_way(struct replica *r, struct note *n, const char *path, bool over);

/* ---- replica_make.c ---- */
int replica_make_new(struct replica *r, struct pair *p, struct note *dir);
/* The object under another name of the replica: where, and whether the source still has that. */
struct note *replica_elsewhere(struct replica *r, const struct pair *p, char from[PATH_SIZE],
                               bool *still);
/* 1: it was; 0: it cannot be; ANEW: it was not there, and its note is gone; or an error. */
int replica_bring(struct replica *r, struct pair *p, struct note *dir, struct note *m,
                  const char *from, bool still);
/* The object that is noted at its path: 0, ANEW or an error. */
int replica_update(struct replica *r, struct pair *p, struct note *dir);

/* ---- replica.c ---- */
/* Makes the replica at the path as the source is. */
int replica_entry(struct replica *r, const char *path);

/* ---- replica_data.c ---- */
/* Content and attributes as in the source; notes what came of it. 0, FOREIGN, or an error of either
 * kind. */
int replica_fill(struct replica *r, struct pair *p);
/* Notes what the replica's object looks like now (p->dattr). */
void replica_seen(struct pair *p);
/* Is each block of the replica's content what was noted, or what the source has? 1 yes, 0 no, or an
 * error. */
int replica_same(struct replica *r, struct pair *p);
/* Is the replica's content the source's? Likewise. */
int replica_equal(struct replica *r, struct pair *p);

/* ---- replica_attr.c ---- */
/* About to be changed: noted. */
void replica_busy(struct replica *r, struct note *note);
/* As in the source. 0, FOREIGN or an error. */
int replica_attributes(struct replica *r, struct pair *p);
/* A symlink's target or a device's number, as a checksum. */
int replica_extra(struct replica *r, struct pl_tree *tree, struct pl_node *node,
                  const struct pl_attr *attr, uint64_t *ret);

#endif
