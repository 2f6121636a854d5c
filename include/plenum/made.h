/* SPDX-License-Identifier: MIT */
/*
 * Made trees: directories of files that your code makes up. For people who write file servers.
 *
 *     static int now(void *arg, struct pl_text *out) { ... return pl_text_add(out, "%ld\n", t); }
 *
 *     struct pl_made *m = pl_made_new();
 *     pl_made_file(m, "time", now, NULL);          // written anew at each open
 *     pl_made_ctl(m, "ctl", command, NULL);        // open, write, close: a command
 *     pl_made_stream(m, "events", &stream);        // reads block until there is something
 *     pl_made_doc(m, "config", fill, commit, x);   // a whole-file document
 *     pl_made_ranged(m, "disk", size, range, x);   // a big one, read in pieces
 *     return pl_main(argc, argv, pl_made_tree(m));
 *
 * PATH arguments are relative to the root, with '/' between names; missing directories are made.
 * Functions named below run in the thread of the caller, perhaps several at once; they may block,
 * and heed `call` if they do. They return 0 or a negative errno, which is the error of the system
 * call that caused them. Files may be added and removed while the tree is in use.
 *
 * All return 0 or a negative errno: -EEXIST (PATH is there), -EINVAL (bad PATH), -ENOMEM. As a
 * convenience the first failure is remembered, so that a program may check only pl_made_tree().
 *
 * When the server of a mount dies (killed, or by a fault of the program) another takes its place: a
 * process with the program's memory as it was when pl_main() was called, in which nothing has run
 * yet but what came before. So what a program keeps in files, in a database or on another machine
 * is there again, and what it has only in memory is not: if that matters, say pl_made_private(),
 * and the mount ends with its server, with clean errors. Else nobody sees more of it than this:
 *  - Inode numbers are made of names: files of the same names are the same files. What was added to
 *    or taken from the tree after pl_main() the new process has to add or take away again (a thread
 *    of pl_made_work() may), and chmod and chown of before are forgotten.
 *  - Documents and generated files that are open go on with the text that they have, if that is in
 * a file (which takes the right to mount a tmpfs: root's). Else it is made again: who reads on
 * reads the new text, and what was written and not yet committed is lost. A document that was
 * created in a store and not yet put is not there for the new process, and its open files fail.
 *  - A command that was written and not yet run is kept, and run at close. If the server died while
 *    it was being run, nobody knows how far it got: it is not run again, and close(2) says EIO.
 *  - The readers of a stream are told by a record "(lost ?)\n" that they may have missed some. A
 *    record that was read in part does not go on.
 *  - A listing of a store goes on exactly where it was; of another directory too, if files are
 * added in the same order.
 *
 * Files belong to the user of this process: directories are 0755, files 0444, documents 0644,
 * control files 0200; whoever may can chmod and chown them, for as long as the tree lives. The
 * length of what `fill` writes is known once a file is open; before, stat(2) says 0, as in /proc,
 * and a read gets it all the same.
 */
#ifndef PLENUM_MADE_H
#define PLENUM_MADE_H

#include <plenum/tree.h>

struct pl_made;

/* A growing text that a fill function writes; bytes of any value, up to 1 GiB. */
struct pl_text;
PL_API int pl_text_add(struct pl_text *, const char *fmt, ...) PL_PRINTF(2, 3);
PL_API int pl_text_put(struct pl_text *, const void *bytes, size_t n);

/* What a function may ask about the file it is called for. */
struct pl_made_req {
    struct pl_call *call;
    const char *name; /* the file's name in its directory */
    void *arg;        /* as given when the file was added */
};

/* Writes the content of a file into `out`, at open. */
typedef int pl_fill(const struct pl_made_req *req, struct pl_text *out);
/* Takes what was written (`text` is NUL-terminated, n bytes without the NUL). */
typedef int pl_take(const struct pl_made_req *req, const char *text, size_t n);

/* An empty tree, or NULL. */
PL_API struct pl_made *pl_made_new(void);
/* The tree, to give to a door; `made` goes with it (but may be used to add and remove files as
 * long as the tree lives). NULL if any step before failed or `made` is NULL; all is freed then. */
PL_API struct pl_tree *pl_made_tree(struct pl_made *made);

/* The program's state is in its memory, and a mount must end when its server dies; see below. */
PL_API void pl_made_private(struct pl_made *);

/* A directory (adding one that is there is fine). */
PL_API int pl_made_dir(struct pl_made *, const char *path);
/* A read-only file whose content `fill` writes at each open. */
PL_API int pl_made_file(struct pl_made *, const char *path, pl_fill *fill, void *arg);
/* A read-only file with fixed content (copied). */
PL_API int pl_made_text(struct pl_made *, const char *path, const char *text);
/* A write-only control file: what is written between open and close (up to 1 MiB) is one command,
 * given to `take` at close (or fsync); its error is what close(2) returns. A program that shares
 * an open file among processes gives a command with each close(2) before which something was
 * written. What a client wrote that died before its close is dropped. */
PL_API int pl_made_ctl(struct pl_made *, const char *path, pl_take *take, void *arg);
/* A whole-file document: `fill` at open (skipped with O_TRUNC), reads and writes in between as on
 * any file, `commit` with the whole content when a written file is closed or fsync'ed; its error is
 * what close(2) or fsync(2) returns. Each open has a copy of its own: nobody sees what is half
 * written, and of two writers the last to close wins with its whole text. truncate(2) fills, cuts
 * and commits.
 *
 * Between open and close the bytes need no server: over a mount that may (see plenum status) the
 * kernel moves them by itself, for whoever opens the document first; who opens it meanwhile has his
 * own copy too, by messages. (A mapping that he makes then shows the copy of the first: the kernel
 * maps but one file for each name at a time.) All that is open together may take 1 GiB; beyond, a
 * write is -ENOSPC. */
PL_API int pl_made_doc(struct pl_made *, const char *path, pl_fill *fill, pl_take *commit,
                       void *arg);
/* What becomes of a document whose commit has failed, when it is closed for the last time. The
 * error was what close(2) returned; the text is lost, unless `keep` is true: then who opens the
 * document next finds it, and if he opened it to write, it is committed again when he closes. Any
 * commit that succeeds ends that. Either way the log says so. To be said before the tree is used.
 */
PL_API void pl_made_keep_failed(struct pl_made *, bool keep);
/* A big read-only document that is never written as a whole: `size` says how long it is, at each
 * open; `range` gives up to n bytes from `off` (0: the end). Each piece is asked for once and kept
 * while the size stays the same (documents of up to 1 GiB; bigger ones are asked for each time);
 * once all of it is there, further opens do without you. The attribute user.plenum.progress says
 * how far that is: "131072/1000000" (where the first such file was added before the tree was used).
 */
typedef int64_t pl_size(const struct pl_made_req *req);
typedef ssize_t pl_range(const struct pl_made_req *req, void *buf, size_t n, uint64_t off);
PL_API int pl_made_ranged(struct pl_made *, const char *path, pl_size *size, pl_range *range,
                          void *arg);
/* Work of your own beside the files, such as a clock that ticks into a stream: `work(arg)` runs in
 * a thread of its own from the first time that a client enters the tree (a thread started before
 * pl_main() would not survive it: it forks). It returns when pl_made_wait() says so, and is joined
 * before the tree is freed. One a tree. */
PL_API int pl_made_work(struct pl_made *, void (*work)(void *arg), void *arg);
/* Sleeps for `ns` nanoseconds (negative: for good), less when the tree is about to be freed: 0, or
 * -ESHUTDOWN then. For the thread above. */
PL_API int pl_made_wait(struct pl_made *, int64_t ns);
/* Takes PATH (and what is below) away. Files that are open go on with the content they have; no
 * function of theirs is started any more (one may still be running), and a commit is -ENOENT. */
PL_API int pl_made_remove(struct pl_made *, const char *path);

/* A directory of documents whose names your code decides: a key-value store in four functions.
 * `list` calls add(add_arg, name) for each; `get`/`put` fill and commit one; `del` removes one
 * (-EPERM when NULL). Files may be created, truncated, renamed over one another (an editor's save)
 * and removed, but not moved to another directory. A file that was created is put when it is first
 * closed. The PATH "" is the root, if it is empty. */
struct pl_made_store {
    int (*list)(const struct pl_made_req *req, int (*add)(void *, const char *name), void *add_arg);
    pl_fill *get; /* -ENOENT: there is no such document */
    pl_take *put;
    int (*del)(const struct pl_made_req *req); /* NULL: no removing and no renaming */
    void *arg;
};
PL_API int pl_made_docs(struct pl_made *, const char *path, const struct pl_made_store *store);

/* A stream that any number of readers may have open: each gets what is sent from its open on;
 * reads block until there is something and give whole records where they fit, poll(2) works, and a
 * reader who falls more than `backlog` bytes behind loses the oldest whole records and is told by
 * one record "(lost N)\n". */
struct pl_stream;
PL_API struct pl_stream *pl_made_stream(struct pl_made *, const char *path, size_t backlog);
/* Sends one record to all who are reading now. Never waits for them. -EPIPE after the end. */
PL_API int pl_stream_send(struct pl_stream *, const void *bytes, size_t n);
/* Readers get what is left, then the end of the file. When PATH is removed too, `stream` is gone.
 */
PL_API void pl_stream_end(struct pl_stream *);

#endif
