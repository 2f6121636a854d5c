/* SPDX-License-Identifier: MIT */
/* The kinds of trees that a SPEC begins with: those of this host, and those at the other end of a
 * connection. */
#include "base/text.h"
#include "cmd/far.h"
#include "cmd/spec_priv.h"
#include "cmd/util.h"
#include "sources/host.h"
#include <errno.h>
#include <limits.h>
#include <plenum/sources.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* ---- connections ---- */

/* One crew for all: it is kept until the process ends, since trees may come and go. */
static struct p9_crew *crew;
static void crew_make(void)
{
    crew = p9_crew_new(0);
}

struct p9_crew *spec_crew(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, crew_make);
    return crew;
}

static const char *user_of(const struct spec *s, char buf[256])
{
    return s->uname ? s->uname : util_user(buf, 256);
}

/* The tree at the other end of what `how` says; how->own is taken over. */
static int open_far(const struct spec *s, const char *aname, struct far_how *how,
                    const struct opening *o, struct pl_tree **ret, struct pl_err *err)
{
    const struct spec_watch *w = o->watch;
    struct far_peer peer;
    struct far *far;
    struct p9_conn *conn;
    char user[256];
    how->version = s->version;
    how->opts = (struct linkopt){0}; /* for nobody who would know of it */
    if (w) {
        how->opts = w->link;
        how->lost = w->lost;
        how->changed = w->changed;
        how->ready = w->ready;
        how->left = w->left;
        how->arg = w->arg;
    }
    if (far_new(how, &far) < 0) {
        free(how->own);
        return spec_no_memory(err);
    }
    int r = far_dial(far, &peer, &conn, err);
    if (r == 0) {
        struct pl_call call;
        struct pl_p9_opts p9 = {.aname = aname, .uname = user_of(s, user), .sync = s->sync};
        pl_call_init_self(&call);
        r = far_use(far, conn, &call, err);
        if (r == 0)
            r = far_tree(far, conn, &p9, ret, err);
        pl_call_done(&call);
        if (r < 0)
            p9_conn_free(conn);
    }
    if (r < 0) {
        far_free(far);
        return r;
    }
    if (o->far) {
        *o->far = (struct spec_far){.far = far, .note = peer.note};
        snprintf(o->far->peer, sizeof(o->far->peer), "%s", peer.name);
    }
    return 0;
}

/* ---- kinds ---- */

static int path_parse(struct spec *s, char *text, char **lower, struct pl_err *err)
{
    if (!*text)
        return pl_fail(err, -EINVAL, "host: a directory is missing (as in host:/srv)");
    char *abs = util_absolute(text);
    if (!abs)
        return pl_fail(err, -EINVAL, "%s: no such user or no memory", text);
    /* A path that is there is shown as it really is; one that is not fails when it is opened. */
    s->rest = realpath(abs, NULL);
    if (!s->rest)
        s->rest = abs;
    else
        free(abs);
    return asprintf(&s->text, "host:%s", s->rest) < 0 ? spec_no_memory(err) : 0;
}

static int dir_open(const struct spec *s, const struct opening *o, struct pl_tree **ret,
                    struct pl_err *err)
{
    return host_open_kept(s->rest, o->reads ? HOST_READS : HOST_CHANGES,
                          o->watch ? o->watch->keep : NULL, ret, err);
}

static int mem_parse(struct spec *s, char *text, char **lower, struct pl_err *err)
{
    s->number = *text ? text_size(text) : 0;
    if (s->number < 0 || (*text && s->number == 0))
        return pl_fail(err, -EINVAL, "mem:%s: not a size (as in mem:64M, or mem: alone)", text);
    return asprintf(&s->text, "mem:%s", text) < 0 ? spec_no_memory(err) : 0;
}

static int mem_open(const struct spec *s, const struct opening *o, struct pl_tree **ret,
                    struct pl_err *err)
{
    return pl_mem_new((uint64_t)s->number, ret, err);
}

/* What may stand behind an address, which may have commas in it itself. */
static const char *const marks[] = {",or=", ",aname=", ",uname=", ",version=", ",sync"};
enum { MARK_OR, MARK_ANAME, MARK_UNAME, MARK_VERSION, MARK_SYNC, MARKS };

/* The first of them in the text: it is cut off there, and what is behind it returned; or NULL. */
static char *cut_mark(char *text, int *which)
{
    char *first = NULL;
    for (int i = 0; i < MARKS; i++) {
        char *found = strstr(text, marks[i]);
        if (found && (!first || found < first)) {
            first = found;
            *which = i;
        }
    }
    if (!first)
        return NULL;
    *first = 0;
    return first + strlen(marks[*which]);
}

static int add_addr(struct spec *s, const char *addr, struct pl_err *err)
{
    if (!chan_is_addr(addr))
        return pl_fail(err, -EINVAL,
                       "9p:%s: not an address (as in 9p:tcp!host!564, 9p:unix!/run/x; see plenum "
                       "help addr)",
                       addr);
    int r = chan_check(addr, err);
    if (r < 0)
        return r;
    if (s->naddrs == SPEC_ADDRS)
        return pl_fail(err, -EINVAL, "%s: more than %d addresses", s->text, SPEC_ADDRS);
    s->addrs[s->naddrs] = strdup(addr);
    return s->addrs[s->naddrs++] ? 0 : spec_no_memory(err);
}

static int check_version(const struct spec *s, struct pl_err *err)
{
    static const char *const known[] = {P9_VERSION, P9_VERSION_U, P9_VERSION_L};
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
        if (!strcasecmp(s->version, known[i]))
            return 0;
    return pl_fail(err, -EINVAL, "version=%s: no such dialect (9p2000, 9p2000.u, 9p2000.L)",
                   s->version);
}

static int p9_parse(struct spec *s, char *text, char **lower, struct pl_err *err)
{
    if (asprintf(&s->text, "9p:%s", text) < 0)
        return spec_no_memory(err);
    int which = MARK_OR, r = 0;
    for (char *next = text; r == 0 && next; text = next) {
        int is = which;
        next = cut_mark(text, &which);
        if (is == MARK_OR) {
            r = add_addr(s, text, err);
            continue;
        }
        if (is == MARK_SYNC) {
            s->sync = true;
            if (*text)
                r = pl_fail(err, -EINVAL, "9p:...,sync%s: sync takes no value", text);
            continue;
        }
        char **to = is == MARK_ANAME ? &s->aname : is == MARK_UNAME ? &s->uname : &s->version;
        free(*to);
        *to = strdup(text);
        r = *to ? 0 : spec_no_memory(err);
    }
    return r == 0 && s->version ? check_version(s, err) : r;
}

static int p9_open(const struct spec *s, const struct opening *o, struct pl_tree **ret,
                   struct pl_err *err)
{
    int r = open_far(s, s->aname, &(struct far_how){.addrs = s->addrs}, o, ret, err);
    bool again = true;
    for (size_t i = 0; i < s->naddrs; i++)
        again = again && chan_again(s->addrs[i]);
    if (r == 0 && again)
        (*ret)->flags |= PL_TREE_LASTING;
    return r;
}

static int exec_parse(struct spec *s, char *text, char **lower, struct pl_err *err)
{
    if (!*text)
        return pl_fail(err, -EINVAL, "exec: a command is missing (as in exec:diod -f ...)");
    if (asprintf(&s->text, "exec:%s", text) < 0 || asprintf(&s->addrs[0], "exec!%s", text) < 0)
        return spec_no_memory(err);
    s->naddrs = 1;
    return 0;
}

static int ssh_parse(struct spec *s, char *text, char **lower, struct pl_err *err)
{
    /* An IPv6 address stands in brackets, as with scp. */
    char *from = *text == '[' ? strchr(text, ']') : strstr(text, "@[") ? strchr(text, ']') : text;
    char *colon = from ? strchr(from, ':') : NULL;
    if (!colon || colon == text)
        return pl_fail(err, -EINVAL,
                       "ssh:%s: a host and a directory are needed (as in ssh:host:/srv)", text);
    if (*text == '-')
        return pl_fail(err, -EINVAL, "ssh:%s: a host's name does not begin with '-'", text);
    if (asprintf(&s->text, "ssh:%s", text) < 0)
        return spec_no_memory(err);
    *colon = 0;
    s->rest = strdup(text);
    s->uname = NULL;
    s->aname = strdup(colon[1] ? colon + 1 : ".");
    return s->rest && s->aname ? 0 : spec_no_memory(err);
}

/* The far end is asked for again as long as the tree is there: it keeps how that is done. */
struct ssh_way {
    struct sshlink link;
    char *args[7];
    char dir[PATH_MAX + 8], host[];
};

static int ssh_open(const struct spec *s, const struct opening *o, struct pl_tree **ret,
                    struct pl_err *err)
{
    size_t n = strlen(s->rest) + 1;
    struct ssh_way *way = calloc(1, sizeof(*way) + n);
    if (!way)
        return spec_no_memory(err);
    memcpy(way->host, s->rest, n);
    /* "host:" keeps a directory with a strange name from being taken for another kind of SPEC. */
    if ((size_t)snprintf(way->dir, sizeof(way->dir), "host:%s", s->aname) >= sizeof(way->dir)) {
        free(way);
        return pl_fail(err, -ENAMETOOLONG, "%s: the path is too long", s->text);
    }
    char *args[] = {"serve", "--remote", "--quiet", "--", way->dir, "stdio", NULL};
    memcpy(way->args, args, sizeof(args));
    way->link = (struct sshlink){.host = way->host, .args = way->args};
    int r = open_far(s, "", &(struct far_how){.ssh = &way->link, .own = way}, o, ret, err);
    if (r == 0) /* a directory over there, whoever serves it */
        (*ret)->flags |= PL_TREE_LASTING;
    return r;
}

const struct spec_kind spec_sources[] = {
    {"host", "host:DIR", "a directory of this host; a path alone means the same",
     "plenum mount host:/srv /mnt", path_parse, dir_open, NULL},
    {"mem", "mem:[SIZE]", "an empty tree in memory, of at most SIZE bytes of content",
     "plenum mount mem:64M /mnt", mem_parse, mem_open, NULL},
    {"9p", "9p:ADDR[,or=ADDR]...[,aname=NAME][,sync]",
     "what a 9P server at ADDR serves; or, while it is away, the next that is there (sync: nothing "
     "is read ahead or written behind)",
     "plenum mount '9p:tcp!host1!564' /mnt", p9_parse, p9_open, NULL},
    {"ssh", "ssh:[USER@]HOST:DIR", "a directory of another host where plenum is installed",
     "plenum mount ssh:host1:/srv /mnt", ssh_parse, ssh_open, NULL},
    {"exec", "exec:COMMAND", "what a command serves that speaks 9P on its stdin and stdout",
     "plenum mount 'exec:plenum serve /srv stdio' /mnt", exec_parse, p9_open, NULL},
    {0},
};
