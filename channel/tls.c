/* SPDX-License-Identifier: MIT */
/*
 * Bytes through TLS.
 *
 * tls->lock guards the SSL and all of struct tls but `more`, which is the reader's. It is held for
 * one record at a time, and nothing under it blocks: the SSL sees no descriptor, but two buffers of
 * ours. What comes off the socket waits in `in` until the SSL asks for it; what the SSL makes goes
 * to `out`, whole, and from there to the socket as far as that takes it. So no call ever has to be
 * repeated for the sake of OpenSSL, and an answer that the protocol itself asks for (KeyUpdate) is
 * no reason for a reader to wait for the socket to be writable.
 *
 * A record that was made must go out, and only who writes polls for that. So when the socket does
 * not take all of a record, its last byte is kept back from the count: the writer still has
 * something to write, and comes again. `held` is that byte.
 */
#include "base/limits.h"
#include "channel/cert.h"
#include "channel/tls_priv.h"
#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    IN_SIZE = 32768,
    RECORD = 16384,      /* plaintext in one record, at most */
    OUT_MAX = 16 * 65536 /* of what the protocol itself wants said to a peer that does not read */
};

/* ---- between the SSL and the socket ---- */

static int fill(struct tls *t)
{
    if (!t->in && !(t->in = malloc(IN_SIZE)))
        return -ENOMEM;
    ssize_t n;
    do
        n = recv(t->fd, t->in, IN_SIZE, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n <= 0) { /* an idle connection holds no buffer */
        free(t->in);
        t->in = NULL;
        return n < 0 ? -errno : 0;
    }
    t->in_at = 0;
    t->in_end = (size_t)n;
    return (int)n;
}

static int bio_read(BIO *bio, char *buf, size_t size, size_t *ret)
{
    struct tls *t = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (t->in_at == t->in_end) {
        int r = fill(t);
        if (r <= 0) {
            if (r == -EAGAIN)
                BIO_set_retry_read(bio);
            else if (r < 0)
                t->error = r;
            else
                t->eof = true;
            return 0;
        }
    }
    *ret = t->in_end - t->in_at < size ? t->in_end - t->in_at : size;
    memcpy(buf, t->in + t->in_at, *ret);
    t->in_at += *ret;
    return 1;
}

static int bio_write(BIO *bio, const char *buf, size_t n, size_t *ret)
{
    struct tls *t = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (t->out_end + n > t->out_room) {
        size_t room = t->out_end + n < 2 * RECORD ? 2 * RECORD : t->out_end + n;
        uint8_t *more = room > OUT_MAX ? NULL : realloc(t->out, room);
        if (!more) {
            t->error = room > OUT_MAX ? -ENOBUFS : -ENOMEM;
            return 0;
        }
        t->out = more;
        t->out_room = room;
    }
    memcpy(t->out + t->out_end, buf, n);
    t->out_end += n;
    *ret = n;
    return 1;
}

static long bio_ctrl(BIO *bio, int cmd, long num, void *ptr)
{
    struct tls *t = BIO_get_data(bio);
    if (cmd == BIO_CTRL_EOF)
        return t->eof;
    return cmd == BIO_CTRL_FLUSH || cmd == BIO_CTRL_DUP;
}

BIO *tls_bio(struct tls *t)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static BIO_METHOD *method;
    pthread_mutex_lock(&mutex);
    if (!method) {
        BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "plenum");
        if (m && BIO_meth_set_read_ex(m, bio_read) && BIO_meth_set_write_ex(m, bio_write) &&
            BIO_meth_set_ctrl(m, bio_ctrl))
            method = m;
        else
            BIO_meth_free(m);
    }
    BIO *bio = method ? BIO_new(method) : NULL;
    pthread_mutex_unlock(&mutex);
    if (bio) {
        BIO_set_data(bio, t);
        BIO_set_init(bio, 1);
    }
    return bio;
}

int tls_flush(struct tls *t)
{
    while (t->out_at < t->out_end) {
        ssize_t n =
            send(t->fd, t->out + t->out_at, t->out_end - t->out_at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? -EAGAIN : (t->error = -errno);
        t->out_at += (size_t)n;
    }
    free(t->out);
    t->out = NULL;
    t->out_at = t->out_end = t->out_room = 0;
    return 0;
}

/* Why the SSL gave nothing. */
static ssize_t why(struct tls *t, int result)
{
    int e = SSL_get_error(t->ssl, result);
    if (e == SSL_ERROR_WANT_READ && !t->error)
        return -EAGAIN;
    if (e == SSL_ERROR_ZERO_RETURN)
        return 0;
    t->broken = true;
    if (!t->error) {
        /* An end without goodbye may be anybody's doing, an alert is the peer's word. */
        int reason = ERR_GET_REASON(ERR_peek_error());
        t->error = t->eof ? -ECONNRESET : reason > SSL_AD_REASON_OFFSET ? -EACCES : -EPROTO;
    }
    ERR_clear_error();
    return t->error;
}

/* ---- the channel's ---- */

static ssize_t read_record(struct tls *t, void *buf, size_t size)
{
    size_t n = 0;
    pthread_mutex_lock(&t->lock);
    ERR_clear_error();
    int ok = t->broken ? 0 : SSL_read_ex(t->ssl, buf, size, &n);
    ssize_t r = t->broken ? t->error : ok ? (ssize_t)n : why(t, ok);
    if (!t->broken)
        tls_flush(t); /* what the peer asked to be said; if not now, with what is written next */
    t->more = r > 0 && (SSL_pending(t->ssl) > 0 || t->in_at < t->in_end);
    pthread_mutex_unlock(&t->lock);
    return r;
}

static ssize_t io_read(struct chan *chan, const struct iovec *iov, int n)
{
    struct tls *t = chan->io_state;
    size_t done = 0;
    for (int i = 0; i < n; i++) {
        for (size_t at = 0; at < iov[i].iov_len;) {
            ssize_t r = read_record(t, (uint8_t *)iov[i].iov_base + at, iov[i].iov_len - at);
            if (r <= 0) /* an end or error comes again */
                return done ? (ssize_t)done : r;
            done += (size_t)r;
            at += (size_t)r;
        }
    }
    return (ssize_t)done;
}

/* Where a writer is in what it was given. */
struct source {
    const struct iovec *iov;
    int n;
    size_t at; /* in iov[0] */
};

static void skip(struct source *s, size_t n)
{
    while (s->n && n >= s->iov->iov_len - s->at) {
        n -= s->iov->iov_len - s->at;
        s->at = 0;
        s->iov++;
        s->n--;
    }
    s->at += n;
}

/* The next record's bytes: at *ret, which is `buf` where they had to be put together. A record does
 * not end with the first byte of a message that has only begun: `held` would be of a message that
 * its writer may still think better of. */
static size_t gather(const struct source *s, uint8_t buf[RECORD], const uint8_t **ret)
{
    size_t n = 0, at = s->at;
    if (s->n && s->iov->iov_len - at >= RECORD) {
        *ret = (const uint8_t *)s->iov->iov_base + at;
        return RECORD;
    }
    for (int i = 0; i < s->n && n < RECORD; i++, at = 0) {
        size_t len = s->iov[i].iov_len - at;
        if (len > RECORD - n)
            len = RECORD - n;
        if (n && i && len == 1)
            break;
        memcpy(buf + n, (const uint8_t *)s->iov[i].iov_base + at, len);
        n += len;
    }
    *ret = buf;
    return n;
}

/* One record and what was left of the last: how many bytes were taken, 0 for none any more. */
static ssize_t write_record(struct tls *t, struct source *s)
{
    uint8_t buf[RECORD];
    const uint8_t *data;
    size_t n = 0;
    int r = tls_flush(t);
    if (r < 0)
        return r;
    if (t->held) {
        t->held = false;
        skip(s, 1);
        return 1;
    }
    size_t len = gather(s, buf, &data);
    if (!len)
        return 0;
    ERR_clear_error();
    int ok = SSL_write_ex(t->ssl, data, len, &n);
    if (!ok)
        return why(t, ok) == -EAGAIN ? -EPROTO : t->error ?: -EPIPE;
    r = tls_flush(t);
    if (r < 0 && r != -EAGAIN)
        return r;
    t->held = r == -EAGAIN;
    skip(s, n - t->held);
    return (ssize_t)n - t->held ?: -EAGAIN;
}

static ssize_t io_write(struct chan *chan, const struct iovec *iov, int n)
{
    struct tls *t = chan->io_state;
    struct source s = {iov, n, 0};
    size_t done = 0;
    for (;;) {
        pthread_mutex_lock(&t->lock);
        ssize_t r = t->broken ? t->error : write_record(t, &s);
        bool full = t->held;
        pthread_mutex_unlock(&t->lock);
        if (r > 0)
            done += (size_t)r;
        if (r <= 0 || full)
            return done || r >= 0 ? (ssize_t)done : r;
    }
}

static bool io_pending(const struct chan *chan)
{
    const struct tls *t = chan->io_state;
    return t->more;
}

static void io_forget(struct chan *chan)
{
    tls_free(chan->io_state);
    chan->io_state = NULL;
}

static void io_close(struct chan *chan)
{
    struct tls *t = chan->io_state;
    if (!t->broken) {
        SSL_shutdown(t->ssl);
        tls_flush(t);
    }
    io_forget(chan);
}

static const struct chan_io tls_io = {io_read, io_write, io_pending, io_close, io_forget};

void tls_into(struct tls *t, struct chan *chan)
{
    memcpy(chan->who, t->who, sizeof(chan->who));
    chan->io = &tls_io;
    chan->io_state = t;
    /* What came behind the handshake is here already. */
    t->more = SSL_pending(t->ssl) > 0 || t->in_at < t->in_end;
}

void tls_free(struct tls *t)
{
    if (!t)
        return;
    SSL_free(t->ssl);
    pthread_mutex_destroy(&t->lock);
    free(t->in);
    free(t->out);
    free(t);
}
