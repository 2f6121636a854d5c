/* SPDX-License-Identifier: MIT */
/* Names: their lengths, their bytes, and those that are none. */
#include "conform.h"

#include <stdlib.h>

static char *of_length(char *buf, size_t n)
{
    memset(buf, 'n', n);
    buf[n] = 0;
    return buf;
}

CASE(names, of_255_bytes)
{
    char n[300], m[300];
    of_length(n, 255);
    struct pl_node *d = mk_dir(top, "d"), *f = mk_text(top, n, "text");
    content(top, n, "text");
    struct entries l = entries_of(top);
    IS(entries_count(&l, n), 1);
    entries_free(&l);
    m[254] = 0;
    memcpy(m, n, 254);
    absent(top, m);
    m[254] = 'm';
    m[255] = 0;
    OK(t_rename(top, n, d, m, 0));
    OK(t_link(f, top, n));
    TRUE(same(look(top, n), look(d, m)));
    rm(top, n);
    rm(d, m);
    OK(t_make(top, n, S_IFDIR | 0755));
    OK(t_symlink(top, m, n));
    rmdir_(top, n);
    rm(top, m);
}

CASE(names, of_256_bytes)
{
    char n[8000];
    struct pl_node *f = mk_file(top, "f");
    const size_t length[] = {256, 257, 4095, 7000};
    for (size_t i = 0; i < 4; i++) {
        of_length(n, length[i]);
        IS(t_lookup(top, n), -ENAMETOOLONG);
        IS(t_make(top, n, S_IFDIR | 0755), -ENAMETOOLONG);
        IS(t_make(top, n, S_IFREG | 0644), -ENAMETOOLONG);
        IS(t_symlink(top, n, "f"), -ENAMETOOLONG);
        IS(t_create(top, n, O_CREAT | O_RDWR, 0644), -ENAMETOOLONG);
        IS(t_link(f, top, n), -ENAMETOOLONG);
        IS(t_remove(top, n, 0), -ENAMETOOLONG);
        IS(t_remove(top, n, AT_REMOVEDIR), -ENAMETOOLONG);
        IS(t_rename(top, "f", top, n, 0), -ENAMETOOLONG);
        IS(t_rename(top, n, top, "g", 0), -ENAMETOOLONG);
    }
    struct entries l = entries_of(top);
    IS(l.n, 1);
    entries_free(&l);
}

CASE(names, of_every_length)
{
    char n[300], text[16];
    for (size_t i = 1; i <= 255; i++) {
        snprintf(text, sizeof(text), "%zu", i);
        mk_text(top, of_length(n, i), text);
    }
    struct entries l = entries_of(top);
    IS(l.n, 255);
    entries_free(&l);
    for (size_t i = 1; i <= 255; i++) {
        snprintf(text, sizeof(text), "%zu", i);
        content(top, of_length(n, i), text);
        rm(top, n);
    }
}

/* Every byte alone, in the middle, and at both ends. */
CASE(names, of_every_byte)
{
    char n[8], text[16];
    int count = 0;
    for (int c = 1; c < 256; c++) {
        if (c == '/')
            continue;
        snprintf(text, sizeof(text), "%d", c);
        snprintf(n, sizeof(n), "a%cb", c);
        mk_text(top, n, text);
        snprintf(n, sizeof(n), "%cx%c", c, c);
        OK(t_make(top, n, S_IFDIR | 0755));
        count += 2;
        if (c == '.')
            continue;
        snprintf(n, sizeof(n), "%c", c);
        OK(t_symlink(top, n, n));
        count++;
    }
    struct entries l = entries_of(top);
    IS(l.n, count);
    for (int c = 1; c < 256; c++) {
        if (c == '/')
            continue;
        snprintf(text, sizeof(text), "%d", c);
        snprintf(n, sizeof(n), "a%cb", c);
        IS(entries_count(&l, n), 1);
        content(top, n, text);
        rm(top, n);
        snprintf(n, sizeof(n), "%cx%c", c, c);
        IS(entries_count(&l, n), 1);
        rmdir_(top, n);
        snprintf(n, sizeof(n), "%c", c);
        if (c != '.')
            rm(top, n);
    }
    entries_free(&l);
    l = entries_of(top);
    IS(l.n, 0);
    entries_free(&l);
}

CASE(names, that_are_no_names)
{
    static const char *const none[] = {".", "..", "", "a/b", "/", "a/", "/a", "./a"};
    struct pl_node *f = mk_file(top, "a"), *d = mk_dir(top, "d");
    for (size_t i = 0; i < sizeof(none) / sizeof(*none); i++) {
        const char *n = none[i];
        TRUE(t_make(d, n, S_IFDIR | 0755) < 0);
        TRUE(t_make(d, n, S_IFREG | 0644) < 0);
        TRUE(t_symlink(d, n, "x") < 0);
        TRUE(t_create(d, n, O_CREAT | O_RDWR, 0644) < 0);
        TRUE(t_link(f, d, n) < 0);
        TRUE(t_remove(d, n, 0) < 0);
        TRUE(t_remove(d, n, AT_REMOVEDIR) < 0);
        TRUE(t_rename(top, "a", d, n, 0) < 0);
        TRUE(t_rename(d, n, top, "z", 0) < 0);
        if (strcmp(n, ".."))
            TRUE(t_lookup(d, n) < 0);
    }
    struct entries l = entries_of(top);
    IS(l.n, 2);
    entries_free(&l);
    l = entries_of(d);
    IS(l.n, 0);
    entries_free(&l);
}

CASE(names, with_dots)
{
    static const char *const name[] = {"...", "....", ".x", "x.", "..x", "x..", ". ", " .", ".. "};
    size_t n = sizeof(name) / sizeof(*name);
    for (size_t i = 0; i < n; i++)
        mk_text(top, name[i], name[i]);
    struct entries l = entries_of(top);
    IS(l.n, n);
    entries_free(&l);
    for (size_t i = 0; i < n; i++) {
        content(top, name[i], name[i]);
        rm(top, name[i]);
    }
}

CASE(names, parent)
{
    struct pl_node *a = mk_dir(top, "a"), *b = mk_dir(a, "b");
    TRUE(same(look(b, ".."), a));
    TRUE(same(look(a, ".."), top));
    TRUE(same(look(top, ".."), top)); /* nothing is above the root */
    TRUE(same(look(look(look(b, ".."), ".."), ".."), top));
}

/* Neither folded nor normalised. */
CASE(names, taken_as_they_are)
{
    static const char *const name[] = {"case",         "CASE", "Case",  "\xc3\xa9", "e\xcc\x81",
                                       "\xff\xfe\xfd", "a b",  "a  b",  " a",       "a\nb",
                                       "a\\b",         "a\"b", "\\057", "%2f",      "*"};
    size_t n = sizeof(name) / sizeof(*name);
    for (size_t i = 0; i < n; i++)
        mk_text(top, name[i], name[i]);
    struct entries l = entries_of(top);
    IS(l.n, n);
    for (size_t i = 0; i < n; i++)
        IS(entries_count(&l, name[i]), 1);
    entries_free(&l);
    for (size_t i = 0; i < n; i++)
        content(top, name[i], name[i]);
}

CASE(names, in_what_is_no_directory)
{
    struct pl_node *f = mk_file(top, "f"), *l = mk_symlink(top, "l", ".");
    struct pl_node *not_dir[] = {f, l};
    for (int i = 0; i < 2; i++) {
        IS(t_lookup(not_dir[i], "x"), -ENOTDIR);
        IS(t_lookup(not_dir[i], ".."), -ENOTDIR);
        IS(t_make(not_dir[i], "x", S_IFDIR | 0755), -ENOTDIR);
        IS(t_create(not_dir[i], "x", O_CREAT | O_RDWR, 0644), -ENOTDIR);
        IS(t_symlink(not_dir[i], "x", "y"), -ENOTDIR);
        IS(t_link(f, not_dir[i], "x"), -ENOTDIR);
        IS(t_remove(not_dir[i], "x", 0), -ENOTDIR);
        IS(t_rename(not_dir[i], "x", top, "y", 0), -ENOTDIR);
        IS(t_rename(top, "f", not_dir[i], "y", 0), -ENOTDIR);
    }
}

CASE(names, missing)
{
    struct pl_node *d = mk_dir(top, "d");
    IS(t_lookup(d, "x"), -ENOENT);
    IS(t_remove(d, "x", 0), -ENOENT);
    IS(t_remove(d, "x", AT_REMOVEDIR), -ENOENT);
    IS(t_rename(d, "x", d, "y", 0), -ENOENT);
    IS(t_rename(d, "x", d, "x", 0), -ENOENT);
}
