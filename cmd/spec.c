/* SPDX-License-Identifier: MIT */
/* SPECs taken apart and opened; what kinds there are: spec_source.c, spec_layer.c. */
#include "cmd/spec_priv.h"
#include "cmd/util.h"
#include <errno.h>
#include <plenum/app.h>
#include <plenum/sources.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SPEC_DEPTH 64

int spec_no_memory(struct pl_err *err)
{
    return pl_fail(err, -ENOMEM, "out of memory");
}

static const struct spec_kind *kind_find(const char *name, bool layer)
{
    const struct spec_kind *k = layer ? spec_layers : spec_sources;
    while (k->name && strcmp(k->name, name) != 0)
        k++;
    return k->name ? k : NULL;
}

static int unknown(const char *name, bool layer, const char *text, struct pl_err *err)
{
    const char *names[32];
    size_t n = 0;
    for (const struct spec_kind *k = layer ? spec_layers : spec_sources; k->name && n < 31; k++)
        names[n++] = k->name;
    names[n] = NULL;
    const char *near = util_closest(name, names);
    return pl_fail(err, -EINVAL,
                   "%.200s: no such kind of %s: \"%s\"%s%s%s (see plenum help spec; a directory of "
                   "that name: ./%.100s)",
                   text, layer ? "layer" : "tree", name, near ? ", did you mean \"" : "",
                   near ? near : "", near ? "\"?" : "", text);
}

void spec_free(struct spec *s)
{
    while (s) {
        struct spec *lower = s->lower;
        spec_free(s->next);
        free(s->text);
        free(s->rest);
        for (size_t i = 0; i < s->naddrs; i++)
            free(s->addrs[i]);
        free(s->aname);
        free(s->version);
        free(s->uname);
        pl_map_unref(s->map);
        free(s->service);
        free(s);
        s = lower;
    }
}

const char *spec_text(const struct spec *s)
{
    return s->text;
}

/* The length of the kind's name if text begins with one and `end`, else 0. */
static size_t kind_name(const char *text, char end)
{
    size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-_");
    return n && n < 32 && text[n] == end ? n : 0;
}

static int parse(const char *text, int depth, struct spec **ret, struct pl_err *err);

static int bare_addr(const char *text, struct pl_err *err)
{
    return pl_fail(err, -EINVAL,
                   "%.200s: an address, not a tree (the tree served there: 9p:%.200s)", text, text);
}

/* The comma that ends the first SPEC of several, or NULL: not in parentheses. */
static char *spec_end(char *text)
{
    int depth = 0;
    for (; *text; text++) {
        depth += (*text == '(') - (*text == ')');
        if (*text == ',' && depth <= 0)
            return text;
    }
    return NULL;
}

/* Parses the trees of a union and completes its text with them. */
static int parse_many(struct spec *s, char *text, int depth, struct pl_err *err)
{
    struct spec **to = &s->lower;
    for (char *end; text; text = end ? end + 1 : NULL, to = &(*to)->next) {
        if ((end = spec_end(text)))
            *end = 0;
        if (!*text)
            return pl_fail(err, -EINVAL, "%s(): a SPEC is missing in it (as in %s)", s->kind->name,
                           s->kind->form);
        int r = parse(text, depth + 1, to, err);
        if (r < 0)
            return r;
        char *whole;
        if (asprintf(&whole, "%s%s%s", s->text, (*to)->text, end ? "," : ")") < 0)
            return spec_no_memory(err);
        free(s->text);
        s->text = whole;
    }
    return 0;
}

/* Parses the tree under a layer and completes the layer's text with it. */
static int parse_lower(struct spec *s, const char *lower, int depth, struct pl_err *err)
{
    if (!*lower)
        return pl_fail(err, -EINVAL, "%s(): a SPEC is missing in it (as in %s)", s->kind->name,
                       s->kind->form);
    int r = parse(lower, depth + 1, &s->lower, err);
    if (r < 0)
        return r;
    char *whole;
    if (asprintf(&whole, "%s%s)", s->text, s->lower->text) < 0)
        return spec_no_memory(err);
    free(s->text);
    s->text = whole;
    return 0;
}

/* What is between the first parenthesis and the last is the layer's: a path in it may have any
 * character, parentheses and commas too. */
static int parse_as(const char *text, size_t name_len, bool layer, int depth, struct spec *s,
                    struct pl_err *err)
{
    char name[32];
    snprintf(name, sizeof(name), "%.*s", (int)name_len, text);
    s->kind = kind_find(name, layer);
    if (!s->kind && !layer && chan_is_addr(text))
        return bare_addr(text, err);
    if (!s->kind)
        return unknown(name, layer, text, err);
    char *inner = strdup(text + name_len + 1), *lower = NULL;
    if (!inner)
        return spec_no_memory(err);
    size_t n = strlen(inner);
    int r = 0;
    if (layer && (!n || inner[n - 1] != ')'))
        r = pl_fail(err, -EINVAL, "%s: the ')' that ends %s( is missing", text, name);
    else if (layer)
        inner[n - 1] = 0;
    if (r == 0)
        r = s->kind->parse(s, inner, &lower, err);
    if (r == 0 && layer)
        r = s->kind->many ? parse_many(s, lower, depth, err) : parse_lower(s, lower, depth, err);
    free(inner);
    return r;
}

static int parse(const char *text, int depth, struct spec **ret, struct pl_err *err)
{
    if (!*text)
        return pl_fail(err, -EINVAL, "an empty SPEC (a path, or KIND:...; see plenum help spec)");
    if (depth > SPEC_DEPTH)
        return pl_fail(err, -EINVAL, "%.100s: more than %d layers", text, SPEC_DEPTH);
    struct spec *s = calloc(1, sizeof(*s));
    if (!s)
        return spec_no_memory(err);
    size_t source = kind_name(text, ':'), layer = kind_name(text, '('), n = strlen(text);
    int r;
    if (layer) {
        r = parse_as(text, layer, true, depth, s, err);
    } else if (source) {
        r = parse_as(text, source, false, depth, s, err);
    } else if (!strchr("/.~", *text) && strchr(text, ':')) {
        r = pl_fail(err, -EINVAL,
                    "%.200s: not a SPEC (a path, or KIND:...; a directory of that name: ./%.100s)",
                    text, text);
    } else {
        char *copy = strdup(text);
        s->kind = kind_find("host", false);
        r = copy ? s->kind->parse(s, copy, NULL, err) : spec_no_memory(err);
        if (r == 0 && chan_is_addr(text) && access(s->rest, F_OK) < 0)
            r = bare_addr(text, err);
        /* The usual cause of a path that is not there and ends so. */
        if (r == 0 && depth && n && text[n - 1] == ')' && !strchr(text, '(') &&
            access(s->rest, F_OK) < 0)
            r = pl_fail(err, -EINVAL, "%s: a ')' too many", text);
        free(copy);
    }
    if (r < 0)
        spec_free(s);
    else
        *ret = s;
    return r;
}

int spec_parse(const char *text, struct spec **ret, struct pl_err *err)
{
    return parse(text, 0, ret, err);
}

static int open_kind(const struct spec *s, struct opening o, struct pl_tree **ret,
                     struct pl_err *err)
{
    struct pl_tree *lower, *tree;
    if (!s->kind->over)
        return s->kind->open(s, &o, ret, err);
    o.reads = o.reads || s->kind->reads;
    int r = open_kind(s->lower, o, &lower, err);
    if (r < 0)
        return r;
    tree = s->kind->over(s, lower); /* takes lower over */
    if (!tree)
        return spec_no_memory(err);
    *ret = tree;
    return 0;
}

int spec_open(const struct spec *s, const struct spec_watch *watch, struct spec_far *far,
              struct pl_tree **ret, struct pl_err *err)
{
    if (far)
        *far = (struct spec_far){.peer = ""};
    return open_kind(s, (struct opening){.watch = watch, .far = far}, ret, err);
}

int pl_tree_open(const char *text, struct pl_tree **ret, struct pl_err *err)
{
    struct spec *s;
    int r = spec_parse(text, &s, err);
    if (r < 0)
        return r;
    r = spec_open(s, NULL, NULL, ret, err);
    spec_free(s);
    return r;
}

void spec_help(FILE *out)
{
    fputs("A SPEC names a tree: a path (a directory of this host), or one of these.\n", out);
    for (int layer = 0; layer < 2; layer++) {
        fputs(layer ? "\nLayers, over another SPEC:\n" : "\nSources:\n", out);
        for (const struct spec_kind *k = layer ? spec_layers : spec_sources; k->name; k++)
            fprintf(out, "  %-28s%s%s\n  %-28s %s\n", k->form,
                    strlen(k->form) > 28 ? "\n                               " : " ", k->what, "",
                    k->example);
    }
    fputs("\nA path begins with '/', '.' or '~', or has no ':' in it. The SPEC in a layer goes up "
          "to\n"
          "the last ')', so a path in it may have any character.\n",
          out);
}
