/* SPDX-License-Identifier: MIT */
#include "cmd/attr.h"
#include "base/text.h"
#include <grp.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

const char *attr_mode(char buf[11], uint32_t mode)
{
    static const char rwx[] = "rwxrwxrwx";
    buf[0] = S_ISDIR(mode)    ? 'd'
             : S_ISLNK(mode)  ? 'l'
             : S_ISFIFO(mode) ? 'p'
             : S_ISSOCK(mode) ? 's'
             : S_ISCHR(mode)  ? 'c'
             : S_ISBLK(mode)  ? 'b'
                              : '-';
    for (int i = 0; i < 9; i++)
        buf[i + 1] = mode & (0400u >> i) ? rwx[i] : '-';
    if (mode & S_ISUID)
        buf[3] = mode & 0100 ? 's' : 'S';
    if (mode & S_ISGID)
        buf[6] = mode & 0010 ? 's' : 'S';
    if (mode & S_ISVTX)
        buf[9] = mode & 0001 ? 't' : 'T';
    buf[10] = 0;
    return buf;
}

const char *attr_type(uint32_t mode)
{
    return S_ISDIR(mode)    ? "dir"
           : S_ISLNK(mode)  ? "symlink"
           : S_ISFIFO(mode) ? "fifo"
           : S_ISSOCK(mode) ? "socket"
           : S_ISCHR(mode)  ? "char"
           : S_ISBLK(mode)  ? "block"
                            : "file";
}

const char *attr_time(char buf[40], const struct timespec *t)
{
    struct tm tm;
    if ((!t->tv_sec && !t->tv_nsec) || !gmtime_r(&t->tv_sec, &tm))
        return "-";
    size_t n = strftime(buf, 40, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(buf + n, 40 - n, ".%09ldZ", t->tv_nsec % 1000000000);
    return buf;
}

/* The last name asked for is remembered: a listing asks for few, again and again. */
const char *attr_user(char buf[64], uint32_t uid)
{
    static char last[64];
    static uint32_t last_uid;
    if (!*last || last_uid != uid) {
        struct passwd *pw = getpwuid(uid);
        if (pw)
            text_escape(last, sizeof(last), pw->pw_name, strlen(pw->pw_name));
        else
            snprintf(last, sizeof(last), "%u", uid);
        last_uid = uid;
    }
    return memcpy(buf, last, sizeof(last));
}

const char *attr_group(char buf[64], uint32_t gid)
{
    static char last[64];
    static uint32_t last_gid;
    if (!*last || last_gid != gid) {
        struct group *gr = getgrgid(gid);
        if (gr)
            text_escape(last, sizeof(last), gr->gr_name, strlen(gr->gr_name));
        else
            snprintf(last, sizeof(last), "%u", gid);
        last_gid = gid;
    }
    return memcpy(buf, last, sizeof(last));
}

/* text_escape leaves what is harmless UTF-8 as it is. What it would change but is UTF-8, JSON has
 * escapes for; only what is not UTF-8 has to be changed. */
static bool is_utf8(const char *s)
{
    const unsigned char *p = (const unsigned char *)s;
    while (*p) {
        size_t more = *p < 0x80 ? 0 : *p >> 5 == 6 ? 1 : *p >> 4 == 14 ? 2 : *p >> 3 == 30 ? 3 : 9;
        if (more == 9 || (more == 1 && *p < 0xc2) || *p > 0xf4)
            return false;
        unsigned char first = *p++;
        for (size_t i = 0; i < more; i++, p++) {
            if (*p >> 6 != 2)
                return false;
            if (i == 0 && ((first == 0xe0 && *p < 0xa0) || (first == 0xed && *p > 0x9f) ||
                           (first == 0xf0 && *p < 0x90) || (first == 0xf4 && *p > 0x8f)))
                return false;
        }
    }
    return true;
}

struct json_object *attr_string(const char *text)
{
    char safe[4 * 4096 + 1];
    return json_object_new_string(
        is_utf8(text) ? text : text_escape(safe, sizeof(safe), text, strlen(text)));
}

static void add_time(struct json_object *o, const char *key, const struct timespec *t)
{
    char buf[40];
    if (t->tv_sec || t->tv_nsec)
        json_object_object_add(o, key, json_object_new_string(attr_time(buf, t)));
}

struct json_object *attr_json(const char *path, const struct pl_attr *a, const char *target)
{
    struct json_object *o = json_object_new_object();
    char mode[16];
    snprintf(mode, sizeof(mode), "%04o", a->mode & 07777);
    json_object_object_add(o, "path", attr_string(path));
    json_object_object_add(o, "type", json_object_new_string(attr_type(a->mode)));
    json_object_object_add(o, "mode", json_object_new_string(mode));
    json_object_object_add(o, "nlink", json_object_new_uint64(a->nlink));
    json_object_object_add(o, "uid", json_object_new_int64(a->uid));
    json_object_object_add(o, "gid", json_object_new_int64(a->gid));
    json_object_object_add(o, "size", json_object_new_uint64(a->size));
    json_object_object_add(o, "blocks", json_object_new_uint64(a->blocks));
    json_object_object_add(o, "ino", json_object_new_uint64(a->ino));
    if (S_ISCHR(a->mode) || S_ISBLK(a->mode)) {
        json_object_object_add(o, "major", json_object_new_int64(a->rdev_major));
        json_object_object_add(o, "minor", json_object_new_int64(a->rdev_minor));
    }
    add_time(o, "atime", &a->atime);
    add_time(o, "mtime", &a->mtime);
    add_time(o, "ctime", &a->ctime);
    add_time(o, "btime", &a->btime);
    if (target)
        json_object_object_add(o, "target", attr_string(target));
    return o;
}

void attr_print_json(struct json_object *value)
{
    puts(json_object_to_json_string_ext(value,
                                        JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(value);
}
