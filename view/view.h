/* SPDX-License-Identifier: MIT */
/*
 * The table of a view: what `vpath` was told. Pure: nothing here looks at a file, waits, or prints.
 *
 * A view is made of pairs of words, in the order of vpath(1)'s arguments, each pair one change:
 *
 *     A B                    directory A over directory B; in place of what A was over before
 *     A -                    A is over nothing and on no service any more
 *     - -                    everything is taken away
 *     - /#option/debug=N     N from 0 to 9
 *     - /#option/trace       what is done in the view is told on standard error; notrace: no more
 *     - /#option/del=HOW     classic or whiteout: see PL_SPACE_CLASSIC
 *     ADDR /#fs/NAME/ATTR... defines service NAME, whose server is at ADDR ("-": it has none); in
 *                            place of the definition that it had
 *     - /#fs/NAME/on, off    switches a service that there is
 *     - /#fs/NAME/-          takes the service away, and all directories off it
 *     DIR /#NAME             puts directory DIR on service NAME
 *     - /#vmap/V1,V2...      which version a name of many versions is, the first that there is
 *     NAME /#vmap/V1,...     the same for one name: a bare name anywhere, or a path
 *     - /#vmap, NAME /#vmap  none any more
 *
 * Chains are followed: with B over C as well, A is A, B, C. So they are when B lies in a directory
 * that is over another. Tops nest: what is beneath one inherits its directories, first.
 *
 * The text form of a view is such pairs again, which make the same view from an empty one. No shell
 * changes its words, quoted or not: `vpath $saved` and `eval "vpath $saved"` both restore it. Where
 * a word has bytes that a shell would change, the pair `- /#escaped` stands first, and %XX (two
 * hexadecimal digits) in the words behind it is a byte.
 *
 * A view never changes once it is made: a change makes a new one. Any thread may read one.
 */
#ifndef VIEW_VIEW_H
#define VIEW_VIEW_H

#include <plenum/error.h>
#include <plenum/space.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    VIEW_CHAIN = 16,    /* directories over one another, at most; with those of the tops that one is
                           nested in PL_SPACE_STACK */
    VIEW_PAIRS = 1024,  /* pairs in a view */
    VIEW_PATH = 4096,   /* bytes of a word, with its NUL */
    VIEW_VERSIONS = 64, /* in one list of versions */
};

struct view_map {
    char *top, *lower; /* absolute and clean */
};

struct view_service {
    char *name, *addr; /* addr "": none */
    char *attrs; /* as service_attrs_parse() takes them (base/service_attrs.h), without on, off */
    bool on;
};

/* A directory on a service. */
struct view_put {
    char *dir, *name;
};

struct view_vmap {
    char *name;     /* "": any; without '/': of any directory; else one path */
    char *versions; /* comma-separated, at least one */
};

/* What a path of the view is made of. */
struct view_top {
    const char *path;
    const char *const *dirs; /* the first is the path itself; then what it is over, in order */
    size_t n;                /* 1: only on a service */
};

struct view {
    atomic_uint refs;
    struct view_map *maps; /* in the order they were given, as all of these */
    struct view_service *services;
    struct view_put *puts;
    struct view_vmap *vmaps;
    size_t nmaps, nservices, nputs, nvmaps;
    unsigned debug;
    bool trace, classic;
    struct view_top *tops; /* of all maps and puts, each path once, sorted: parents come first */
    size_t ntops;
};

/* The empty view. -ENOMEM. */
int view_new(struct view **ret);
struct view *view_ref(struct view *view);
void view_unref(struct view *view); /* NULL is fine */

/* What is at `path`, clean: 0: a directory, or nobody can tell; -ENOTDIR: something else; -ENOENT:
 * nothing; -EACCES: who asks may not look into it. The same path without symbolic links takes its
 * place. */
typedef int view_look_fn(void *arg, char path[VIEW_PATH]);

/* The view that `from` becomes by `n` words, an even number. Relative paths begin at `cwd`, which
 * is absolute; "." and ".." are taken out by their letters. `look`, if not NULL, looks at what is
 * there. 0, or, with a sentence that names the word: -EINVAL (an odd word, an unknown option,
 * attribute or service, "..." in a path, no path), -ENOTDIR (something that is no directory),
 * -ELOOP (a top that is over itself), -E2BIG (a limit above), -ENOENT (nothing to remove; a top is
 * to be over what is not there, nor in another top), -EACCES (... over what its user may not look
 * into), -ENAMETOOLONG, -ENOMEM. Then nothing was made.
 */
int view_change(const struct view *from, const char *cwd, const char *const *words, size_t n,
                view_look_fn *look, void *arg, struct view **ret, struct pl_err *err);

/* The text form: words with a space between them, without newline, "" of an empty view; to be
 * freed. NULL: no memory. */
char *view_text(const struct view *view);
/* The same as a NULL-terminated array of words, which was one allocation. Not escaped. */
char **view_words(const struct view *view, size_t *ret_n);
/* The words of a text form (read from a file; whitespace between them, newlines too), NULL-
 * terminated, one allocation. NULL: no memory. */
char **view_split(const char *text, size_t size, size_t *ret_n);

/* `path` made absolute from `cwd` and clean, into VIEW_PATH bytes. -ENAMETOOLONG, -EINVAL ("" or a
 * cwd that is not absolute). */
int view_clean(const char *cwd, const char *path, char ret[VIEW_PATH]);

/* Is `path` `dir` itself or beneath it? Both clean. Then *ret_rest (may be NULL) is what follows:
 * "" or "/...". */
bool view_beneath(const char *path, const char *dir, const char **ret_rest);

/* The outermost top that `path` is in, or NULL: what the mount door mounts. */
const struct view_top *view_outermost(const struct view *view, const char *path);

/* The bindings of the space that has `base` (a path; "/" for everything) as its root, in order:
 * that directory itself, to create in, then what the tops from it on down are over, each behind.
 * `tree` (which may be NULL) is put into each; paths are of the host. One allocation, to be freed;
 * strings too are in it. -ENOMEM. */
int view_bindings(const struct view *view, const char *base, struct pl_tree *tree,
                  struct pl_binding **ret, size_t *ret_n);

/* The i-th service, from 0, that `path` (clean) is on, those that are off too; or NULL. */
const struct view_service *view_service_at(const struct view *view, const char *path, size_t i);

/* The versions that `path` may be, in order, as they are to be tried: those of the path, of its
 * name, of any. Each call gives the list number i, comma-separated, or NULL. */
const char *view_versions(const struct view *view, const char *path, size_t i);

#endif
