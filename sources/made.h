/* SPDX-License-Identifier: MIT */
/*
 * Made trees, inside. made.c keeps the hierarchy, made_file.c the open files, made_store.c the
 * directories of documents, made_stream.c the streams, made_text.c the texts, made_body.c the
 * content of open files, made_range.c the documents that are read in ranges, made_last.c what
 * outlives the process.
 *
 * Inode numbers are made of names, so that a program that makes the same files again has the same
 * numbers. What loses its name gets one that is counted, for its own is its next owner's.
 *
 * Locks: pl_made.lock guards the hierarchy, and of every node all but what is set when it is made
 * (kind, functions, arg, text). It is never held while a function of the program runs. An open file
 * has a holder (made_hold): one op at a time works on its text, commit functions included.
 * A stream has locks of its own, taken after the others.
 */
#ifndef SOURCES_MADE_H
#define SOURCES_MADE_H

#include "base/names.h"
#include <plenum/made.h>

#define MADE_TEXT_MAX (1u << 30) /* bytes of a text */
#define MADE_CTL_MAX  (1u << 20) /* bytes of a command */

struct pl_text {
    char *buf;
    size_t n, room;
    int error; /* the first failure: the fill function may have overlooked it */
};

void made_text_done(struct pl_text *t);
/* Cut, or filled up with zeros, to n bytes. 0, -EFBIG, -ENOMEM. */
int made_text_resize(struct pl_text *t, size_t n);
/* The text with a NUL behind it. NULL: out of memory. */
const char *made_text_str(struct pl_text *t);

/* The content of an open file. */
struct made_body {
    struct pl_text text; /* when fd is -1 */
    int fd;
    uint64_t digest;  /* of what was there when it was filled or copied last */
    uint64_t counted; /* bytes of text, in pl_made.held */
};

/* Makes that memory, if it may, while the process still may: it is given up later. */
void made_memory_start(struct pl_made *m);
/* A new empty file in the tree's memory, of which all together are bounded; -1: none to be had.
 * `name`, for nobody but /proc, is one that no file has, or "". */
int made_memory_file(struct pl_made *m, const char *name);
/* Begins with `text`, which it takes over; in a file if it can and is asked to, of that name. 0,
 * -ENOSPC. */
int made_body_init(struct pl_made *m, struct made_body *b, struct pl_text *text, bool in_file,
                   const char *name);
void made_body_done(struct pl_made *m, struct made_body *b);
uint64_t made_body_size(const struct made_body *b);
ssize_t made_body_read(const struct made_body *b, void *buf, size_t n, uint64_t off);
int made_body_write(struct pl_made *m, struct made_body *b, const void *buf, size_t n,
                    uint64_t off);
int made_body_resize(struct pl_made *m, struct made_body *b, size_t n);
/* Whether somebody has written to its file since it was copied last (we included). */
bool made_body_changed(const struct made_body *b);
/* Somebody has. */
void made_body_soil(struct made_body *b);
/* It goes on with the file that a predecessor had for it. */
void made_body_resume(struct pl_made *m, struct made_body *b, int fd);
/* All of it into `out`, which is empty; nothing counts as written since. */
int made_body_copy(struct made_body *b, struct pl_text *out);

enum made_kind {
    MADE_DIR,
    MADE_FIXED, /* pl_made_text */
    MADE_FILE,
    MADE_CTL,
    MADE_DOC,
    MADE_STORE, /* pl_made_docs */
    MADE_ENTRY, /* a document of a store */
    MADE_STREAM,
    MADE_RANGED,
};

/* The names in a store's directory, by position: a hash of the name, so that a listing goes on
 * after a restart where it was. */
struct made_item {
    uint64_t pos; /* 2 to 2^62 + 1; the next of two that are the same has one more */
    char *name;
};
struct made_list {
    struct made_item *item; /* sorted */
    size_t n, room;
    bool read;
};

struct made_node {
    struct pl_node node;
    UT_hash_handle hh; /* in pl_made.numbers, by attr.ino */
    enum made_kind kind;
    struct pl_attr attr;
    struct made_node *parent; /* NULL when removed; of the root, itself; no reference, except of an
                                 entry, whose store it is: set for good */
    char *name;               /* in the parent; an entry's changes when it is renamed */
    struct names dir; /* MADE_DIR: struct made_node *, each a reference; MADE_STORE: the entries
                         that somebody knows of, no references */
    bool gone;        /* removed: call no function for it any more */
    bool pinned;      /* an entry that the store has a reference to */
    bool pending;     /* an entry that was created, not yet put */
    pl_fill *fill;
    pl_take *take;
    void *arg;
    struct pl_text text;      /* MADE_FIXED; else what a commit refused, if it is kept */
    bool refused;             /* it is */
    int fd;                   /* MADE_FIXED: a sealed copy, -1: none. This and users by the lock */
    unsigned users;           /* open files that share it */
    struct made_range *range; /* MADE_RANGED: what is there of it; a reference */
    pl_size *size;
    pl_range *read;
    struct pl_made_store store; /* MADE_STORE */
    struct pl_stream *stream;   /* MADE_STREAM; the node has a reference */
};

#define MADE_UNTRIED (-2)

struct pl_made {
    struct pl_tree tree;
    pthread_mutex_t lock;
    struct made_node *root;
    struct pl_stream *streams; /* that the program has not ended */
    uint64_t next_ino;
    struct made_node *numbers; /* that have a name and are no entries */
    bool kept;                 /* a successor may want what open files have; set before use */
    int failed;                /* the first failure of a step */
    int memory;                /* the file system of open documents, -1: none */
    atomic_int_least64_t held; /* bytes of those that are not in it */
    bool keep_failed;          /* set before the tree is used */
    void (*work)(void *);      /* set before the tree is used */
    void *work_arg;
    pthread_t worker;
    bool working, over; /* by lock */
    pthread_cond_t over_cond;
};

/* What reads a stream. */
struct made_reader {
    struct made_reader *next, **link;
    struct pl_poller *poller;
    struct made_record *now; /* a copy of one that is partly read */
    size_t at;               /* so far */
    uint64_t lost;           /* records lost before the next */
    struct made_record *pos; /* the next in the queue; NULL: it has had all */
};

struct made_file {
    struct pl_file file;
    pthread_mutex_t lock; /* guards busy */
    pthread_cond_t cond;
    bool busy;                /* held; what follows is the holder's */
    bool dirty;               /* there is something to commit */
    bool refused;             /* the last commit of it failed */
    bool broken;              /* a command was being run when the server died */
    bool creator;             /* its open made the entry (set before others see it) */
    struct made_body body;    /* the content, this open's own; of a control file what was written */
    struct made_range *range; /* MADE_RANGED: a reference */
    struct made_list list;    /* of a store's directory: the names when it was last read from 0 */
    struct made_reader reader;
};

static inline struct pl_made *made_of(struct pl_tree *tree)
{
    return (struct pl_made *)tree;
}

static inline struct made_node *made_node_of(struct pl_node *node)
{
    return (struct made_node *)node;
}

static inline struct made_file *made_file_of(struct pl_file *file)
{
    return (struct made_file *)file;
}

/* A node of the tree, to be in `dir`, with one reference; NULL: out of memory. With the lock held.
 */
struct made_node *made_node_new(struct pl_made *m, struct made_node *dir, enum made_kind kind,
                                const char *name, uint32_t mode);
struct pl_attr made_attr(struct made_node *n);
int made_may(struct pl_call *call, struct made_node *n, int mask);
/* Runs the program's function on the node's content. -ENOENT when it is gone. */
int made_fill(struct made_node *n, struct pl_call *call, struct pl_text *out);
int made_take(struct made_node *n, struct pl_call *call, struct pl_text *text);
/* What its functions are told; -ENOENT when it is gone. */
int made_request(struct made_node *n, struct pl_call *call, struct pl_made_req *req,
                 char name[PL_NAME_MAX + 1]);

/* made_file.c: ops, and an open file of n with this text (taken over). */
int made_file_new(struct made_node *n, struct pl_text *text, int flags, struct pl_file **ret);
/* It is to be committed. */
void made_soil(struct made_file *f);
/* Opens without asking whether the caller may. */
int made_open_judged(struct pl_tree *, struct pl_call *, struct pl_node *, int flags,
                     struct pl_file **);
int made_open(struct pl_tree *, struct pl_call *, struct pl_node *, int flags, struct pl_file **);
int made_close(struct pl_tree *, struct pl_call *, struct pl_file *);
int made_flush(struct pl_tree *, struct pl_call *, struct pl_file *, uint64_t owner);
int made_fsync(struct pl_tree *, struct pl_call *, struct pl_file *, bool data_only);
ssize_t made_read(struct pl_tree *, struct pl_call *, struct pl_file *, void *, size_t, uint64_t);
ssize_t made_write(struct pl_tree *, struct pl_call *, struct pl_file *, const void *, size_t,
                   uint64_t);
int made_poll(struct pl_tree *, struct pl_call *, struct pl_file *, struct pl_poller *);
int made_getattr(struct pl_tree *, struct pl_call *, struct pl_node *, struct pl_file *,
                 struct pl_attr *);
int made_setattr(struct pl_tree *, struct pl_call *, struct pl_node *, struct pl_file *,
                 const struct pl_setattr *, struct pl_attr *);

/* made_store.c: ops; what is not in a store is -EPERM. */
int made_store_lookup(struct pl_made *m, struct pl_call *call, struct made_node *store,
                      const char *name, struct made_node **ret);
/* What is known of an entry beyond its content is remembered, or need not be. With the lock held;
 * the caller unrefs the result, if any, after it. */
struct made_node *made_pin(struct made_node *n);
/* Forgets all that. With the lock held, which it lets go of at times. */
void made_store_unpin(struct pl_made *m, struct made_node *store);
/* The number of the entry of that name, whether it is known or not. */
uint64_t made_entry_ino(const struct made_node *store, const char *name);
int made_store_list(struct pl_call *call, struct made_node *store, struct made_list *ret);
/* The first at position pos or after, or NULL. */
const struct made_item *made_list_from(const struct made_list *l, uint64_t pos);
void made_list_done(struct made_list *l);
int made_create(struct pl_tree *, struct pl_call *, struct pl_node *, const char *, int, mode_t,
                struct pl_node **, struct pl_attr *, struct pl_file **);
int made_make(struct pl_tree *, struct pl_call *, struct pl_node *, const char *,
              const struct pl_make *, struct pl_node **, struct pl_attr *);
int made_remove(struct pl_tree *, struct pl_call *, struct pl_node *, const char *, int flags);
int made_rename(struct pl_tree *, struct pl_call *, struct pl_node *, const char *,
                struct pl_node *, const char *, unsigned flags);

/* made_stream.c */
struct pl_stream *made_stream_new(struct pl_made *m, size_t backlog);
void made_stream_unref(struct pl_stream *s);
void made_stream_join(struct pl_stream *s, struct made_reader *r);
void made_stream_leave(struct pl_stream *s, struct made_reader *r);
ssize_t made_stream_read(struct pl_stream *s, struct pl_call *call, struct made_reader *r,
                         bool wait, void *buf, size_t n);
int made_stream_poll(struct pl_stream *s, struct made_reader *r, struct pl_poller *poller);
void made_streams_free(struct pl_made *m);

/* made_range.c */
int made_range_open(struct made_node *n, struct pl_call *call, struct made_range **ret);
struct made_range *made_range_ref(struct made_range *g);
void made_range_unref(struct made_range *g);
uint64_t made_range_size(const struct made_range *g);
/* A file with all of it, or -1 while it is not complete. */
int made_range_fd(const struct made_range *g);
ssize_t made_range_read(struct made_node *n, struct pl_call *call, struct made_range *g, void *buf,
                        size_t size, uint64_t off);
ssize_t made_getxattr(struct pl_tree *, struct pl_call *, struct pl_node *, const char *, void *,
                      size_t);
ssize_t made_listxattr(struct pl_tree *, struct pl_call *, struct pl_node *, char *, size_t);
/* The reader had the stream open before: what it had not read is gone, and it is told. */
void made_stream_resumed(struct pl_stream *s, struct made_reader *r);

/* made_last.c: ops, and what a control file does to keep what is written: notes it (before it
 * counts), says that it is about to be run, and that it is over. 0, or why it cannot be kept. */
void made_keep(struct pl_tree *, struct pl_keep *);
int made_resume(struct pl_tree *, struct pl_call *, struct pl_node *, int flags, int kept,
                struct pl_file **);
int made_ctl_new(struct made_node *n, struct made_file *f);
/* The name of a new file that is to say whose content it has. */
#define MADE_KEPT_NAME 64
void made_kept_name(struct made_node *n, char name[MADE_KEPT_NAME]);
int made_ctl_note(struct made_file *f, const void *buf, size_t n);
int made_ctl_begin(struct made_file *f);
void made_ctl_end(struct made_file *f);

/* made_work.c: starts the thread once; ends and joins it. */
int made_work_start(struct pl_made *m);
void made_work_end(struct pl_made *m);

#endif
