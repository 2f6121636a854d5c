/* SPDX-License-Identifier: MIT */
/* What says who is trusted, and with what: access files, maps of ids, lists of keys, and the names
 * in certificates. The first byte chooses. */
#include "base/idmap.h"
#include "channel/cert.h"
#include "doors/p9_access.h"
#include <errno.h>
#include <openssl/x509.h>
#include <plenum/sources.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok)
        abort();
}

/* The first line is who asks, the second for what; the rules are behind them. Who gets in got in by
 * a rule: then a tree is there, and what was asked for does not begin with the name of nothing. */
static void access_file(char *text)
{
    static struct pl_tree *mem;
    char *who = strsep(&text, "\n"), *name = text ? strsep(&text, "\n") : NULL;
    struct p9_access *access;
    struct p9_admitted a = {0};
    struct pl_err err;
    if (!text || (!mem && pl_mem_new(0, &mem, NULL) < 0))
        return;
    int r = p9_access_parse(text, "access", false, &access, &err);
    if (r < 0) {
        check(*err.text);
        return;
    }
    struct p9_asking asking = {.who = who, .uid = (uid_t)-1, .aname = "", .name = name};
    r = p9_access_admit(access, &asking, mem, &a);
    check(r == 0 ? a.tree != NULL : r == -EACCES);
    pl_tree_unref(a.tree);
    p9_access_free(access);
}

/* Nothing is two things, and up undoes down. */
static void table(const struct idmap_table *t)
{
    uint32_t below, above;
    for (size_t i = 0; i < t->n && t->by_client[i].client != UINT32_MAX; i++) {
        const struct idmap_range *r = &t->by_client[i];
        uint32_t ids[] = {r->client, r->client + r->count - 1};
        for (int k = 0; k < 2; k++)
            check(idmap_down(t, ids[k], &below) && idmap_up(t, below, &above) && above == ids[k]);
    }
}

static void map(char *text)
{
    struct idmap m;
    struct pl_err err;
    if (idmap_parse_text(text, "map", false, &m, &err) < 0) {
        check(*err.text);
        return;
    }
    table(&m.uid);
    table(&m.gid);
    idmap_done(&m);
}

static void lists(char *text)
{
    struct keys_trust t;
    struct keys_psk k;
    for (char *line; (line = strsep(&text, "\n"));) {
        char *copy = strdup(line);
        if (keys_trust_line(line, &t) == 1)
            check(keys_name_ok(t.name, strlen(t.name)));
        if (keys_psk_line(copy, &k) == 1)
            check(keys_name_ok(k.id, strlen(k.id)) && k.nkey >= KEYS_PSK_MIN &&
                  k.nkey <= KEYS_PSK_MAX);
        free(copy);
    }
}

static void certificate(const uint8_t *data, size_t size)
{
    const unsigned char *at = data;
    char name[KEYS_NAME + 1], when[16];
    uint8_t print[KEYS_PRINT];
    X509 *cert = d2i_X509(NULL, &at, (long)size);
    if (!cert)
        cert = cert_parse((const char *)data, size);
    if (cert) {
        bool good = cert_name(cert, name);
        check(good ? keys_name_ok(name, strlen(name)) : !*name);
        cert_when(cert, when);
        check(strlen(when) < sizeof(when));
        cert_print(cert, print);
    }
    X509_free(cert);
    cert_reason();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size || size > 65536)
        return 0;
    char *text = malloc(size);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = 0;
    switch (*data % 4) {
    case 0:
        access_file(text);
        break;
    case 1:
        map(text);
        break;
    case 2:
        lists(text);
        break;
    case 3:
        certificate(data + 1, size - 1);
        break;
    }
    free(text);
    return 0;
}
