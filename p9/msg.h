/* SPDX-License-Identifier: MIT */
/*
 * 9P messages: one flat struct for all of them, and its encoding, decoding and printing by walking
 * the table of p9/table.h. Pure functions; no I/O.
 */
#ifndef P9_MSG_H
#define P9_MSG_H

#include "base/limits.h"
#include "p9/table.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define P9_NOTAG    0xffffu
#define P9_NOFID    0xffffffffu
#define P9_NONUNAME 0xffffffffu
#define P9_HDRSZ    7  /* size[4] type[1] tag[2] */
#define P9_IOHDRSZ  24 /* what a read or write needs besides its data, at most */
#define P9_RREADHDR 11 /* of Rread and Rreaddir: header and count[4] */

#define P9_VERSION     "9P2000"
#define P9_VERSION_U   "9P2000.u"
#define P9_VERSION_L   "9P2000.L"
#define P9_VERSION_OWN "9P2000.L.plenum"

enum p9_dialect { P9_L, P9_U, P9_BASE };

enum p9_type { /* P9_Tversion = 100, ... */
#define M(num, name, ...) P9_##name = num,
               P9_MESSAGES(M)
#undef M
};

/* qid.type bits. The last two are ours, of the answers that open a file: its content differs from
 * open to open (do not cache it; of Rattach: true of the whole tree); it has no offsets, no size.
 */
enum {
    P9_QTDIR = 0x80,
    P9_QTAPPEND = 0x40,
    P9_QTEXCL = 0x20,
    P9_QTSYMLINK = 0x02,
    P9_QTFILE = 0,
    P9_QTDIRECT = 0x04,
    P9_QTSTREAM = 0x01
};

enum p9_getattr_mask {
    P9_GETATTR_MODE = 0x1,
    P9_GETATTR_NLINK = 0x2,
    P9_GETATTR_UID = 0x4,
    P9_GETATTR_GID = 0x8,
    P9_GETATTR_RDEV = 0x10,
    P9_GETATTR_ATIME = 0x20,
    P9_GETATTR_MTIME = 0x40,
    P9_GETATTR_CTIME = 0x80,
    P9_GETATTR_INO = 0x100,
    P9_GETATTR_SIZE = 0x200,
    P9_GETATTR_BLOCKS = 0x400,
    P9_GETATTR_BTIME = 0x800,
    P9_GETATTR_GEN = 0x1000,
    P9_GETATTR_DATA_VERSION = 0x2000,
    P9_GETATTR_BASIC = 0x7ff,
    P9_GETATTR_ALL = 0x3fff,
};
/* Ours, of Rlookup and Rlist, and of Rgetattr if it was asked for: the object has no extended
 * attributes. */
#define P9_GETATTR_NO_XATTR (1ull << 32)

enum p9_setattr_valid {
    P9_SETATTR_MODE = 0x1,
    P9_SETATTR_UID = 0x2,
    P9_SETATTR_GID = 0x4,
    P9_SETATTR_SIZE = 0x8,
    P9_SETATTR_ATIME = 0x10, /* without _SET: the server's clock */
    P9_SETATTR_MTIME = 0x20,
    P9_SETATTR_CTIME = 0x40,
    P9_SETATTR_ATIME_SET = 0x80,
    P9_SETATTR_MTIME_SET = 0x100,
};

enum p9_lopen_flags {
    P9_WRONLY = 01,
    P9_RDWR = 02,
    P9_CREATE = 0100,
    P9_EXCL = 0200,
    P9_NOCTTY = 0400,
    P9_TRUNC = 01000,
    P9_APPEND = 02000,
    P9_NONBLOCK = 04000,
    P9_DSYNC = 010000,
    P9_FASYNC = 020000,
    P9_DIRECT = 040000,
    P9_LARGEFILE = 0100000,
    P9_DIRECTORY = 0200000,
    P9_NOFOLLOW = 0400000,
    P9_NOATIME = 01000000,
    P9_CLOEXEC = 02000000,
    P9_SYNC = 04000000,
};

enum { P9_AT_REMOVEDIR = 0x200 };
enum { P9_SESSION_REMEMBERS = 1, P9_SESSION_KNOWN = 2 }; /* flags of Rsession */
/* Ours: above the mode of a creating message stands the umask, which is still to be applied (where
 * a directory has a default ACL it must not be, and only the server knows). */
enum { P9_UMASK_SHIFT = 16 };
enum { P9_LOCK_RD = 0, P9_LOCK_WR = 1, P9_LOCK_UN = 2 };
/* FLOCK is ours: a lock of flock(2), which knows nothing of the others. */
enum { P9_LOCK_BLOCK = 1, P9_LOCK_RECLAIM = 2, P9_LOCK_FLOCK = 0x100 };
enum { P9_LOCK_SUCCESS = 0, P9_LOCK_BLOCKED = 1, P9_LOCK_ERROR = 2, P9_LOCK_GRACE = 3 };

/* Of Topen and Tcreate in the older dialects. APPEND is of Linux's 9P2000.u. */
enum p9_omode {
    P9_OREAD = 0,
    P9_OWRITE = 1,
    P9_ORDWR = 2,
    P9_OEXEC = 3,
    P9_OTRUNC = 0x10,
    P9_OCEXEC = 0x20,
    P9_ORCLOSE = 0x40,
    P9_OAPPEND = 0x80,
};
/* Modes in the older dialects: the permissions, and these. From SYMLINK on 9P2000.u's. */
enum p9_dm {
    P9_DMAPPEND = 0x40000000,
    P9_DMEXCL = 0x20000000,
    P9_DMMOUNT = 0x10000000,
    P9_DMAUTH = 0x08000000,
    P9_DMTMP = 0x04000000,
    P9_DMSYMLINK = 0x02000000,
    P9_DMLINK = 0x01000000,
    P9_DMDEVICE = 0x00800000,
    P9_DMNAMEDPIPE = 0x00200000,
    P9_DMSOCKET = 0x00100000,
    P9_DMSETUID = 0x00080000,
    P9_DMSETGID = 0x00040000,
    P9_DMSETVTX = 0x00010000,
};
#define P9_DMDIR 0x80000000u

/* After p9_decode: s[len] is NUL, and there is no other NUL in it. To encode no NUL is needed. */
struct p9_str {
    uint16_t len;
    const char *s;
};
/* NULL is the empty string; a string over 65535 bytes is cut (and refused when encoded, as any
 * over its limit). */
struct p9_str p9_str(const char *s);

struct p9_qid {
    uint8_t type;
    uint32_t version;
    uint64_t path;
};

struct p9_attr {    /* Rgetattr, Rlookup */
    uint64_t valid; /* P9_GETATTR_* */
    struct p9_qid qid;
    uint32_t mode, uid, gid;
    uint64_t nlink, rdev, size, blksize, blocks;
    uint64_t atime_sec, atime_nsec, mtime_sec, mtime_nsec;
    uint64_t ctime_sec, ctime_nsec, btime_sec, btime_nsec;
    uint64_t gen, data_version;
};

/* Rstat, Twstat and the entries of directories, in the older dialects. In Twstat ~0 and "" mean:
 * not to be changed. */
struct p9_stat {
    uint16_t type;
    uint32_t dev;
    struct p9_qid qid;
    uint32_t mode, atime, mtime;
    uint64_t length;
    struct p9_str name, uid, gid, muid;
    struct p9_str extension; /* of 9P2000.u: a symlink's target, "b 8 0" of a device, ... */
    uint32_t n_uid, n_gid, n_muid;
};
/* One that changes nothing. */
#define P9_STAT_SAME                                                                               \
    (struct p9_stat)                                                                               \
    {                                                                                              \
        .type = UINT16_MAX, .dev = UINT32_MAX, .qid = {UINT8_MAX, UINT32_MAX, UINT64_MAX},         \
        .mode = UINT32_MAX, .atime = UINT32_MAX, .mtime = UINT32_MAX, .length = UINT64_MAX,        \
        .n_uid = UINT32_MAX, .n_gid = UINT32_MAX, .n_muid = UINT32_MAX                             \
    }

struct p9_setattr {
    uint32_t valid; /* P9_SETATTR_* */
    uint32_t mode, uid, gid;
    uint64_t size, atime_sec, atime_nsec, mtime_sec, mtime_nsec;
};

struct p9_statfs {
    uint32_t type, bsize;
    uint64_t blocks, bfree, bavail, files, ffree, fsid;
    uint32_t namelen;
};

struct p9_lock {
    uint8_t type;
    uint32_t flags; /* Tlock only */
    uint64_t start, length;
    uint32_t proc_id;
    struct p9_str client_id;
};

/* Which members a message has: p9/table.h. The others are 0 after p9_decode and need not be set to
 * encode. What no message has together shares its place: a message is zeroed often. */
struct p9_msg {
    uint8_t type;    /* enum p9_type */
    uint8_t dialect; /* enum p9_dialect: in which it is encoded, or was decoded */
    uint16_t tag;

    uint32_t fid, newfid, dfid, newdfid, afid, fid2;
    struct p9_str name, name2; /* of renames: the old and the new name */
    struct p9_str target;      /* of a symlink */
    struct p9_str uname, aname, version;
    struct p9_str ename, extension;
    struct p9_qid qid;
    uint16_t oldtag;
    uint8_t status; /* Rlock */
    uint8_t omode;  /* enum p9_omode */
    uint32_t ecode, msize, iounit;
    uint32_t flags, mode, gid, n_uname, major, minor, datasync, whence;
    uint32_t cmd, out_size, result; /* Tioctl, Rioctl; the result is an int32_t */
    uint64_t offset, offset2, length, size, mask, owner;
    uint64_t op;    /* what the operation is remembered by; 0: it is not (p9/table.h, OP) */
    uint64_t id[2]; /* Tsession */

    /* DATA: count[4] and that many bytes. Of Tread, Treaddir and Rwrite only the count. */
    uint32_t count;
    void *data; /* encoding only reads it */

    union {
        struct p9_attr attr;
        struct p9_setattr set;
        struct p9_statfs statfs;
        struct p9_lock lock;
        struct p9_stat stat;
    };

    uint16_t nwname, nwqid;
    union {
        struct p9_str wname[LIMIT_WALK];
        struct p9_qid wqid[LIMIT_WALK];
    };
};

/* "Twalk", or NULL when there is no such message. */
const char *p9_type_name(uint8_t type);
static inline bool p9_is_own(uint8_t type)
{
    return type >= P9_OWN_FIRST && type <= P9_OWN_LAST;
}

/* The message ends with DATA; it has strings or data, which point into the buffer it came from. */
bool p9_has_data(uint8_t type);
bool p9_has_refs(uint8_t type);
/* One of the fids that the message names is `fid`. */
bool p9_names_fid(const struct p9_msg *msg, uint32_t fid);
/* Tells messages apart, whatever their tag: all of a message counts, but of DATA only its size and
 * the first and last bytes. Against mistakes, not against who means harm. */
uint64_t p9_msg_hash(const struct p9_msg *msg);

/* Bytes of the encoded message; 0 for a type that its dialect does not have. */
size_t p9_encode_size(const struct p9_msg *msg);
/* Encodes: bytes written. -EMSGSIZE: `size` is too small; -ENAMETOOLONG: a string passes its limit;
 * -EINVAL: a string has a NUL, nwname or nwqid pass theirs; -EOPNOTSUPP: its dialect has no such
 * type. */
int p9_encode(const struct p9_msg *msg, void *buf, size_t size);
/* The same less the bytes of DATA, which are to follow (the size field counts them). */
int p9_encode_head(const struct p9_msg *msg, void *buf, size_t size);

/* Decodes one whole message of `n` bytes, size field included. Strings and data of *msg point into
 * `buf`, which is changed (a NUL goes behind every string): it can be decoded only once.
 * 0; -EOPNOTSUPP: no such type (msg->type and tag are set); -ENAMETOOLONG: a string passes its
 * limit; -EINVAL: a NUL in a string, more than 16 names; -EPROTO: fields and size do not agree.
 * When n >= P9_HDRSZ, type and tag are set whatever comes. */
int p9_decode(void *buf, size_t n, struct p9_msg *msg); /* 9P2000.L */
int p9_decode_as(enum p9_dialect dialect, void *buf, size_t n, struct p9_msg *msg);
/* The same for a message with its DATA apart: `head` ends with count[4], which must be `ndata`.
 * (What has DATA is the same in all dialects.) */
int p9_decode_split(void *head, size_t nhead, void *data, size_t ndata, struct p9_msg *msg);

/* "Twalk tag 3 fid 1 newfid 2 wname usr/lib": for traces; escaped, cut to `size`. Returns buf. */
char *p9_print(const struct p9_msg *msg, char *buf, size_t size);

/* ---- entries of Rreaddir ---- */

struct p9_dirent {
    struct p9_qid qid;
    uint64_t offset; /* of the next entry */
    uint8_t type;    /* DT_* */
    struct p9_str name;
};
/* Appends an entry to `buf` with `room` bytes left: bytes written, 0 when it does not fit, or
 * -ENAMETOOLONG / -EINVAL. */
int p9_dirent_put(void *buf, size_t room, const struct p9_dirent *ent);
/* Takes the next entry off `n` bytes (changed, as by p9_decode): bytes used, 0 when n is 0,
 * or -EPROTO / -ENAMETOOLONG / -EINVAL. */
int p9_dirent_get(void *buf, size_t n, struct p9_dirent *ent);

/* ---- entries of directories in the older dialects: what Rread of one is full of ---- */

/* Both as the two above. */
int p9_stat_put(enum p9_dialect dialect, void *buf, size_t room, const struct p9_stat *st);
int p9_stat_get(enum p9_dialect dialect, void *buf, size_t n, struct p9_stat *st);

/* ---- errors in the older dialects: error.c ---- */

/* What Rerror says for an errno: a sentence that 9P's users know. Never NULL. */
const char *p9_error_text(int error);
/* The errno that is meant; EIO when nobody knows the sentence. */
int p9_error_number(const struct p9_str *text);
/* ---- entries of Rlist ---- */

struct p9_entry {
    struct p9_attr attr; /* valid is 0 where there are no attributes, but for qid */
    uint64_t offset;     /* of the next entry */
    uint8_t type;        /* DT_* */
    struct p9_str name;  /* "": not an entry, but word that nothing follows */
};
/* Of an entry but for its name. */
#define P9_ENTRY_SIZE (153 + 8 + 1 + 2)
/* Tlist's offset: where this fid's last Rlist ended. */
#define P9_LIST_ON UINT64_MAX
/* As p9_dirent_put and p9_dirent_get. */
int p9_entry_put(void *buf, size_t room, const struct p9_entry *ent);
int p9_entry_get(void *buf, size_t n, struct p9_entry *ent);

#endif
