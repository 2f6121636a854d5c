/* SPDX-License-Identifier: MIT */
/*
 * The server of a service that watches: prints who opens, writes and renames what.
 *
 *     plenum mount 'service(log/monitor/call=open+write+rename+remove,exec!./monitor,/srv)' /mnt
 *
 * It speaks the protocol on its standard input and output (docs/services.md), so it needs nothing
 * but libc. Names come with everything but plain letters as %XX, so that they can be printed as
 * they are, on any terminal.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The value of KEY=VALUE in the line, or "". */
static const char *value(char *const *words, const char *key)
{
    size_t n = strlen(key);
    for (; *words; words++)
        if (!strncmp(*words, key, n) && (*words)[n] == '=')
            return *words + n + 1;
    return "";
}

int main(void)
{
    char *line = NULL, *words[64];
    size_t room = 0;
    ssize_t len;
    printf("plenum-service 1\n");
    fflush(stdout);
    while ((len = getline(&line, &room, stdin)) > 0) {
        size_t n = 0;
        line[len - 1] = 0;
        for (char *w = strtok(line, " "); w && n < 63; w = strtok(NULL, " "))
            words[n++] = w;
        words[n] = NULL;
        if (n < 4 || words[0][0] < '0' || words[0][0] > '9')
            continue; /* the greeting, the goodbye */
        const char *to = value(words, "path2");
        fprintf(stderr, "uid %s %s %s%s%s: %s\n", value(words, "uid"), words[1],
                value(words, "path"), *to ? " to " : "", to, words[3]);
        if (strcmp(words[2], "-") != 0) { /* somebody waits */
            printf("answer %s 0\n", words[0]);
            fflush(stdout);
        }
    }
    free(line);
    return 0;
}
