/* SPDX-License-Identifier: MIT */
#ifndef UNIT_EACH_FD_H
#define UNIT_EACH_FD_H

#include <dirent.h>
#include <stdlib.h>

/* Calls fn with each descriptor of this process. */
static inline void each_fd(void (*fn)(int fd))
{
    static int list[4096];
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    for (struct dirent *e; (e = readdir(d));)
        if (*e->d_name != '.' && atoi(e->d_name) != dirfd(d) && n < 4096)
            list[n++] = atoi(e->d_name);
    closedir(d);
    while (n > 0)
        fn(list[--n]);
}

#endif
