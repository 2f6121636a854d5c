/* SPDX-License-Identifier: MIT */
#include "keeper/mountinfo.h"
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

/* The kernel writes space, tab, newline, backslash and `#` as three octal digits. */
static void unescape(char *s)
{
    char *out = s;
    while (*s) {
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' &&
            s[3] >= '0' && s[3] <= '7') {
            *out++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
            s += 4;
        } else {
            *out++ = *s++;
        }
    }
    *out = 0;
}

/* Takes a line apart, in place: 36 35 98:0 /root /point rw,noatime master:1 ... - type source
 * options. False for a line of another shape. */
static bool parse_line(char *line, struct mountinfo *ret)
{
    unsigned major, minor;
    int used = 0;
    char *rest = line, *word;
    line[strcspn(line, "\n")] = 0;
    if (sscanf(line, "%d %d %u:%u %n", &ret->id, &ret->parent, &major, &minor, &used) != 4 || !used)
        return false;
    ret->dev = makedev(major, minor);
    rest += used;
    strsep(&rest, " "); /* the root within the file system */
    ret->point = strsep(&rest, " ");
    strsep(&rest, " ");
    do
        word = strsep(&rest, " ");
    while (word && strcmp(word, "-") != 0);
    ret->type = strsep(&rest, " ");
    ret->source = strsep(&rest, " ");
    if (!ret->source)
        return false;
    unescape(ret->point);
    unescape(ret->type);
    unescape(ret->source);
    return true;
}

int mountinfo_each(int (*fn)(void *arg, const struct mountinfo *m), void *arg)
{
    return mountinfo_of("self", fn, arg);
}

int mountinfo_of(const char *pid, int (*fn)(void *arg, const struct mountinfo *m), void *arg)
{
    char name[NAME_MAX + 32];
    snprintf(name, sizeof(name), "/proc/%s/mountinfo", pid);
    FILE *f = fopen(name, "re");
    char *line = NULL;
    size_t size = 0;
    int rc = 0;
    if (!f)
        return -errno;
    while (rc == 0 && getline(&line, &size, f) > 0) {
        struct mountinfo m;
        if (parse_line(line, &m))
            rc = fn(arg, &m);
    }
    if (rc == 0 && ferror(f))
        rc = -EIO;
    free(line);
    fclose(f);
    return rc;
}
