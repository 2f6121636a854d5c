/* SPDX-License-Identifier: MIT */
/* Attributes for people and for scripts: what ls and stat print. */
#ifndef CMD_ATTR_H
#define CMD_ATTR_H

#include <json-c/json.h>
#include <plenum/tree.h>

/* "drwxr-xr-x" */
const char *attr_mode(char buf[11], uint32_t mode);
/* "file", "dir", "symlink", "fifo", "socket", "char", "block" */
const char *attr_type(uint32_t mode);
/* ISO 8601 with nanoseconds in UTC, or "-" for {0,0} */
const char *attr_time(char buf[40], const struct timespec *t);
/* Owner and group by name, else by number. */
const char *attr_user(char buf[64], uint32_t uid);
const char *attr_group(char buf[64], uint32_t gid);
/* An object; `target` may be NULL. */
struct json_object *attr_json(const char *path, const struct pl_attr *attr, const char *target);
/* A string that is valid JSON: raw if it is UTF-8, else escaped as \ooo. */
struct json_object *attr_string(const char *text);
/* Prints `value` and a newline on standard output, and drops it. */
void attr_print_json(struct json_object *value);

#endif
