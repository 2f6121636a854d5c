/* SPDX-License-Identifier: MIT */
/* Inside SPECs: spec.c takes them apart by the kinds of spec_source.c and spec_layer.c. */
#ifndef CMD_SPEC_PRIV_H
#define CMD_SPEC_PRIV_H

#include "base/service_attrs.h"
#include "cmd/spec.h"

#define SPEC_ADDRS 16

struct spec_kind;
struct spec {
    const struct spec_kind *kind;
    char *text;                  /* canonical */
    char *rest;                  /* a source's text behind the colon, or a path */
    char *addrs[SPEC_ADDRS + 1]; /* 9p and exec; NULL-terminated */
    size_t naddrs;
    char *aname; /* 9p */
    char *uname, *version;
    bool sync;
    int64_t number; /* mem's size, delay's ns */
    int op, error;  /* fault */
    uint64_t skip, count;
    struct pl_map *map;
    uint32_t flags;                /* union: enum pl_space_flags */
    bool ro;                       /* union */
    struct service_attrs *service; /* its name is in rest, its address the first */
    struct spec *lower;            /* a layer's */
    struct spec *next;             /* of the trees of a union: the one behind */
};

struct opening {
    const struct spec_watch *watch;
    struct spec_far *far;
    bool reads; /* an ro layer is above */
};

struct spec_kind {
    const char *name, *form, *what, *example;
    /* Takes `text`: what stands behind the colon, or between the parentheses. A layer leaves the
     * lower tree's SPEC in *ret_lower (a pointer into text). */
    int (*parse)(struct spec *s, char *text, char **ret_lower, struct pl_err *err);
    int (*open)(const struct spec *s, const struct opening *o, struct pl_tree **ret,
                struct pl_err *err);
    struct pl_tree *(*over)(const struct spec *s, struct pl_tree *lower); /* NULL: see open */
    bool many;  /* over several trees, with commas between them */
    bool reads; /* what is below is not changed by way of it */
};

/* Each ends with a kind without a name. */
extern const struct spec_kind spec_sources[], spec_layers[];

int spec_no_memory(struct pl_err *err);

#endif
