/* SPDX-License-Identifier: MIT */
/* Handshakes: who the peer is, and what to say when it is not who it ought to be. */
#include "base/cred.h"
#include "base/futex.h"
#include "base/limits.h"
#include "base/text.h"
#include "channel/cert.h"
#include "channel/tls_priv.h"
#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define ALPN "\6plenum"
/* A pre-shared key goes with a hash, ours with SHA-256: suites of that first, by the server's
 * choice, or a key would not be taken from a client who likes others better. */
#define SUITES "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"

struct tls_ctx {
    bool server;
    pthread_mutex_t lock; /* guards the rest */
    SSL_CTX *ssl;
    struct timespec id_time, ca_time; /* of the files that it was made from */
};

/* ---- names of things in sentences ---- */

static const char *other(const struct tls *t)
{
    return t->server ? "client" : "server";
}

/* ---- which certificates we believe ---- */

/* What is listed of a fingerprint and of the name that was dialed. */
struct listed {
    const struct keys_trust *print; /* the first entry of that fingerprint */
    const struct keys_trust *name;  /* the entry of HOST!PORT, else of HOST */
};

static struct listed look_up(const struct tls *t, const struct keys_trust *list, size_t n,
                             const uint8_t print[KEYS_PRINT])
{
    struct listed l = {NULL, NULL};
    char full[KEYS_NAME * 4];
    if (!t->server)
        snprintf(full, sizeof(full), "%s!%s", t->host, t->port);
    for (const struct keys_trust *e = list; e < list + n; e++) {
        if (!l.print && !memcmp(e->print, print, KEYS_PRINT))
            l.print = e;
        if (!t->server && (!strcmp(e->name, full) || (!l.name && !strcmp(e->name, t->host))))
            l.name = e;
    }
    return l;
}

/* What to call a stranger in the command that would trust it. */
static const char *suggested(const struct tls *t, X509 *cert, char name[KEYS_NAME + 1])
{
    if (!t->server)
        return t->host;
    return cert_name(cert, name) ? name : "NAME";
}

static int unknown(struct tls *t, X509 *cert, const uint8_t print[KEYS_PRINT])
{
    char name[KEYS_NAME + 1], text[KEYS_PRINT_TEXT];
    keys_print_text(print, text);
    if (t->server)
        return pl_fail(&t->why, -EACCES,
                       "%s: a certificate that is not trusted: %s (if it is theirs: plenum key "
                       "trust %s %s)",
                       t->peer, text, suggested(t, cert, name), text);
    return pl_fail(&t->why, -EACCES,
                   "%s: the server's certificate is not known: %s (if plenum key show says the "
                   "same there: plenum key trust %s %s)",
                   t->peer, text, t->host, text);
}

static int changed(struct tls *t, const struct keys_trust *old, const uint8_t print[KEYS_PRINT])
{
    char text[KEYS_PRINT_TEXT];
    keys_print_text(print, text);
    return pl_fail(&t->why, -EACCES,
                   "%s: THE SERVER'S CERTIFICATE HAS CHANGED: it is %s now, and somebody may be in "
                   "between (if they made a new one there: plenum key remove %s, then plenum key "
                   "trust %s %s)",
                   t->peer, text, old->name, old->name, text);
}

/* Whose certificate it is, by the list: its name, NULL when the list does not say, or refused. */
static int by_list(struct tls *t, X509 *cert, char who[KEYS_NAME + 1])
{
    struct keys_trust *list;
    uint8_t print[KEYS_PRINT];
    char text[KEYS_PRINT_TEXT];
    size_t n;
    int r = keys_trusted(&list, &n, &t->why);
    if (r < 0)
        return r;
    cert_print(cert, print);
    struct listed l = look_up(t, list, n, print);
    *who = 0;
    if (!t->server && l.name && memcmp(l.name->print, print, KEYS_PRINT))
        r = changed(t, l.name, print);
    else if (!t->server && l.print && !l.name)
        r = pl_fail(&t->why, -EACCES,
                    "%s: the server is %s, which was not dialed (dial it by that name, or: plenum "
                    "key trust %s %s)",
                    t->peer, l.print->name, t->host, keys_print_text(print, text));
    else if (t->server ? l.print : l.name)
        strcpy(who, t->server ? l.print->name : l.name->name);
    free(list);
    return r;
}

/* A name that is in the list belongs to the certificate there, and no authority gives it away. */
static int not_listed(struct tls *t, const char *name)
{
    struct keys_trust *list;
    size_t n;
    int r = keys_trusted(&list, &n, &t->why);
    for (size_t i = 0; r == 0 && i < n; i++)
        if (!strcmp(list[i].name, name))
            r = pl_fail(&t->why, -EACCES,
                        "%s: an authority has signed for %s, but another certificate is trusted by "
                        "that name (plenum key remove %s, if it is no longer used)",
                        t->peer, name, name);
    free(list);
    return r;
}

/* By ca.pem, which is in the context's store. */
static int by_authority(struct tls *t, X509 *cert, X509_STORE_CTX *x, char who[KEYS_NAME + 1])
{
    uint8_t print[KEYS_PRINT];
    char text[KEYS_PRINT_TEXT];
    cert_print(cert, print);
    keys_print_text(print, text);
    bool any = sk_X509_OBJECT_num(X509_STORE_get0_objects(X509_STORE_CTX_get0_store(x))) > 0;
    if (!any || X509_verify_cert(x) != 1)
        return unknown(t, cert, print);
    if (!t->server &&
        X509_check_host(cert, t->host, 0, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, NULL) != 1 &&
        X509_check_ip_asc(cert, t->host, 0) != 1)
        return pl_fail(
            &t->why, -EACCES,
            "%s: the certificate was signed for another host than %s: %s (dial it by its "
            "own name)",
            t->peer, t->host, text);
    if (t->server && !cert_name(cert, who))
        return pl_fail(&t->why, -EACCES,
                       "%s: the certificate has no common name that can be used here: %s (letters, "
                       "digits and . _ - + @ : only, at most %d)",
                       t->peer, text, KEYS_NAME);
    if (!t->server)
        snprintf(who, KEYS_NAME + 1, "%s", t->host);
    return not_listed(t, who);
}

static int in_time(struct tls *t, X509 *cert)
{
    char when[16];
    enum cert_time time = cert_when(cert, when);
    if (time == CERT_EXPIRED)
        return pl_fail(&t->why, -EKEYEXPIRED,
                       "%s: the %s's certificate expired on %s (make a new one there: plenum key "
                       "make --renew)",
                       t->peer, other(t), when);
    if (time == CERT_EARLY)
        return pl_fail(&t->why, -EKEYREJECTED,
                       "%s: the %s's certificate is not valid before %s (is the clock right, there "
                       "and here?)",
                       t->peer, other(t), when);
    return 0;
}

/* OpenSSL's question whether the peer's chain is good. */
static int verify(X509_STORE_CTX *x, void *arg)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(x, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct tls *t = SSL_get_app_data(ssl);
    X509 *cert = X509_STORE_CTX_get0_cert(x);
    char who[KEYS_NAME + 1];
    if (t->fetch)
        return 1;
    int r = by_list(t, cert, who);
    if (r == 0 && !*who)
        r = by_authority(t, cert, x, who);
    if (r == 0)
        r = in_time(t, cert);
    if (r == 0)
        snprintf(t->who, sizeof(t->who), "cert:%s", who);
    /* which decides what the peer is told */
    X509_STORE_CTX_set_error(x, r == 0              ? X509_V_OK
                                : r == -EKEYEXPIRED ? X509_V_ERR_CERT_HAS_EXPIRED
                                : r == -EKEYREJECTED
                                    ? X509_V_ERR_CERT_NOT_YET_VALID
                                    : X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
    return r == 0;
}

/* ---- pre-shared keys ---- */

static SSL_SESSION *psk_session(SSL *ssl, const struct keys_psk *key)
{
    static const unsigned char suite[] = {0x13, 0x01}; /* TLS_AES_128_GCM_SHA256 */
    const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, suite);
    SSL_SESSION *s = cipher ? SSL_SESSION_new() : NULL;
    if (s && SSL_SESSION_set1_master_key(s, key->key, key->nkey) &&
        SSL_SESSION_set_cipher(s, cipher) && SSL_SESSION_set_protocol_version(s, TLS1_3_VERSION))
        return s;
    SSL_SESSION_free(s);
    return NULL;
}

/* The key for a client's identity, or for the host that is dialed. */
static bool find_psk(struct tls *t, const char *id, size_t n, struct keys_psk *ret)
{
    struct keys_psk *list;
    char full[KEYS_NAME * 4];
    size_t count;
    bool found = false;
    if (keys_psks(&list, &count, &t->why) < 0)
        return false;
    if (!t->server)
        snprintf(full, sizeof(full), "%s!%s", t->host, t->port);
    for (size_t i = 0; i < count; i++) {
        const struct keys_psk *k = &list[i];
        bool fits = t->server
                        ? strlen(k->id) == n && !memcmp(k->id, id, n) && !strcmp(k->id, k->name)
                        : !strcmp(k->name, full) || (!found && !strcmp(k->name, t->host));
        if (fits)
            *ret = *k;
        found = found || fits;
    }
    if (list)
        explicit_bzero(list, count * sizeof(*list));
    free(list);
    return found;
}

static int psk_find(SSL *ssl, const unsigned char *id, size_t n, SSL_SESSION **ret)
{
    struct tls *t = SSL_get_app_data(ssl);
    struct keys_psk key;
    *ret = NULL;
    /* A stranger may offer any number, and each is looked for in a file. */
    if (t->offers++ < LIMIT_KEY_OFFERS && find_psk(t, (const char *)id, n, &key)) {
        *ret = psk_session(ssl, &key);
        strcpy(t->psk, key.name);
        explicit_bzero(&key, sizeof(key));
    }
    return 1; /* without one it goes on with certificates */
}

static int psk_use(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *n,
                   SSL_SESSION **ret)
{
    static _Thread_local struct keys_psk key; /* `id` must stay until the hello is written */
    struct tls *t = SSL_get_app_data(ssl);
    *ret = NULL;
    if (!t->fetch && find_psk(t, NULL, 0, &key)) {
        *ret = psk_session(ssl, &key);
        explicit_bzero(key.key, sizeof(key.key));
        if (*ret && md && md != SSL_CIPHER_get_handshake_digest(SSL_SESSION_get0_cipher(*ret))) {
            SSL_SESSION_free(*ret); /* the server has chosen another hash */
            *ret = NULL;
        }
    }
    if (*ret) {
        strcpy(t->psk, key.name);
        *id = (const unsigned char *)key.id;
        *n = strlen(key.id);
    }
    return 1;
}

/* ---- contexts ---- */

static int choose_alpn(SSL *ssl, const unsigned char **out, unsigned char *outlen,
                       const unsigned char *in, unsigned inlen, void *arg)
{
    struct tls *t = SSL_get_app_data(ssl);
    t->agreed = SSL_select_next_proto((unsigned char **)out, outlen, (const unsigned char *)ALPN,
                                      sizeof(ALPN) - 1, in, inlen) == OPENSSL_NPN_NEGOTIATED;
    return t->agreed ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

static void watch(int write, int version, int type, const void *buf, size_t n, SSL *ssl, void *arg)
{
    struct tls *t = SSL_get_app_data(ssl);
    if (t && !write && type == SSL3_RT_HANDSHAKE && n &&
        *(const uint8_t *)buf == SSL3_MT_KEY_UPDATE)
        t->content = true;
}

static struct timespec file_time(const char *file)
{
    char path[PATH_MAX];
    struct stat st;
    if (keys_path(file, path, NULL) < 0 || stat(path, &st) < 0)
        return (struct timespec){0, 0};
    return st.st_mtim;
}

/* Key, certificate, and those that lead to an authority. 0, -ENOENT, or with the sentence. */
static int load_id(SSL_CTX *ssl, struct pl_err *err)
{
    char path[PATH_MAX], *text;
    int n = keys_read("id.pem", true, &text, err);
    if (n < 0)
        return n;
    BIO *in = BIO_new_mem_buf(text, n);
    EVP_PKEY *key = in ? PEM_read_bio_PrivateKey(in, NULL, NULL, (void *)"") : NULL;
    if (in)
        BIO_reset(in);
    X509 *cert = in ? PEM_read_bio_X509(in, NULL, NULL, NULL) : NULL, *more;
    bool good = key && cert && SSL_CTX_use_certificate(ssl, cert) == 1 &&
                SSL_CTX_use_PrivateKey(ssl, key) == 1;
    int r = 0;
    char when[16];
    keys_path("id.pem", path, NULL);
    if (!good)
        r = pl_fail(err, -EINVAL,
                    "%s: cannot be used: %s (make a new one: plenum key make --renew)", path,
                    cert_reason());
    else if (cert_when(cert, when) == CERT_EXPIRED)
        r = pl_fail(err, -EKEYEXPIRED,
                    "%s: our own certificate expired on %s (make a new one: plenum key make "
                    "--renew)",
                    path, when);
    while (r == 0 && (more = PEM_read_bio_X509(in, NULL, NULL, NULL)))
        if (!SSL_CTX_add0_chain_cert(ssl, more))
            X509_free(more);
    ERR_clear_error();
    X509_free(cert);
    EVP_PKEY_free(key);
    BIO_free(in);
    explicit_bzero(text, (size_t)n);
    free(text);
    return r;
}

static int load_ca(SSL_CTX *ssl, struct pl_err *err)
{
    char path[PATH_MAX], *text;
    int n = keys_read("ca.pem", false, &text, err), found = 0;
    if (n < 0)
        return n == -ENOENT ? 0 : n;
    BIO *in = BIO_new_mem_buf(text, n);
    X509 *cert;
    while (in && (cert = PEM_read_bio_X509(in, NULL, NULL, NULL))) {
        X509_STORE_add_cert(SSL_CTX_get_cert_store(ssl), cert);
        X509_free(cert);
        found++;
    }
    ERR_clear_error();
    BIO_free(in);
    free(text);
    keys_path("ca.pem", path, NULL);
    return found ? 0 : pl_fail(err, -EINVAL, "%s: there is no certificate in it", path);
}

static bool configure(SSL_CTX *ssl, bool server)
{
    SSL_CTX_set_options(ssl, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_max_cert_list(ssl, LIMIT_CERTIFICATES);
    SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_cert_verify_callback(ssl, verify, NULL);
    SSL_CTX_set_msg_callback(ssl, watch);
    SSL_CTX_set_psk_use_session_callback(ssl, psk_use);
    SSL_CTX_set_psk_find_session_callback(ssl, psk_find);
    SSL_CTX_set_alpn_select_cb(ssl, choose_alpn, NULL);
    if (!SSL_CTX_set_min_proto_version(ssl, TLS1_3_VERSION) ||
        !SSL_CTX_set_max_proto_version(ssl, TLS1_3_VERSION) ||
        !SSL_CTX_set_ciphersuites(ssl, SUITES) || !SSL_CTX_set_num_tickets(ssl, 0))
        return false;
    return server
               ? SSL_CTX_set_session_id_context(ssl, (const unsigned char *)"plenum", 6) == 1
               : SSL_CTX_set_alpn_protos(ssl, (const unsigned char *)ALPN, sizeof(ALPN) - 1) == 0;
}

/* `any`: without a key or certificate of our own too (to look at a server). */
static int make_ctx(bool server, bool any, SSL_CTX **ret, struct pl_err *err)
{
    struct keys_psk *psks = NULL;
    size_t n = 0;
    SSL_CTX *ssl = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    if (!ssl || !configure(ssl, server)) {
        SSL_CTX_free(ssl);
        return pl_fail(err, -ENOMEM, "OpenSSL cannot be set up: %s", cert_reason());
    }
    int r = load_ca(ssl, err);
    if (r == 0)
        r = load_id(ssl, err);
    if (r == -ENOENT) {
        r = any ? 0 : keys_psks(&psks, &n, err);
        if (psks)
            explicit_bzero(psks, n * sizeof(*psks));
        free(psks);
        if (r == 0 && n == 0 && !any)
            r = pl_fail(err, -ENOKEY,
                        "there is no key to show who we are (make one: plenum key "
                        "make)");
    }
    if (r < 0) {
        SSL_CTX_free(ssl);
        return r;
    }
    *ret = ssl;
    return 0;
}

int tls_ctx_new(bool server, struct tls_ctx **ret, struct pl_err *err)
{
    struct tls_ctx *c = calloc(1, sizeof(*c));
    if (!c)
        return pl_fail(err, -ENOMEM, "out of memory");
    c->server = server;
    c->id_time = file_time("id.pem");
    c->ca_time = file_time("ca.pem");
    int r = make_ctx(server, false, &c->ssl, err);
    if (r < 0) {
        free(c);
        return r;
    }
    pthread_mutex_init(&c->lock, NULL);
    *ret = c;
    return 0;
}

void tls_ctx_free(struct tls_ctx *c)
{
    if (!c)
        return;
    SSL_CTX_free(c->ssl);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static bool same(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

/* A new certificate holds from the next handshake on. One that cannot be used changes nothing. */
static SSL *new_ssl(struct tls_ctx *c)
{
    struct timespec id = file_time("id.pem"), ca = file_time("ca.pem");
    SSL_CTX *fresh;
    pthread_mutex_lock(&c->lock);
    if ((!same(id, c->id_time) || !same(ca, c->ca_time)) &&
        make_ctx(c->server, false, &fresh, NULL) == 0) {
        SSL_CTX_free(c->ssl);
        c->ssl = fresh;
        c->id_time = id;
        c->ca_time = ca;
    }
    SSL *ssl = SSL_new(c->ssl);
    pthread_mutex_unlock(&c->lock);
    return ssl;
}

int tls_own(X509 **ret, struct pl_err *err)
{
    char path[PATH_MAX], *text;
    int n = keys_read("id.pem", true, &text, err);
    if (n == -ENOENT)
        return pl_fail(err, n, "there is no key yet (make one: plenum key make)");
    if (n < 0)
        return n;
    *ret = cert_parse(text, (size_t)n);
    explicit_bzero(text, (size_t)n);
    free(text);
    if (!*ret && keys_path("id.pem", path, err) == 0)
        return pl_fail(err, -EINVAL, "%s: there is no certificate in it (plenum key make --renew)",
                       path);
    return *ret ? 0 : -EINVAL;
}

/* ---- handshakes ---- */

static int start(SSL *ssl, int fd, const char *peer, const char *host, const char *port, bool fetch,
                 struct tls **ret, struct pl_err *err)
{
    struct tls *t = ssl ? calloc(1, sizeof(*t)) : NULL;
    if (!t) {
        SSL_free(ssl);
        return pl_fail(err, -ENOMEM, "%s: out of memory", peer);
    }
    t->ssl = ssl;
    t->fd = fd;
    t->host = host;
    t->port = port;
    t->server = !host;
    t->fetch = fetch;
    snprintf(t->peer, sizeof(t->peer), "%s", peer);
    pthread_mutex_init(&t->lock, NULL);
    BIO *bio = tls_bio(t);
    SSL_set_app_data(ssl, t);
    if (bio)
        SSL_set_bio(ssl, bio, bio);
    if (t->server)
        SSL_set_accept_state(ssl);
    else
        SSL_set_connect_state(ssl);
    if (!bio || (host && !strchr(host, ':') && !SSL_set_tlsext_host_name(ssl, host))) {
        tls_free(t);
        return pl_fail(err, -ENOMEM, "%s: out of memory", peer);
    }
    *ret = t;
    return 0;
}

int tls_new(struct tls_ctx *ctx, int fd, const char *peer, const char *host, const char *port,
            struct tls **ret, struct pl_err *err)
{
    cred_reset(); /* the keys are this process's own */
    return start(new_ssl(ctx), fd, peer, host, port, false, ret, err);
}

short tls_events(const struct tls *t)
{
    return (short)(POLLIN | (t->out_at < t->out_end ? POLLOUT : 0));
}

/* What the peer said when it gave up, as a sentence from our point of view. */
static int told(struct tls *t, int alert, struct pl_err *err)
{
    X509 *own = NULL;
    uint8_t print[KEYS_PRINT];
    char text[KEYS_PRINT_TEXT] = "", name[KEYS_NAME + 1] = "NAME";
    if (tls_own(&own, NULL) == 0) {
        cert_print(own, print);
        keys_print_text(print, text);
        if (!cert_name(own, name))
            strcpy(name, "NAME");
        X509_free(own);
    }
    switch (alert) {
    case SSL_AD_UNKNOWN_CA:
    case SSL_AD_ACCESS_DENIED:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_BAD_CERTIFICATE:
        return pl_fail(err, -EACCES,
                       "%s: the %s does not trust our certificate (there: plenum key trust %s %s)",
                       t->peer, other(t), t->server ? "HOST" : name, text);
    case SSL_AD_CERTIFICATE_REQUIRED:
        return pl_fail(err, -EACCES,
                       "%s: the server wants a certificate and we have none (make one: plenum key "
                       "make)",
                       t->peer);
    case SSL_AD_CERTIFICATE_EXPIRED:
    case SSL_AD_CERTIFICATE_REVOKED:
        return pl_fail(
            err, -EACCES,
            "%s: the %s says that our certificate is not valid any more (make a new one: "
            "plenum key make --renew; or is its clock wrong?)",
            t->peer, other(t));
    case SSL_AD_PROTOCOL_VERSION:
        return pl_fail(err, -EPROTO, "%s: the %s does not speak TLS 1.3", t->peer, other(t));
    case SSL_AD_DECRYPT_ERROR:
    case SSL_AD_ILLEGAL_PARAMETER:
    case SSL_AD_UNKNOWN_PSK_IDENTITY:
        if (*t->psk)
            return pl_fail(err, -EACCES,
                           "%s: the pre-shared key %s is another there (install the same at both "
                           "ends: plenum key psk --install)",
                           t->peer, t->psk);
        break;
    case SSL_AD_HANDSHAKE_FAILURE:
        return pl_fail(err, -EACCES,
                       "%s: the %s has no key that we could use, or wants none of ours (plenum key "
                       "list, at both ends)",
                       t->peer, other(t));
    }
    return pl_fail(err, -EACCES, "%s: the %s ended the handshake: %s", t->peer, other(t),
                   SSL_alert_desc_string_long(alert));
}

/* The handshake has failed. */
static int failed(struct tls *t, struct pl_err *err)
{
    unsigned long code = ERR_peek_error();
    int reason = ERR_GET_REASON(code);
    t->broken = true;
    tls_flush(t); /* what the peer is told of it */
    if (t->why.code) {
        if (err)
            *err = t->why;
        ERR_clear_error();
        return t->why.code;
    }
    if (ERR_GET_LIB(code) == ERR_LIB_SSL && reason > SSL_AD_REASON_OFFSET &&
        reason <= SSL_AD_REASON_OFFSET + 255) {
        ERR_clear_error();
        return told(t, reason - SSL_AD_REASON_OFFSET, err);
    }
    if (t->error && t->error != -EPIPE && t->error != -ECONNRESET) {
        ERR_clear_error();
        return pl_fail(err, t->error, "%s: %s", t->peer, strerror(-t->error));
    }
    if (t->eof || t->error)
        return cert_reason(),
               pl_fail(err, -ECONNRESET,
                       "%s: closed in the middle of the handshake (does the %s speak "
                       "TLS 1.3?)",
                       t->peer, other(t));
    switch (reason) {
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
        ERR_clear_error();
        return pl_fail(err, -EACCES,
                       "%s: the client showed neither a certificate nor a key that "
                       "is known here",
                       t->peer);
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_UNSUPPORTED_PROTOCOL:
        ERR_clear_error();
        return pl_fail(err, -EPROTO, "%s: the %s does not speak TLS 1.3", t->peer, other(t));
    case SSL_R_BINDER_DOES_NOT_VERIFY:
        ERR_clear_error();
        return pl_fail(err, -EACCES, "%s: the client has another pre-shared key %s than we",
                       t->peer, t->psk);
    }
    return pl_fail(err, -EPROTO, "%s: no TLS handshake: %s", t->peer, cert_reason());
}

/* The cryptography is through: is it known who the peer is? */
static int settle(struct tls *t, struct pl_err *err)
{
    const unsigned char *alpn;
    unsigned n;
    if (SSL_session_reused(t->ssl) && *t->psk) /* nothing else is ever resumed */
        snprintf(t->who, sizeof(t->who), "key:%s", t->psk);
    if (!*t->who && !t->fetch)
        return pl_fail(err, -EACCES, "%s: the %s did not show who it is", t->peer, other(t));
    t->shook = true;
    if (!t->server) {
        SSL_get0_alpn_selected(t->ssl, &alpn, &n);
        t->agreed = n == sizeof(ALPN) - 2;
        return 0;
    }
    if (t->agreed && SSL_key_update(t->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1)
        SSL_do_handshake(t->ssl);
    return 0;
}

/* A client of one of us waits until the server is content. */
static int await(struct tls *t)
{
    char c;
    size_t n;
    if (t->server || !t->agreed || t->fetch || t->content)
        return 1;
    int r = SSL_peek_ex(t->ssl, &c, 1, &n);
    return r == 1 || t->content ? 1 : r;
}

int tls_step(struct tls *t, struct pl_err *err)
{
    int r = 1;
    ERR_clear_error();
    if (!t->shook) {
        r = SSL_do_handshake(t->ssl);
        if (r == 1) {
            int s = settle(t, err);
            if (s < 0)
                return s;
        }
    }
    if (r == 1)
        r = await(t);
    int flushed = tls_flush(t);
    if (r == 1 && flushed == 0)
        return 0;
    if (r != 1 && (SSL_get_error(t->ssl, r) != SSL_ERROR_WANT_READ || t->error))
        return failed(t, err);
    return flushed < 0 && flushed != -EAGAIN ? failed(t, err) : -EAGAIN;
}

static int step_until(struct tls *t, int ms, int cancel, struct pl_err *err)
{
    int64_t end = mono_ms() + ms;
    for (;;) {
        int r = tls_step(t, err);
        if (r != -EAGAIN)
            return r;
        struct pollfd p[2] = {{.fd = t->fd, .events = tls_events(t)},
                              {.fd = cancel, .events = POLLIN}};
        int64_t left = end - mono_ms();
        if (left <= 0)
            return pl_fail(err, -ETIMEDOUT,
                           "%s: no TLS handshake within %d s (does the server speak TLS?)", t->peer,
                           ms / 1000);
        if (poll(p, 2, (int)left) > 0 && p[1].revents)
            return pl_fail(err, -ECANCELED, "%s: given up", t->peer);
    }
}

int tls_connect(int fd, const char *peer, const char *host, const char *port, int ms, int cancel,
                struct tls **ret, struct pl_err *err)
{
    struct tls_ctx *ctx;
    struct pl_err why;
    cred_reset();
    int r = tls_ctx_new(false, &ctx, &why);
    if (r < 0)
        return pl_fail(err, r, "%s: %s", peer, why.text);
    r = tls_new(ctx, fd, peer, host, port, ret, err);
    tls_ctx_free(ctx); /* the SSL has its own reference to what it needs */
    if (r < 0)
        return r;
    r = step_until(*ret, ms, cancel, err);
    if (r < 0)
        tls_free(*ret);
    return r;
}

int tls_fetch(int fd, const char *peer, const char *host, int ms, X509 **ret, struct pl_err *err)
{
    SSL_CTX *ctx;
    struct tls *t;
    int r = make_ctx(false, true, &ctx, err);
    if (r < 0)
        return r;
    r = start(SSL_new(ctx), fd, peer, host, "", true, &t, err);
    SSL_CTX_free(ctx);
    if (r < 0)
        return r;
    r = step_until(t, ms, -1, err);
    *ret = SSL_get1_peer_certificate(t->ssl);
    if (*ret)
        r = 0; /* that it wants to know more of us is its affair */
    else if (r == 0)
        r = pl_fail(err, -ENOENT, "%s: the server shows no certificate (it uses pre-shared keys)",
                    peer);
    tls_free(t);
    return r;
}
