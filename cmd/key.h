/* SPDX-License-Identifier: MIT */
/* What the files of `plenum key` share. */
#ifndef CMD_KEY_H
#define CMD_KEY_H

#include "channel/keys.h"
#include "cmd/cmd.h"

struct key_args {
    char **arg;
    int n;
    bool renew, missing, install;
};

/* Usage error unless it can be a name. */
void key_check_name(const struct cmd *self, const char *name);
/* Our certificate as `show` prints it, in memory, and its name. NULL with the sentence. */
char *key_own_text(size_t *ret_n, char name[KEYS_NAME + 1], struct pl_err *err);
/* Enters it in the list; -EEXIST with the sentence when another has the name. */
int key_trust_add(const char *name, const uint8_t print[KEYS_PRINT], struct pl_err *err);

/* keytrust.c */
int key_trust(const struct cmd *self, const struct key_args *a);
int key_install(const struct cmd *self, const struct key_args *a);

#endif
