/* SPDX-License-Identifier: MIT */
/* A view as words and as text. */
#include "view/view.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Words as they are found: counted, then written. */
struct out {
    char **word;
    char *text;
    size_t n, bytes;
};

static void put(struct out *o, const char *head, const char *tail)
{
    if (o->word) {
        o->word[o->n] = o->text;
        o->text = stpcpy(stpcpy(o->text, head), tail) + 1;
    }
    o->n++;
    o->bytes += strlen(head) + strlen(tail) + 1;
}

static void put_service(struct out *o, const struct view_service *s)
{
    char attrs[2 * VIEW_PATH];
    /* Only "on", "off" and "-" alone would mean something else without an address. */
    const char *off = s->on ? "" : !*s->attrs && !*s->addr ? "//off" : "/off";
    snprintf(attrs, sizeof(attrs), "%s%s%s%s", s->name, *s->attrs ? "/" : "", s->attrs, off);
    put(o, *s->addr ? s->addr : "-", "");
    put(o, "/#fs/", attrs);
}

static void walk(const struct view *v, struct out *o)
{
    char debug[2] = {(char)('0' + v->debug), 0};
    if (v->debug) {
        put(o, "-", "");
        put(o, "/#option/debug=", debug);
    }
    if (v->trace) {
        put(o, "-", "");
        put(o, "/#option/trace", "");
    }
    if (v->classic) {
        put(o, "-", "");
        put(o, "/#option/del=classic", "");
    }
    for (size_t i = 0; i < v->nservices; i++)
        put_service(o, &v->services[i]);
    for (size_t i = 0; i < v->nvmaps; i++) {
        put(o, *v->vmaps[i].name ? v->vmaps[i].name : "-", "");
        put(o, "/#vmap/", v->vmaps[i].versions);
    }
    for (size_t i = 0; i < v->nmaps; i++) {
        put(o, v->maps[i].top, "");
        put(o, v->maps[i].lower, "");
    }
    for (size_t i = 0; i < v->nputs; i++) {
        put(o, v->puts[i].dir, "");
        put(o, "/#", v->puts[i].name);
    }
}

char **view_words(const struct view *view, size_t *ret_n)
{
    struct out size = {0}, o = {0};
    walk(view, &size);
    o.word = malloc((size.n + 1) * sizeof(char *) + size.bytes);
    if (!o.word)
        return NULL;
    o.text = (char *)(o.word + size.n + 1);
    walk(view, &o);
    o.word[o.n] = NULL;
    *ret_n = o.n;
    return o.word;
}

/* Bytes that mean nothing to any shell, wherever in a word they stand. */
static bool plain(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           strchr("/_.,:+@-", c);
}

/* '#' begins a comment only at the start of a word, '=' is something only before a command's name
 * (zsh: at the start of a word). */
static bool harmless(const char *word, size_t i)
{
    unsigned char c = (unsigned char)word[i];
    return plain(c) || (i && (c == '#' || c == '='));
}

static char *escape(char *to, const char *word)
{
    for (size_t i = 0; word[i]; i++) {
        if (harmless(word, i) && word[i] != '%')
            *to++ = word[i];
        else
            to += sprintf(to, "%%%02X", (unsigned char)word[i]);
    }
    return to;
}

static bool must_escape(char **words, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; words[i][k]; k++)
            if (!harmless(words[i], k))
                return true;
    return false;
}

char *view_text(const struct view *view)
{
    static const char first[] = "- /#escaped ";
    size_t n, bytes = sizeof(first);
    char **words = view_words(view, &n);
    if (!words)
        return NULL;
    for (size_t i = 0; i < n; i++)
        bytes += 3 * strlen(words[i]) + 1;
    char *text = malloc(bytes), *to = text;
    if (text) {
        bool some = must_escape(words, n);
        to = some ? stpcpy(to, first) : to;
        for (size_t i = 0; i < n; i++) {
            to = some ? escape(to, words[i]) : stpcpy(to, words[i]);
            *to++ = ' ';
        }
        to -= n > 0;
        *to = 0;
    }
    free(words);
    return text;
}

char **view_split(const char *text, size_t size, size_t *ret_n)
{
    static const char space[] = " \t\r\n";
    size_t n = 0;
    bool in = false;
    for (size_t i = 0; i < size; i++) {
        bool between = !text[i] || strchr(space, text[i]);
        n += !between && !in;
        in = !between;
    }
    char **words = malloc((n + 1) * sizeof(char *) + size + 1);
    if (!words)
        return NULL;
    char *to = (char *)(words + n + 1);
    *ret_n = 0;
    in = false;
    for (size_t i = 0; i < size; i++) {
        bool between = !text[i] || strchr(space, text[i]);
        if (!between && !in)
            words[(*ret_n)++] = to;
        if (!between || in)
            *to++ = between ? 0 : text[i];
        in = !between;
    }
    *to = 0;
    words[n] = NULL;
    return words;
}
