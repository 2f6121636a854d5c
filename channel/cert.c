/* SPDX-License-Identifier: MIT */
#include "channel/cert.h"
#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

const char *cert_reason(void)
{
    unsigned long code = ERR_peek_last_error();
    const char *text = code ? ERR_reason_error_string(code) : NULL;
    ERR_clear_error();
    return text ? text : "OpenSSL does not say why";
}

/* A day of slack for clocks; and no end (RFC 5280 4.1.2.5), as an ssh key has none. */
static bool set_fields(X509 *cert, EVP_PKEY *key, const char *name)
{
    uint64_t serial;
    X509_NAME *subject = X509_get_subject_name(cert);
    if (RAND_bytes((unsigned char *)&serial, sizeof(serial)) != 1)
        return false;
    return X509_set_version(cert, X509_VERSION_3) &&
           ASN1_INTEGER_set_uint64(X509_get_serialNumber(cert), serial >> 1) &&
           X509_gmtime_adj(X509_getm_notBefore(cert), -86400) &&
           ASN1_TIME_set_string(X509_getm_notAfter(cert), "99991231235959Z") &&
           X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1,
                                      -1, 0) &&
           X509_set_issuer_name(cert, subject) && X509_set_pubkey(cert, key);
}

/* It signs nothing but itself. */
static bool set_end_entity(X509 *cert)
{
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, cert, cert, NULL, NULL, 0);
    X509_EXTENSION *ext =
        X509V3_EXT_conf_nid(NULL, &ctx, NID_basic_constraints, "critical,CA:FALSE");
    bool good = ext && X509_add_ext(cert, ext, -1);
    X509_EXTENSION_free(ext);
    return good;
}

int cert_make(const char *name, char **ret, size_t *ret_n, struct pl_err *err)
{
    EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    X509 *cert = X509_new();
    BIO *out = BIO_new(BIO_s_secmem());
    char *data;
    long n;
    bool good = key && cert && out && set_fields(cert, key, name) && set_end_entity(cert) &&
                X509_sign(cert, key, NULL) > 0 &&
                PEM_write_bio_PrivateKey(out, key, NULL, NULL, 0, NULL, NULL) &&
                PEM_write_bio_X509(out, cert) && (n = BIO_get_mem_data(out, &data)) > 0 &&
                (*ret = OPENSSL_memdup(data, (size_t)n));
    if (good)
        *ret_n = (size_t)n;
    EVP_PKEY_free(key);
    X509_free(cert);
    BIO_free(out);
    return good ? 0 : pl_fail(err, -EIO, "cannot make a key: %s", cert_reason());
}

X509 *cert_parse(const char *pem, size_t n)
{
    BIO *in = BIO_new_mem_buf(pem, (int)n);
    X509 *cert = in ? PEM_read_bio_X509(in, NULL, NULL, NULL) : NULL;
    BIO_free(in);
    ERR_clear_error();
    return cert;
}

char *cert_text(X509 *cert, size_t *ret_n)
{
    BIO *out = BIO_new(BIO_s_mem());
    char *data, *copy = NULL;
    long n;
    if (out && PEM_write_bio_X509(out, cert) && (n = BIO_get_mem_data(out, &data)) > 0) {
        copy = OPENSSL_strndup(data, (size_t)n);
        *ret_n = (size_t)n;
    }
    BIO_free(out);
    return copy;
}

void cert_print(X509 *cert, uint8_t ret[KEYS_PRINT])
{
    unsigned n = KEYS_PRINT;
    if (!X509_digest(cert, EVP_sha256(), ret, &n) || n != KEYS_PRINT)
        memset(ret, 0, KEYS_PRINT); /* no memory: matches nothing */
}

bool cert_name(X509 *cert, char ret[KEYS_NAME + 1])
{
    X509_NAME *subject = X509_get_subject_name(cert);
    int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    X509_NAME_ENTRY *entry = at >= 0 ? X509_NAME_get_entry(subject, at) : NULL;
    unsigned char *utf8 = NULL;
    int n = entry ? ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(entry)) : -1;
    /* One name only: which of two counts would be a matter of opinion. */
    bool good = n > 0 && keys_name_ok((const char *)utf8, (size_t)n) &&
                X509_NAME_get_index_by_NID(subject, NID_commonName, at) < 0;
    snprintf(ret, KEYS_NAME + 1, "%.*s", good ? n : 0, good ? (const char *)utf8 : "");
    OPENSSL_free(utf8);
    ERR_clear_error();
    return good;
}

enum cert_time cert_when(X509 *cert, char when[16])
{
    const ASN1_TIME *from = X509_get0_notBefore(cert), *to = X509_get0_notAfter(cert), *which = to;
    enum cert_time result = CERT_VALID;
    struct tm tm = {0};
    /* 0: it cannot be read. That is not valid either. */
    if (X509_cmp_current_time(from) >= 0)
        result = CERT_EARLY, which = from;
    else if (X509_cmp_current_time(to) <= 0)
        result = CERT_EXPIRED;
    if (!ASN1_TIME_to_tm(which, &tm) || !strftime(when, 16, "%Y-%m-%d", &tm))
        strcpy(when, "some day");
    ERR_clear_error();
    return result;
}
