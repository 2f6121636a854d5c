/* SPDX-License-Identifier: MIT */
/*
 * SPECs: the text form of trees (plenum-spec(7)).
 *
 * A SPEC is parsed first and opened later, in the process that serves it; between the two it is
 * plain data, so that a usage error is told before anything is started. The kinds stand in two
 * tables (spec_source.c, spec_layer.c), which `plenum help spec` prints.
 */
#ifndef CMD_SPEC_H
#define CMD_SPEC_H

#include "channel/channel.h"
#include "cmd/mountopt.h"
#include <plenum/tree.h>
#include <stdio.h>

struct spec;

/* Parses; paths become absolute. -EINVAL or -ENOMEM with the sentence. */
int spec_parse(const char *text, struct spec **ret, struct pl_err *err);
void spec_free(struct spec *spec);
/* The SPEC as text with absolute paths, valid until spec_free. */
const char *spec_text(const struct spec *spec);

struct pl_keep;
struct far;
struct p9_conn;

/* Who wants to know what becomes of a connection under the tree (a 9p, ssh or exec source). */
struct spec_watch {
    struct linkopt link;
    void (*lost)(void *arg, const char *sentence); /* for good; in a thread of the engine; must not
                                                     block */
    void (*changed)(void *arg, const char *sentence); /* see far_how */
    /* A connection is ready to be used. */
    void (*ready)(void *arg, const struct far *far, struct p9_conn *conn);
    const char *left; /* the id of a link whose process was killed: it is given up; or NULL, "" */
    void *arg;
    struct pl_keep *keep; /* what a predecessor left, for who gives it to pl_keep() too; or NULL. A
                             host directory is the one that was served, even if its path leads
                             elsewhere by now: onto the mount itself, perhaps */
};
/* The far end of such a connection. */
struct spec_far {
    char peer[128];   /* escaped; "": there is none */
    const char *note; /* what the user ought to be warned of, as in struct chan */
    struct far *far;  /* as long as the tree is there (cmd/far.h); or NULL */
};
/* Opens what the SPEC names. May block. `watch` may be NULL (then a break is the end), and must
 * outlive the tree; `ret_far` may be NULL. */
int spec_open(const struct spec *spec, const struct spec_watch *watch, struct spec_far *ret_far,
              struct pl_tree **ret, struct pl_err *err);

/* The table for people. */
void spec_help(FILE *out);

/* The crew that all connections of this process's trees share; made on first use. */
struct p9_crew *spec_crew(void);

#endif
