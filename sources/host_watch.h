/* SPDX-License-Identifier: MIT */
/*
 * Watching, inside: a queue of the kernel's (fanotify, else inotify), and the thread that reads it.
 *
 * What is watched are the directories among the known nodes: their marks tell of all that happens
 * to the names in them and to the files of these names. A file that may have other names, or was
 * not found by one, has a mark of its own. A mark is set before what it covers is read, and goes
 * with the node.
 *
 * The lock `marks` (`lock` here) guards the queue's descriptor against its end, and the counts. It
 * is not held while events are passed on: those who take them may block (in the kernel, on the lock
 * of a directory, until one of our own threads has answered a request there).
 */
#ifndef SOURCES_HOST_WATCH_H
#define SOURCES_HOST_WATCH_H

#include "sources/host.h"

/* Events are read at most so often, after the first: whoever writes all the time causes so many
 * wakeups and no more, for the kernel merges events that nobody has read. */
#define WATCH_PAUSE_MS 20

enum { HOST_MARKED = 1 /* it is watched itself */, HOST_NAMED = 2 /* and where it was found */ };

struct watch_kind {
    const char *name;
    /* The queue's descriptor, or a negative errno. */
    int (*open)(struct host_watch *w);
    /* Marks the node that `fd` has open: 0 or a negative errno. Call with the lock. */
    int (*mark)(struct host_watch *w, struct host_node *n, int fd);
    /* Takes its mark away; it has no references, but still its parent and name. Takes the lock. */
    void (*unmark)(struct host_watch *w, struct host_node *n);
    /* Reads what is in the queue and passes it on; false when there was nothing. */
    bool (*read)(struct host_watch *w, char *buf, size_t size);
    int settle_ms;  /* so long after the first event: then our own ops know what they have done */
    bool by_handle; /* events name files by handle, so only those that have one can be watched */
};
extern const struct watch_kind watch_fanotify, watch_inotify;

struct host_watch {
    struct host *h;
    const struct watch_kind *kind;
    struct pl_watcher *to;
    pthread_mutex_t lock;
    pthread_t thread;
    int fd;         /* the queue. This and the next: guarded by `lock` */
    unsigned dirs;  /* marked directories */
    unsigned marks; /* marks */
    unsigned most;  /* tests: marks at most */
    int wake;       /* an eventfd: look at `over` and `words` */
    int mountinfo;  /* tells of mounts; its thread's own, as the next */
    char *points;   /* mount points beneath the root, as host_points() lists them */
    unsigned round; /* counts the watches of this tree */
    atomic_bool on, over, words;
    _Atomic uint64_t seq;
    _Atomic size_t missed;    /* marks that could not be set */
    struct host_node *dir;    /* the directory to be told of when its events are through */
    struct host_node **by_wd; /* inotify: nodes by number. Guarded by `lock` */
    size_t nwd;
};

/* What a backend has to tell. `dir` and `name` are where it happened (NULL: not known), `node` is
 * what it happened to (NULL: not known to us). References stay the caller's. */
enum {
    WATCH_ATTR = 1,
    WATCH_DATA = 2,
    WATCH_CAME = 4, /* the name stands for it now */
    WATCH_WENT = 8, /* the name stood for it */
};
void watch_tell(struct host_watch *w, struct host_node *dir, const char *name,
                struct host_node *node, unsigned what);
/* Events were lost. */
void watch_lost(struct host_watch *w);

#endif
