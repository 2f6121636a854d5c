/* SPDX-License-Identifier: MIT */
/*
 * A file server for test/e2e/test_passthrough.py: documents of every kind.
 *
 *   doc    is what its last commit said; a text that begins with "bad" is refused
 *   big    1 MiB in ranges, of one letter for each block of 128 KiB
 *   fixed  a fixed text
 *   log    the commits so far, a line each
 * With DOCUMENTS_KEEP in the environment refused texts are kept.
 */
#include <errno.h>
#include <plenum/plenum.h>
#include <stdlib.h>
#include <string.h>

#define SIZE (1 << 20)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *doc, *said;
static size_t doc_n, said_n;

static void append(char **to, size_t *n, const char *text, size_t more)
{
    *to = realloc(*to, *n + more + 1);
    memcpy(*to + *n, text, more);
    *n += more;
}

static int fill(const struct pl_made_req *req, struct pl_text *out)
{
    pthread_mutex_lock(&lock);
    int r = pl_text_put(out, doc, doc_n);
    pthread_mutex_unlock(&lock);
    return r;
}

static int commit(const struct pl_made_req *req, const char *text, size_t n)
{
    if (!strncmp(text, "bad", 3))
        return -EBADMSG;
    pthread_mutex_lock(&lock);
    doc_n = 0;
    append(&doc, &doc_n, text, n);
    append(&said, &said_n, "commit\n", 7);
    pthread_mutex_unlock(&lock);
    return 0;
}

static int log_fill(const struct pl_made_req *req, struct pl_text *out)
{
    pthread_mutex_lock(&lock);
    int r = pl_text_put(out, said, said_n);
    pthread_mutex_unlock(&lock);
    return r;
}

static int64_t size(const struct pl_made_req *req)
{
    return SIZE;
}

static ssize_t range(const struct pl_made_req *req, void *buf, size_t n, uint64_t off)
{
    if (off >= SIZE)
        return 0;
    n = n < SIZE - off ? n : SIZE - off;
    for (size_t i = 0; i < n; i++)
        ((char *)buf)[i] = (char)('a' + (off + i) / (128 << 10));
    return (ssize_t)n;
}

int main(int argc, char **argv)
{
    struct pl_made *m = pl_made_new();
    append(&doc, &doc_n, "first\n", 6);
    pl_made_keep_failed(m, getenv("DOCUMENTS_KEEP"));
    pl_made_doc(m, "doc", fill, commit, NULL);
    pl_made_ranged(m, "big", size, range, NULL);
    pl_made_text(m, "fixed", "fixed\n");
    pl_made_file(m, "log", log_fill, NULL);
    return pl_main(argc, argv, pl_made_tree(m));
}
