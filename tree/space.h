/* SPDX-License-Identifier: MIT */
/*
 * The space, inside. include/plenum/space.h and docs/spaces.md say what it does.
 *
 * How it is built
 *  - A *table* is made of the bindings, and never changes: pl_space_set() and its like make
 * another. It is a small tree of *spots*, the names that lead to bindings. A spot with bindings has
 * a *point*: the list of *layers* of its directory and all below it, first come first: its own
 *    bindings and, if they were bound before or after, the layers of the point above. Layer `top`
 * is the one that takes what is new; what is found in a layer behind it is copied up.
 *  - A *stack* is what one object consists of: pairs (layer, lower node), one unless it is a merged
 *    directory; none if it is a directory that only leads to a binding. It never changes; a node
 *    gets another one.
 *  - A *node* (struct snode) has a stack and a *place* (parent, name) by which it can be copied up.
 *    A directory is one node by its place; everything else by (binding, lower node), so that hard
 *    links are one node; with the point where it could be copied up, for then the same file seen
 *    through two points is two. A lower node is counted by us, so its address is its identity.
 *  - A lookup (space_find) goes through the layers each time, and then finds the node, or makes it
 *    (space_node). Numbers: the first layer's stay; those of the others are mixed with their slot.
 *    An object that was copied up has the number of its origin, noted in its xattr
 *    user.plenum.origin, or while it is known.
 *  - What a lookup found may be copied up, and its node be gone again, before it has a node of its
 *    own: then that would be one of the past. `changes` tells, and it looks again (space_child).
 *  - What is done behind a caller's back (looking behind the first layer, copying up, whiteouts) is
 *    done as the owner of the space, this process: his call is lent our credentials for that time
 *    (space_self), so that it can still be cancelled. What the caller may do was judged before, by
 *    the front: its tree, or its attributes where the tree is not asked to do the very thing.
 *
 * Locks, in the order in which they may be taken together
 *   setting   (a mutex) whoever changes the bindings
 *   moves     (a hold) whoever moves a directory
 *   node hold of a file: whoever copies it up
 *   node hold of directories, by address: whoever changes which names there are
 *   links     (a hold) whoever changes how many names of a copy are only behind
 *   doors     (a hold) whoever makes a directory of his writable for a moment
 *   names     (a mutex) the table of nodes, places, stacks and the table of bindings; never held
 *             across an op of a tree, nor when a reference to a node is dropped
 *   holds     (a mutex) guards all `held`; inside nothing else
 * A hold may be kept for long (a file is copied): who waits for it heeds his call.
 */
#ifndef TREE_SPACE_H
#define TREE_SPACE_H

#include <plenum/space.h>

#define SPACE_HIDDEN         ".wh."     /* how names begin that are ours */
#define SPACE_OPAQUE         ".wh..opq" /* in a directory: nothing behind counts */
#define SPACE_TEMP           ".wh..t."  /* what has not got its name yet */
#define SPACE_ORIGIN         "user.plenum.origin"
#define SPACE_TRUSTED_ORIGIN "trusted.plenum.origin"
#define SPACE_IMPURE         "user.plenum.impure" /* of a directory: in it are objects with an origin */

/* ---- the table of bindings ---- */

struct space_bind {
    atomic_uint refs;
    struct pl_tree *tree;
    char *path, *sub;
    uint32_t how;
    atomic_bool no_char,
        no_swap; /* it has said no to whiteouts of overlayfs's form; to exchanges */
    atomic_bool no_trusted, no_xattr; /* ... to trusted.*; to all xattrs */
    atomic_bool heard;                /* changes in it are told: see space_watch.c */
};

struct space_layer {
    struct space_bind *bind;
    uint32_t slot; /* mixed into its numbers */
    bool own;      /* the binding is of this point, not of one above */
};

struct space_point {
    atomic_uint refs;
    struct space_point *_Atomic behind; /* the view without the first layer ("..."); a reference */
    int n, top;                         /* top -1: read-only */
    int above, nabove;                  /* layers [above, above + nabove) are the upper point's */
    bool is_file;
    struct space_layer layer[PL_SPACE_STACK];
};

struct space_spot {
    char *name;
    struct space_spot *parent, *child, *next;
    struct space_point *point; /* a reference if `here`, else that of the spot above */
    bool here;
    uint64_t ino; /* where no tree has the directory */
};

struct space_table {
    atomic_uint refs;
    struct space_spot *root;
    struct space_bind **bind;
    size_t n;
};

/* ---- nodes ---- */

struct space_entry {
    int k; /* the layer */
    struct pl_node *node;
};

struct space_stack {
    atomic_uint refs;
    int n;
    struct space_table *table; /* a reference */
    struct space_point *point;
    struct space_spot *spot; /* NULL: no binding at or below it */
    /* Of a directory: the layers (1 << k) of which it is told when there is something else in it,
     * or something at all, of what this stack is made of. */
    _Atomic uint32_t told;
    struct space_key *seen; /* while it is a node's: how the node is found by its entries */
    struct space_entry e[];
};

struct space_key {
    struct space_key *next;
    struct snode *node;
    const void *a, *b;
    uint64_t c;
};

struct snode {
    struct pl_node node;
    bool held;          /* guarded by `holds` */
    bool rises;         /* its locks are ours: it was found where it may be copied up from */
    atomic_bool gone;   /* its name at its place was removed. Written with `names` held */
    atomic_bool raised; /* it was copied up while it was known */
    atomic_bool hollow; /* a file whose content is in a layer behind: see space_content() */
    atomic_uint hidden; /* names of a lower file that whiteouts have taken away */
    uint8_t nkeys;      /* of key[]: the second is of the copy. From here on guarded by `names` */
    uint64_t ino;       /* never changes */
    struct space_stack *stack;
    struct snode *parent; /* the place; NULL: unknown, or the root */
    char *name;
    struct space_key key[2];
    struct pl_locks *locks; /* NULL until needed */
};

struct space {
    struct pl_tree tree;
    _Atomic uint32_t flags;
    bool ro;
    struct pl_cred self;
    struct timespec born;
    pthread_mutex_t setting; /* before all others: whoever changes the bindings */
    pthread_mutex_t names;
    struct space_key **slot;
    size_t mask, nkeys;
    struct space_table *_Atomic table;
    struct snode *root;
    pthread_mutex_t holds;
    pthread_cond_t freed;
    unsigned waiting;
    bool moving;   /* the hold `moves` */
    bool counting; /* the hold `links` */
    bool opening;  /* the hold `doors` */
    atomic_uint_fast64_t next_temp;
    atomic_uint_fast64_t changes;      /* counts copies that got their name, and names that moved */
    struct space_watch *_Atomic watch; /* NULL: nobody has watched yet */
};

/* An open file. `lower` is of the first entry of the stack as it was then; NULL: of a directory
 * that no tree has. */
struct space_list;
struct sfile {
    struct pl_file file;
    struct space_stack *stack; /* a reference */
    struct pl_tree *tree;
    struct pl_file *lower;
    struct pl_lock_owners owners;
    bool below;            /* its object could be copied up since */
    pthread_mutex_t mutex; /* guards the two below, and that `copy` is set once */
    struct space_list *list;
    struct pl_tree *copy_tree;
    struct pl_file *_Atomic copy; /* what is read after it was copied up; NULL until then */
};

#define SPACE_T struct pl_tree *tree, struct pl_call *call

static inline struct space *space_of(struct pl_tree *tree)
{
    return (struct space *)tree;
}

static inline struct snode *snode_of(struct pl_node *node)
{
    return (struct snode *)node;
}

static inline struct sfile *sfile_of(struct pl_file *file)
{
    return (struct sfile *)file;
}

static inline struct pl_tree *space_tree(const struct space_point *p, int k)
{
    return p->layer[k].bind->tree;
}

/* Changes of what layer k holds are made in place there. */
static inline bool space_in_place(const struct space_point *p, int k)
{
    return k <= p->top;
}

/* ---- space_table.c ---- */
int space_table_new(struct space *s, const struct pl_binding *b, size_t n, struct space_table *old,
                    struct space_table **ret, struct pl_err *err);
struct space_table *space_table_ref(struct space_table *t);
void space_table_unref(struct space_table *t);
struct space_spot *space_spot(const struct space_spot *in, const char *name);
/* Its path, for a sentence; cut if it is longer. */
enum { SPACE_SAID = 256 };
const char *space_spot_path(const struct space_spot *sp, char path[SPACE_SAID]);
/* The point's view without its first layer, good as long as it; NULL: there is nothing behind. */
struct space_point *space_behind(struct space_point *p);
/* The directory or file that layer k is of, as the space's owner; `make`: made if it is missing. */
int space_layer_root(struct space *s, struct pl_call *call, struct space_point *p, int k, bool make,
                     struct pl_node **ret, struct pl_attr *attr);

/* ---- space_node.c ---- */

/* What a lookup has found; its nodes are references until they are taken (space_found_done). */
struct space_found {
    struct space_table *table;
    struct space_point *point;
    struct space_spot *spot;
    int n;
    uint32_t fmt;
    bool again;   /* it was looked for a second time */
    bool indexed; /* e[0] is the copy of what has the name behind, in layer `under` */
    bool hollow;  /* of a file: its content is in a layer behind */
    int under;
    unsigned hidden;     /* names of e[0] that have been removed, though they are behind still */
    uint64_t version;    /* of a merged directory: see space_version(); 0: not known */
    uint32_t told;       /* as of the stack; first that of the directory it was looked for in */
    uint64_t changes;    /* s->changes before it was looked for */
    struct pl_attr attr; /* of e[0], as its tree says */
    struct space_entry e[PL_SPACE_STACK];
};
void space_found_done(struct space_found *f);
void space_found_dup(struct space_found *to, const struct space_found *f);

/* The node of what was found as `name` in `dir` (NULL: nowhere), with a reference; `f` is done
 * with. -EAGAIN: it has changed since. */
int space_node(struct space *s, struct pl_call *call, struct snode *dir, const char *name,
               struct space_found *f, struct snode **ret);
/* The node that a name of the directory, with that stack, stands for, with a reference; `attr` as
 * its tree says. */
int space_child(struct space *s, struct pl_call *call, struct snode *dir,
                const struct space_stack *st, const char *name, struct snode **ret,
                struct pl_attr *attr);
/* The node of what was found, if it is known, with a reference; or NULL. */
struct snode *space_node_at(struct space *s, struct snode *dir, const char *name,
                            const struct space_found *f);
struct space_stack *space_stack(struct space *s, struct snode *n); /* a reference */
void space_stack_unref(struct space_stack *st);
/* The stack has a new entry of layer k (a reference, taken over), instead of what it had there and,
 * if the node is no directory, of all it had. */
int space_stack_add(struct space *s, struct snode *n, int k, struct pl_node *lower);
/* What was found, looked for when s->changes was `before`, is its stack now: a reference, taken
 * over. False: something was copied up or moved since, so that it may be less than is there. */
bool space_stack_set(struct space *s, struct snode *n, struct space_stack *st, uint64_t before);
struct space_stack *space_stack_new(const struct space_found *f); /* takes f's references */
/* Its place (as it was, if it is gone), referenced and copied; false: it has none. */
bool space_place(struct space *s, struct snode *n, struct snode **parent,
                 char name[PL_NAME_MAX + 1]);
/* It has got this place / the name that is its place was removed. */
int space_moved(struct space *s, struct snode *n, struct snode *dir, const char *name);
void space_lost(struct space *s, struct snode *n, struct snode *dir, const char *name);
/* The number that what was found has. */
uint64_t space_found_number(struct space *s, struct pl_call *call, const struct space_found *f);
bool space_is_under(struct space *s, struct snode *n, const struct snode *top);
void space_release(struct pl_tree *tree, struct pl_node *node);
uint64_t space_number(const struct space_point *p, int k, uint64_t ino);

int space_hold(struct space *s, struct pl_call *call, bool *held);
void space_let(struct space *s, bool *held);
/* Two directories (which may be one). */
int space_hold_both(struct space *s, struct pl_call *call, struct snode *a, struct snode *b);
void space_let_both(struct space *s, struct snode *a, struct snode *b);

/* The caller's call acts as the space's owner from here to space_back(). Where all that is asked is
 * in the top, or before it, call->own may be set then: see there. What is behind is never touched.
 */
struct space_as {
    struct pl_cred cred;
    mode_t umask;
    struct pl_intent *intent;
    bool loaded, plus, own;
};
struct space_as space_self(struct space *s, struct pl_call *call);
void space_back(struct pl_call *call, const struct space_as *as);

/* The known nodes (at most `max`) that have this lower one in their stack, with references; how
 * many there are. */
size_t space_seen(struct space *s, const struct pl_node *lower, struct snode **ret, size_t max);
/* The directory that is known under a name, with a reference, or NULL. */
struct snode *space_known(struct space *s, struct snode *dir, const char *name);

/* ---- space_watch.c: what others change in the trees ---- */
int space_watch(struct pl_tree *tree, struct pl_watcher *to, char how[64]);
void space_watch_free(struct space *s);
/* With `setting` held: the bindings are those of `now`, `old` (NULL: none) those before. */
void space_watch_table(struct space *s, struct space_table *old, struct space_table *now);
/* What is found in the binding's tree, with these attributes of its, is told of. */
bool space_hears(const struct space_bind *b, const struct pl_attr *attr);
/* The `told` of an object, whose tree says `attr` of the first of its stack. */
bool space_told(struct space *s, struct snode *n, const struct space_stack *st,
                const struct pl_attr *attr);
/* It was copied up: attributes are others that nobody has set. */
void space_raised(struct space *s, struct snode *n);

/* ---- space_find.c ---- */
bool space_is_hidden(const char *name);
/* What `name` in the directory is, layers `from` and after alone; -ENOENT. The stack is the node's
 * or of anything else; bindings count only if from is 0. */
int space_find(struct space *s, struct pl_call *call, struct snode *dir,
               const struct space_stack *st, const char *name, int from, struct space_found *f);
int space_root_find(struct space *s, struct pl_call *call, struct space_table *t,
                    struct space_found *f);
/* May the bindings stand so? -ENOTDIR and others, with the sentence. */
int space_check(struct space *s, struct pl_call *call, struct space_table *t, struct pl_err *err);
/* The stack of a directory, made anew if the bindings have changed; a reference. */
int space_dir(struct space *s, struct pl_call *call, struct snode *dir, struct space_stack **ret);
/* What one layer's directory has under a name. */
/* The bytes of a hollow file: the tree and the node (a reference) that have them. -EIO: they are
 * nowhere. As the owner. */
int space_content(struct space *s, struct pl_call *call, struct snode *n, struct pl_tree **ret_tree,
                  struct pl_node **ret);
enum space_there { SPACE_NOTHING, SPACE_WHITE, SPACE_COVERED /* .wh.NAME */, SPACE_THERE };
int space_look(struct space *s, struct pl_call *call, struct pl_tree *tree, struct pl_node *dir,
               const char *name, struct pl_node **ret, struct pl_attr *attr);
bool space_is_white(const struct pl_attr *attr);
int space_covered(struct pl_call *call, struct pl_tree *tree, struct pl_node *dir,
                  const char *name);
int space_lookup(SPACE_T, struct pl_node *dir, const char *name, struct pl_node **ret,
                 struct pl_attr *attr);
/* The entry of layer k, or NULL. */
struct pl_node *space_entry(const struct space_stack *st, int k);

/* ---- space_marks.c: what is noted in trees. All as the space's owner ---- */
/* What a directory's marks say. */
struct space_marks {
    bool opaque, impure;
    uint64_t origin;                /* 0: none */
    char redirect[PL_PATH_MAX + 1]; /* "": none */
};
int space_marks(struct pl_call *call, struct pl_tree *tree, struct pl_node *node,
                struct space_marks *m);
/* Of what is in the top. */
uint64_t space_origin(struct pl_call *call, struct pl_tree *tree, struct pl_node *node);
/* Sets one, in the top; also of what its owner has made read-only (call->own). */
int space_put(struct pl_call *call, struct pl_tree *tree, struct pl_node *node, const char *name,
              const char *value);
void space_note_origin(struct pl_call *call, struct space_bind *b, struct pl_node *node,
                       uint64_t ino);
void space_note_impure(struct pl_call *call, struct space_bind *b, struct pl_node *dir);
int space_note_opaque(struct pl_call *call, struct space_bind *b, struct pl_node *dir);
int space_note_redirect(struct pl_call *call, struct space_bind *b, struct pl_node *dir,
                        const char *path);
bool space_own_xattr(const char *name);
/* What an xattr of the space is called in its trees: overlayfs's marks are another's there, and
 * escaped as overlayfs does. -ENODATA: it cannot be. And back, in place: false, it is not shown. */
int space_xattr_in(const char *name, char below[PL_NAME_MAX + 1], const char **ret);
bool space_xattr_out(char *name);
/* Does it hide its name? A device 0/0, or an empty file with a mark, in a directory that says that
 * it has such files. As the owner, and so the next ones. */
bool space_is_whiteout(struct pl_call *call, struct pl_tree *tree, struct pl_node *dir,
                       struct pl_node *node, const struct pl_attr *attr);
bool space_has_whites(struct pl_call *call, struct pl_tree *tree, struct pl_node *dir);
/* Is the file's content still in a layer behind (overlayfs's metacopy)? It is not any more. */
bool space_is_hollow(struct pl_call *call, struct pl_tree *tree, struct pl_node *node);
int space_note_filled(struct pl_call *call, struct pl_tree *tree, struct pl_node *node);
/* Hides `name`; `there`: what has it in that directory now (its fmt), 0: nothing. */
int space_whiteout(struct space *s, struct pl_call *call, struct space_bind *b, struct pl_node *dir,
                   const char *name, uint32_t there);
/* Makes `.wh.NAME`; takes it away, if it is there. */
int space_cover(struct pl_call *call, struct space_bind *b, struct pl_node *dir, const char *name);
void space_uncover(struct pl_call *call, struct space_bind *b, struct pl_node *dir,
                   const char *name);
/* Takes all hidden names out of a directory, which is to be replaced or removed. */
int space_sweep(struct space *s, struct pl_call *call, struct space_bind *b, struct pl_node *dir);
void space_temp_name(struct space *s, char name[64]);

/* ---- space_index.c ---- */
/* The copy of the object behind of that number; -ENOENT. */
int space_index_find(struct space *s, struct pl_call *call, struct space_point *p, uint64_t ino,
                     struct pl_node **ret, struct pl_attr *attr);
/* Enters a copy, of whose origin `links` names are only behind. As the owner. */
int space_index_add(struct space *s, struct pl_call *call, struct space_point *p,
                    struct pl_node *copy, uint64_t ino, uint64_t links);
/* How many names of its origin are only behind; -1: it is in no index. As the owner. */
int64_t space_index_links(struct pl_call *call, struct pl_tree *tree, struct pl_node *node);
/* How many of its names have been removed, while there was no copy. */
unsigned space_index_gone(struct space *s, struct pl_call *call, struct space_point *p,
                          uint64_t ino);
/* One name is no longer only behind. */
void space_index_less(struct space *s, struct pl_call *call, struct space_point *p,
                      struct pl_node *copy);
/* The name that was found has been removed. */
void space_index_dropped(struct space *s, struct pl_call *call, struct space_found *f);

/* ---- space_up.c ---- */
/* The name in the directory, which stands for a copy by way of the index, is a name in the top. */
int space_up_name(struct space *s, struct pl_call *call, struct snode *dir, const char *name);
/* The object is in a layer that takes changes now. `content` false: a file's content is not wanted.
 * Its call acts for the caller. */
int space_up(struct space *s, struct pl_call *call, struct snode *n, bool content);
/* The directory has an entry in its top. */
int space_up_dir(struct space *s, struct pl_call *call, struct snode *n);
/* All below it, and it is opaque then. */
int space_up_all(struct space *s, struct pl_call *call, struct snode *n);

/* ---- space_attr.c ---- */
/* Of a directory that no tree has: it leads to a binding, or is still to be made. */
void space_spot_attr(const struct space *s, const struct space_point *point,
                     const struct space_spot *spot, struct pl_attr *attr);
void space_attr(struct space *s, struct pl_call *call, struct snode *n,
                const struct space_stack *st, struct pl_attr *attr);
/* Changes when there are other names in what is behind the first of a merged directory, for whoever
 * is not told of that. */
uint64_t space_version(struct space *s, struct pl_call *call, const struct space_stack *st);
static inline uint64_t space_mixed(uint64_t h, const struct pl_attr *behind)
{
    h = (h ^ behind->ino) * 0x9e3779b97f4a7c15u;
    h = (h ^ (uint64_t)behind->mtime.tv_sec) * 0xc2b2ae3d27d4eb4fu;
    h = (h ^ (uint64_t)behind->mtime.tv_nsec) * 0xd6e8feb86659fd93u;
    return h ^ h >> 29;
}
int space_getattr(SPACE_T, struct pl_node *node, struct pl_file *file, struct pl_attr *attr);
int space_setattr(SPACE_T, struct pl_node *node, struct pl_file *file, const struct pl_setattr *set,
                  struct pl_attr *attr);
int space_access(SPACE_T, struct pl_node *node, int mask);
/* Is what layer k holds behind the top, and the caller an ordinary user whose copy would be his? */
bool space_is_mine(const struct space *s, const struct pl_call *call, const struct space_point *p,
                   int k);
/* The same for an object whose tree may say EROFS: it will be copied up. */
int space_may(struct space *s, struct pl_call *call, const struct space_stack *st, int mask);
int space_readlink(SPACE_T, struct pl_node *node, char *buf, size_t size);
int space_statfs(SPACE_T, struct pl_node *node, struct statfs *st);
int space_syncfs(SPACE_T, struct pl_node *node);
ssize_t space_getxattr(SPACE_T, struct pl_node *node, const char *name, void *buf, size_t size);
int space_setxattr(SPACE_T, struct pl_node *node, const char *name, const void *buf, size_t size,
                   int flags);
int space_removexattr(SPACE_T, struct pl_node *node, const char *name);
ssize_t space_listxattr(SPACE_T, struct pl_node *node, char *buf, size_t size);

/* ---- space_name.c ---- */
int space_make(SPACE_T, struct pl_node *dir, const char *name, const struct pl_make *make,
               struct pl_node **ret, struct pl_attr *attr);
int space_link(SPACE_T, struct pl_node *node, struct pl_node *dir, const char *name,
               struct pl_attr *attr);
int space_remove(SPACE_T, struct pl_node *dir, const char *name, int flags);
int space_create(SPACE_T, struct pl_node *dir, const char *name, int flags, mode_t mode,
                 struct pl_node **ret, struct pl_attr *attr, struct pl_file **ret_file);
int space_tmpfile(SPACE_T, struct pl_node *dir, int flags, mode_t mode, struct pl_node **ret,
                  struct pl_attr *attr, struct pl_file **ret_file);
/* A directory in which a name is to be changed: held, and looked into. */
struct space_side {
    struct snode *dir;
    const char *name;
    struct space_stack *st; /* a reference */
    bool bound;             /* a binding is there, or below: not to be moved */
    bool there;
    struct space_found f; /* of the name, if it is there */
};
/* With the directory held. */
int space_side(struct space *s, struct pl_call *call, struct snode *dir, const char *name,
               struct space_side *side);
void space_side_done(struct space_side *side);
/* May the caller take what is there out of the directory, or add to it? -EROFS */
int space_may_take(struct space *s, struct pl_call *call, const struct space_side *side);
int space_may_add(struct space *s, struct pl_call *call, const struct space_side *side);
/* -ENOTEMPTY unless the directory that was found has nothing in it. */
int space_is_empty(struct space *s, struct pl_call *call, const struct space_found *f);
/* Have the layers behind w the name too? 1, 0 or an error. */
int space_is_behind(struct space *s, struct pl_call *call, const struct space_side *side, int w);
/* For a successor (struct pl_intent): the number of what is there, 0: nothing, and its birth. */
void space_note(struct space *s, struct pl_call *call, struct space_side *side,
                _Atomic uint64_t *ino, _Atomic uint32_t *born);
/* Its name is given to nothing, or to something else. */
void space_forget(struct space *s, struct space_side *side);
bool space_is_ours(const struct space *s, const char *name); /* not a name that can be made */

/* ---- space_rename.c ---- */
int space_rename(SPACE_T, struct pl_node *olddir, const char *oldname, struct pl_node *newdir,
                 const char *newname, unsigned flags);

/* ---- space_file.c ---- */
int space_open(SPACE_T, struct pl_node *node, int flags, struct pl_file **ret);
/* An open file of a lower one, which is taken over, also when it fails. */
int space_opened(struct space *s, struct pl_call *call, struct space_stack *st, struct pl_tree *in,
                 struct pl_file *lower, struct pl_file **ret);
int space_close(SPACE_T, struct pl_file *file);
int space_resume(SPACE_T, struct pl_node *node, int flags, int kept, struct pl_file **ret);
int space_flush(SPACE_T, struct pl_file *file, uint64_t owner);
ssize_t space_read(SPACE_T, struct pl_file *file, void *buf, size_t n, uint64_t off);
ssize_t space_write(SPACE_T, struct pl_file *file, const void *buf, size_t n, uint64_t off);
int64_t space_seek(SPACE_T, struct pl_file *file, uint64_t off, int whence);
int space_fsync(SPACE_T, struct pl_file *file, bool data_only);
int space_fallocate(SPACE_T, struct pl_file *file, int mode, uint64_t off, uint64_t len);
ssize_t space_copy(SPACE_T, struct pl_file *in, uint64_t off_in, struct pl_file *out,
                   uint64_t off_out, size_t n);
int space_lock(SPACE_T, struct pl_file *file, const struct pl_lock *lock);
int space_getlock(SPACE_T, struct pl_file *file, struct pl_lock *lock);
int space_poll(SPACE_T, struct pl_file *file, struct pl_poller *poller);
int space_ioctl(SPACE_T, struct pl_file *file, unsigned cmd, void *buf, size_t in_size,
                size_t out_size);

/* ---- space_list.c: directories ---- */
int space_readdir(SPACE_T, struct pl_file *dir, uint64_t off, pl_fill_fn *fill, void *arg);
void space_list_free(struct space_list *l);
/* The names of a directory, as the space's owner, each with fn() until it returns other than 0. */
int space_each_name(struct space *s, struct pl_call *call, const struct space_stack *st,
                    int (*fn)(void *arg, const char *name), void *arg);

#endif
