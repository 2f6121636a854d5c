/* SPDX-License-Identifier: MIT */
/*
 * The journal: what is in hand, so that a successor that is asked again knows.
 *
 * Each worker of the transport has a slot of the ledger as long as it lives. Every request names
 * itself there, by three stores; one whose repetition would be wrong, or would leak, also when it
 * began, and its reply before that is sent. A successor, and ourselves if the kernel was told to
 * ask again while we were stopped, look for the slot of what comes again:
 *
 *   DONE    the reply is sent once more.
 *   BEGUN   it may have been done or not: doors/fuse_redo.c judges.
 *   TAKEN   it is run again.
 *   none    it had not been begun, or may be done twice: it is run.
 *
 * Which requests are journalled: those that change names or attributes relative to what is there,
 * that append, and those whose reply is a thing to be counted (a node, a handle). Not those that
 * set a state: SETATTR, SETLK, WRITE to a place; the kernel holds the object locked until they are
 * answered, or they do not care for others. Of FALLOCATE the kernel lets through only what may be
 * done twice. Nor COPY_FILE_RANGE, which copies the same again.
 *
 * FORGETs that a dead server had read are lost, and lookups that READDIRPLUS had counted but not
 * sent are counted twice: then a node is remembered for longer than it need be. That does no harm.
 *
 * Slots of a predecessor whose requests do not come again (the reply had been sent) are free when
 * whatever was to be sent again has come: fuse_journal_sweep(). s->slot_lock guards who owns which.
 */
#include "base/log.h"
#include "doors/fuse_door.h"
#include "doors/redo.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>

enum { NOBODYS, WORKERS, INHERITED, UNSENT };

#define SET(p, v) atomic_store_explicit(p, v, memory_order_relaxed)
#define GET(p)    atomic_load_explicit(p, memory_order_relaxed)
/* For the compiler: what is before is in memory before what follows. */
#define ORDER() atomic_signal_fence(memory_order_seq_cst)

/* ---- slots ----------------------------------------------------------------------------------- */

static void clear(struct ledger_slot *slot)
{
    SET(&slot->state, LEDGER_FREE);
    ORDER();
    SET(&slot->unique, 0);
    SET(&slot->tries, 0);
}

void fuse_journal_open(struct fuse_sess *s)
{
    struct ledger_head *h = s->ledger->head;
    uint32_t used = atomic_load(&h->slots_used);
    for (uint32_t i = 0; i < LEDGER_SLOTS && i < used; i++) {
        struct ledger_slot *slot = &s->ledger->slot[i];
        if (GET(&slot->state) == LEDGER_FREE || !GET(&slot->unique))
            clear(slot);
        else
            s->slot_owner[i] = INHERITED;
    }
}

struct ledger_slot *fuse_journal_slot(struct fuse_sess *s)
{
    struct ledger_slot *slot = NULL;
    if (!fuse_lasts(s))
        return NULL;
    pthread_mutex_lock(&s->slot_lock);
    for (uint32_t i = 0; i < LEDGER_SLOTS && !slot; i++) {
        if (s->slot_owner[i] != NOBODYS)
            continue;
        s->slot_owner[i] = WORKERS;
        slot = &s->ledger->slot[i];
        if (i >= atomic_load(&s->ledger->head->slots_used))
            atomic_store(&s->ledger->head->slots_used, i + 1);
    }
    pthread_mutex_unlock(&s->slot_lock);
    return slot;
}

static void own(struct fuse_sess *s, struct ledger_slot *slot, uint8_t owner)
{
    pthread_mutex_lock(&s->slot_lock);
    if (owner == NOBODYS)
        clear(slot);
    s->slot_owner[slot - s->ledger->slot] = owner;
    pthread_mutex_unlock(&s->slot_lock);
}

void fuse_journal_slot_done(struct fuse_sess *s, struct ledger_slot *slot)
{
    if (slot)
        own(s, slot, NOBODYS);
}

void fuse_journal_sweep(struct fuse_sess *s)
{
    pthread_mutex_lock(&s->slot_lock);
    for (uint32_t i = 0; i < LEDGER_SLOTS; i++) {
        if (s->slot_owner[i] != INHERITED)
            continue;
        clear(&s->ledger->slot[i]);
        s->slot_owner[i] = NOBODYS;
    }
    pthread_mutex_unlock(&s->slot_lock);
}

/* The slot of a request that comes again, which is the worker's now. */
static struct ledger_slot *again(struct fuse_sess *s, uint64_t unique)
{
    struct ledger_slot *slot = NULL;
    uint32_t used = atomic_load(&s->ledger->head->slots_used);
    pthread_mutex_lock(&s->slot_lock);
    for (uint32_t i = 0; i < LEDGER_SLOTS && i < used && !slot; i++) {
        if (s->slot_owner[i] >= INHERITED && GET(&s->ledger->slot[i].unique) == unique) {
            slot = &s->ledger->slot[i];
            s->slot_owner[i] = WORKERS;
        }
    }
    pthread_mutex_unlock(&s->slot_lock);
    return slot;
}

/* ---- a request ------------------------------------------------------------------------------- */

/* To its end; or to what is no mere bytes, where it may be a command. */
static bool appends(const struct fuse_req *r)
{
    return (r->m.a.write.flags & O_APPEND) || (r->s->tree->flags & PL_TREE_GENERATED);
}

static bool once(const struct fuse_req *r)
{
    switch (r->m.h.opcode) {
    case FUSE_LOOKUP:
    case FUSE_SYMLINK:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_RENAME:
    case FUSE_RENAME2:
    case FUSE_LINK:
    case FUSE_OPEN:
    case FUSE_OPENDIR:
    case FUSE_CREATE:
    case FUSE_TMPFILE:
    case FUSE_SETXATTR:
    case FUSE_REMOVEXATTR:
    case FUSE_IOCTL:
    case FUSE_FLUSH: /* of a document: it is committed */
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
        return true;
    case FUSE_WRITE:
        return appends(r);
    default:
        return false;
    }
}

static void begin(struct fuse_req *r)
{
    struct ledger_slot *slot = r->slot;
    bool journal = once(r);
    SET(&slot->waits, 0);
    slot->opcode = (uint16_t)r->m.h.opcode;
    if (journal) {
        SET(&slot->intent.ino, 0);
        SET(&slot->intent.ino2, 0);
        SET(&slot->intent.born, 0);
        SET(&slot->intent.born2, 0);
        SET(&slot->intent.size1, 0);
        SET(&slot->learned, 0);
        SET(&slot->xattr, 0);
        slot->began = redo_now();
    }
    SET(&slot->state, journal ? LEDGER_BEGUN : LEDGER_TAKEN);
    ORDER();
    SET(&slot->unique, r->m.h.unique & ~FUSE_UNIQUE_RESEND);
    r->journal = journal;
}

/* The noted reply is sent: true if there is one. */
static bool reply_again(struct fuse_req *r)
{
    struct fuse_out_header h;
    uint32_t len = r->slot->reply_len;
    if (GET(&r->slot->state) != LEDGER_DONE || len < sizeof(h) || len > LEDGER_REPLY)
        return false;
    memcpy(&h, r->slot->reply, sizeof(h));
    h.unique = r->m.h.unique;
    struct iovec iov[2] = {{&h, sizeof(h)}, {r->slot->reply + sizeof(h), len - sizeof(h)}};
    fuse_journal_sent(r, r->send(r, iov, len > sizeof(h) ? 2 : 1));
    return true;
}

/* The slot of an earlier delivery. 1: it has been answered; 0 go on; or the answer's error. */
static int carry_on(struct fuse_req *r, struct ledger_slot *slot)
{
    r->slot = slot;
    r->journal = GET(&slot->state) != LEDGER_TAKEN;
    if (reply_again(r))
        return 1;
    if (GET(&slot->tries) >= LEDGER_TRIES) {
        log_say(true, "a request (%s) has killed the server %u times: it is answered with an error",
                fuse_op_name(r->m.h.opcode), GET(&slot->tries));
        return -EIO;
    }
    r->redo = r->journal;
    if (!r->journal)
        begin(r);
    SET(&slot->waits, 0);
    return 0;
}

int fuse_journal_begin(struct fuse_req *r)
{
    struct fuse_sess *s = r->s;
    r->journal = r->redo = r->deed = false;
    if (!r->slot)
        return 0;
    ledger_point(s->ledger, LEDGER_AT_taken);
    struct ledger_slot *slot = NULL;
    if (r->m.h.unique & FUSE_UNIQUE_RESEND)
        slot = again(s, r->m.h.unique & ~FUSE_UNIQUE_RESEND);
    int error = 0;
    if (slot) {
        error = carry_on(r, slot);
    } else {
        SET(&r->slot->tries, 0);
        begin(r);
    }
    if (r->journal && error == 0) {
        r->call.intent = &r->slot->intent;
        ledger_point(s->ledger, LEDGER_AT_begun);
    }
    return error;
}

void fuse_journal_deed(struct fuse_req *r)
{
    if (r->journal && !r->deed) {
        r->deed = true;
        ledger_point(r->s->ledger, LEDGER_AT_deed);
    }
}

/* Remembers that this source notes what it is about to do. */
static void seen_to_note(struct fuse_req *r)
{
    const struct pl_intent *in = &r->slot->intent;
    _Atomic uint32_t *notes = &r->s->ledger->head->notes;
    uint32_t op = r->m.h.opcode, bit = 0;
    if (GET(&in->ino) && (op == FUSE_UNLINK || op == FUSE_RMDIR))
        bit = LEDGER_NOTES_REMOVE;
    else if (GET(&in->ino) && (op == FUSE_RENAME || op == FUSE_RENAME2))
        bit = LEDGER_NOTES_RENAME;
    else if (GET(&in->size1))
        bit = op == FUSE_WRITE ? LEDGER_NOTES_SIZE : 0;
    if (bit & ~GET(notes))
        atomic_fetch_or(notes, bit);
}

void fuse_journal_note(struct fuse_req *r, const struct iovec *iov, int n)
{
    struct ledger_slot *slot = r->slot;
    size_t len = 0;
    if (!r->journal)
        return;
    fuse_journal_deed(r);
    seen_to_note(r);
    ledger_point(r->s->ledger, LEDGER_AT_tables);
    for (int i = 0; i < n; i++) {
        if (iov[i].iov_len > LEDGER_REPLY - len)
            return;
        memcpy(slot->reply + len, iov[i].iov_base, iov[i].iov_len);
        len += iov[i].iov_len;
    }
    slot->reply_len = (uint32_t)len;
    ORDER();
    SET(&slot->state, LEDGER_DONE);
    ORDER();
    ledger_point(r->s->ledger, LEDGER_AT_done);
}

int fuse_journal_sent(struct fuse_req *r, int sent)
{
    if (!r->journal)
        return sent;
    ledger_point(r->s->ledger, LEDGER_AT_replied);
    /* The kernel knows of no such request: it was told meanwhile to ask again. */
    r->unsent = sent == -ENOENT && GET(&r->slot->state) == LEDGER_DONE;
    return r->unsent ? 0 : sent;
}

void fuse_journal_end(struct fuse_req *r, struct ledger_slot **mine)
{
    struct fuse_sess *s = r->s;
    if (!r->slot)
        return;
    if (r->unsent) {
        r->unsent = false;
        own(s, r->slot, UNSENT);
        if (r->slot == *mine)
            *mine = fuse_journal_slot(s);
    } else if (r->slot != *mine) {
        own(s, r->slot, NOBODYS);
    } else {
        SET(&r->slot->state, LEDGER_FREE);
    }
    r->slot = NULL;
}
