/* SPDX-License-Identifier: MIT */
/*
 * What may be sent twice. The first answer may be lost with the connection; then the request was
 * carried out, or not, or is yet to be.
 *
 *   FREELY  changes nothing, or nothing that outlives its connection (fids, files without a name)
 *   SAME    the second time finds what the first has left and leaves the same: bytes at an offset,
 *           attributes of given values, a lock of the same owner. (What another client did between
 *           the two is overwritten, as it would have been by one that came later.)
 *   ONCE    the second time would fail, or do more: sent again only with an identity, to a server
 *           that knows our earlier ones; else -EREMOTEIO.
 *
 * What can carry an identity and changes something does, so that a server that remembers does also
 * what is SAME only once.
 */
#include "sources/p9_again.h"
#include <fcntl.h>
#include <linux/falloc.h>

enum { FID = 1, DFID = 2, NEWDFID = 4, FID2 = 8, OP = 16 };

static const struct row {
    uint8_t known, repeat, what;
} rows[256] = {
#define ROW(type, repeat, what) [P9_##type] = {1, P9S_##repeat, what}
    ROW(Tstatfs, FREELY, FID),
    ROW(Tlopen, FREELY, FID),      /* with O_TRUNC: SAME, and an identity */
    ROW(Tlcreate, SAME, FID | OP), /* with O_EXCL: ONCE */
    ROW(Tsymlink, ONCE, DFID | OP),
    ROW(Tmknod, ONCE, DFID | OP),
    ROW(Trename, ONCE, FID | DFID | OP),
    ROW(Treadlink, FREELY, FID),
    ROW(Tgetattr, FREELY, FID),
    ROW(Tsetattr, SAME, FID | OP), /* "now" is later the second time */
    ROW(Txattrwalk, FREELY, FID),
    ROW(Txattrcreate, FREELY, FID), /* the deed is the clunk */
    ROW(Treaddir, FREELY, FID),
    ROW(Tfsync, SAME, FID),
    ROW(Tlock, SAME, FID),
    ROW(Tgetlock, FREELY, FID),
    ROW(Tlink, ONCE, FID | DFID | OP),
    ROW(Tmkdir, ONCE, DFID | OP),
    ROW(Trenameat, ONCE, DFID | NEWDFID | OP),
    ROW(Tunlinkat, ONCE, DFID | OP),
    ROW(Tattach, FREELY, 0),
    ROW(Twalk, FREELY, FID),
    ROW(Tread, FREELY, FID), /* of a stream: ONCE, its caller says so */
    ROW(Twrite, SAME, FID),  /* to the end of a file or into a stream: the same */
    ROW(Twrite2, ONCE, FID | OP),
    ROW(Topen, FREELY, FID), /* with OTRUNC: SAME */
    ROW(Tcreate, ONCE, FID), /* also a link to another fid: see p9s_names() */
    ROW(Tstat, FREELY, FID),
    ROW(Twstat, SAME, FID),      /* with a name: ONCE */
    ROW(Tclunk, SAME, FID | OP), /* of a written attribute: ONCE, if it depends on the one before */
    ROW(Tremove, ONCE, FID | OP),
    ROW(Tkey, FREELY, FID),
    ROW(Tfind, FREELY, FID),
    ROW(Tlist, FREELY, FID),
    ROW(Tlend, FREELY, FID),
    ROW(Trename2, ONCE, DFID | NEWDFID | OP),
    ROW(Tfallocate, SAME, FID | OP), /* what moves bytes: ONCE */
    ROW(Tseek, FREELY, FID),
    ROW(Tcopy, SAME, FID | FID2 | OP),
    ROW(Ttmpfile, FREELY, DFID), /* one that was made and not heard of has no name: it is gone */
    ROW(Taccess, FREELY, FID),
    ROW(Tflushfile, SAME, FID),
    ROW(Tsyncfs, SAME, FID),
    ROW(Tlookup, FREELY, DFID),
    ROW(Tioctl, ONCE, FID), /* nobody knows what it does */
#undef ROW
};

enum p9s_repeat p9s_repeat(const struct p9_msg *m)
{
    const struct row *row = &rows[m->type];
    if (!row->known)
        return P9S_ONCE;
    if (m->type == P9_Tlopen && (m->flags & P9_TRUNC))
        return P9S_SAME;
    if (m->type == P9_Topen && (m->omode & P9_OTRUNC))
        return P9S_SAME;
    if (m->type == P9_Tlcreate && (m->flags & P9_EXCL))
        return P9S_ONCE;
    if (m->type == P9_Twstat && m->stat.name.len)
        return P9S_ONCE;
    if (m->type == P9_Tfallocate && (m->mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE)))
        return P9S_ONCE;
    return (enum p9s_repeat)row->repeat;
}

bool p9s_has_op(const struct p9_msg *m)
{
    return rows[m->type].what & OP || (m->type == P9_Tlopen && (m->flags & P9_TRUNC));
}

int p9s_names(const struct p9_msg *m, uint32_t fids[3])
{
    uint8_t what = rows[m->type].what;
    int n = 0;
    if (what & FID)
        fids[n++] = m->fid;
    if (what & DFID)
        fids[n++] = m->dfid;
    if (what & NEWDFID)
        fids[n++] = m->newdfid;
    if (what & FID2 || (m->type == P9_Tcreate && (m->mode & P9_DMLINK)))
        fids[n++] = m->fid2; /* of a link in 9P2000.u the text says it */
    return n;
}
