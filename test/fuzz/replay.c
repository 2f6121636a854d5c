/* SPDX-License-Identifier: MIT */
/* Runs a fuzz target over files and directories of inputs, without libFuzzer. */
#include <dirent.h>
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));

static unsigned replay(const char *path)
{
    struct stat st;
    if (stat(path, &st) < 0)
        err(1, "%s", path);
    if (S_ISDIR(st.st_mode)) {
        unsigned n = 0;
        DIR *dir = opendir(path);
        if (!dir)
            err(1, "%s", path);
        for (struct dirent *e; (e = readdir(dir));) {
            char sub[4096];
            snprintf(sub, sizeof(sub), "%s/%s", path, e->d_name);
            if (e->d_name[0] != '.')
                n += replay(sub);
        }
        closedir(dir);
        return n;
    }
    /* an allocation of just that size, so that ASan sees a read past it */
    uint8_t *data = malloc(st.st_size ? (size_t)st.st_size : 1);
    FILE *f = fopen(path, "rb");
    if (!data || !f || fread(data, 1, (size_t)st.st_size, f) != (size_t)st.st_size)
        err(1, "%s", path);
    fclose(f);
    LLVMFuzzerTestOneInput(data, (size_t)st.st_size);
    free(data);
    return 1;
}

int main(int argc, char **argv)
{
    unsigned n = 0;
    if (LLVMFuzzerInitialize)
        LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++)
        n += replay(argv[i]);
    printf("%u inputs\n", n);
    return n ? 0 : 1;
}
