/* SPDX-License-Identifier: MIT */
/*
 * The message table: M(number, name, fields...), every message that is sent in 9P2000.L, 9P2000.u
 * and 9P2000: those that all three have, those of 9P2000.L alone, those of the two others, and our
 * own (docs/9p-extensions.md). A field is KIND(member of struct p9_msg), in the order of the wire.
 * From these rows come the numbers (msg.h), encoding, decoding and printing (msg.c).
 *
 * U1 U2 U4 U8 integers; FID the same as U4, a fid; STR len[2] and bytes; NAME the same, a name of a
 * file or attribute; QID; NAMES nwname[2] nwname*s; QIDS nwqid[2] nwqid*qid; DATA count[4] and
 * bytes, only ever last; STAT n[2] and a stat (P9_STAT_FIELDS), only ever last; OPT4 an integer
 * that old peers leave out, only ever last; EXT4 an integer that 9P2000 does not have, U_U4 and
 * U_STR what only 9P2000.u has: where a dialect lacks one, it is decoded as ~0 or "". OP op[8], the
 * identity of an operation that changes something, only ever last and left out when it is 0: so
 * what a plain peer is sent is byte for byte the standard's.
 */
#ifndef P9_TABLE_H
#define P9_TABLE_H

#define P9_ATTR_FIELDS                                                                             \
    U8(attr.valid), QID(attr.qid), U4(attr.mode), U4(attr.uid), U4(attr.gid), U8(attr.nlink),      \
        U8(attr.rdev), U8(attr.size), U8(attr.blksize), U8(attr.blocks), U8(attr.atime_sec),       \
        U8(attr.atime_nsec), U8(attr.mtime_sec), U8(attr.mtime_nsec), U8(attr.ctime_sec),          \
        U8(attr.ctime_nsec), U8(attr.btime_sec), U8(attr.btime_nsec), U8(attr.gen),                \
        U8(attr.data_version)
#define P9_LOCK_FIELDS U8(lock.start), U8(lock.length), U4(lock.proc_id), STR(lock.client_id)

/* A file as 9P2000 and 9P2000.u tell it; members of struct p9_stat. On the wire size[2] stands
 * before them. */
#define P9_STAT_FIELDS                                                                             \
    U2(type), U4(dev), QID(qid), U4(mode), U4(atime), U4(mtime), U8(length), NAME(name), STR(uid), \
        STR(gid), STR(muid), U_STR(extension), U_U4(n_uid), U_U4(n_gid), U_U4(n_muid)

#define P9_MESSAGES(M) P9_L_MESSAGES(M) P9_COMMON_MESSAGES(M) P9_OLD_MESSAGES(M) P9_OWN_MESSAGES(M)

#define P9_L_MESSAGES(M)                                                                           \
    M(7, Rlerror, U4(ecode))                                                                       \
    M(8, Tstatfs, FID(fid))                                                                        \
    M(9, Rstatfs, U4(statfs.type), U4(statfs.bsize), U8(statfs.blocks), U8(statfs.bfree),          \
      U8(statfs.bavail), U8(statfs.files), U8(statfs.ffree), U8(statfs.fsid), U4(statfs.namelen))  \
    M(12, Tlopen, FID(fid), U4(flags), OP(op))                                                     \
    M(13, Rlopen, QID(qid), U4(iounit))                                                            \
    M(14, Tlcreate, FID(fid), NAME(name), U4(flags), U4(mode), U4(gid), OP(op))                    \
    M(15, Rlcreate, QID(qid), U4(iounit))                                                          \
    M(16, Tsymlink, FID(dfid), NAME(name), STR(target), U4(gid), OP(op))                           \
    M(17, Rsymlink, QID(qid))                                                                      \
    M(18, Tmknod, FID(dfid), NAME(name), U4(mode), U4(major), U4(minor), U4(gid), OP(op))          \
    M(19, Rmknod, QID(qid))                                                                        \
    M(20, Trename, FID(fid), FID(dfid), NAME(name), OP(op))                                        \
    M(21, Rrename)                                                                                 \
    M(22, Treadlink, FID(fid))                                                                     \
    M(23, Rreadlink, STR(target))                                                                  \
    M(24, Tgetattr, FID(fid), U8(mask))                                                            \
    M(25, Rgetattr, P9_ATTR_FIELDS)                                                                \
    M(26, Tsetattr, FID(fid), U4(set.valid), U4(set.mode), U4(set.uid), U4(set.gid), U8(set.size), \
      U8(set.atime_sec), U8(set.atime_nsec), U8(set.mtime_sec), U8(set.mtime_nsec), OP(op))        \
    M(27, Rsetattr)                                                                                \
    M(30, Txattrwalk, FID(fid), FID(newfid), NAME(name))                                           \
    M(31, Rxattrwalk, U8(size))                                                                    \
    M(32, Txattrcreate, FID(fid), NAME(name), U8(size), U4(flags))                                 \
    M(33, Rxattrcreate)                                                                            \
    M(40, Treaddir, FID(fid), U8(offset), U4(count))                                               \
    M(41, Rreaddir, DATA(count))                                                                   \
    M(50, Tfsync, FID(fid), OPT4(datasync))                                                        \
    M(51, Rfsync)                                                                                  \
    M(52, Tlock, FID(fid), U1(lock.type), U4(lock.flags), P9_LOCK_FIELDS)                          \
    M(53, Rlock, U1(status))                                                                       \
    M(54, Tgetlock, FID(fid), U1(lock.type), P9_LOCK_FIELDS)                                       \
    M(55, Rgetlock, U1(lock.type), P9_LOCK_FIELDS)                                                 \
    M(70, Tlink, FID(dfid), FID(fid), NAME(name), OP(op))                                          \
    M(71, Rlink)                                                                                   \
    M(72, Tmkdir, FID(dfid), NAME(name), U4(mode), U4(gid), OP(op))                                \
    M(73, Rmkdir, QID(qid))                                                                        \
    M(74, Trenameat, FID(dfid), NAME(name), FID(newdfid), NAME(name2), OP(op))                     \
    M(75, Rrenameat)                                                                               \
    M(76, Tunlinkat, FID(dfid), NAME(name), U4(flags), OP(op))                                     \
    M(77, Runlinkat)

#define P9_COMMON_MESSAGES(M)                                                                      \
    M(100, Tversion, U4(msize), STR(version))                                                      \
    M(101, Rversion, U4(msize), STR(version))                                                      \
    M(102, Tauth, FID(afid), STR(uname), STR(aname), EXT4(n_uname))                                \
    M(103, Rauth, QID(qid))                                                                        \
    M(104, Tattach, FID(fid), FID(afid), STR(uname), STR(aname), EXT4(n_uname))                    \
    M(105, Rattach, QID(qid))                                                                      \
    M(108, Tflush, U2(oldtag))                                                                     \
    M(109, Rflush)                                                                                 \
    M(110, Twalk, FID(fid), FID(newfid), NAMES(wname))                                             \
    M(111, Rwalk, QIDS(wqid))                                                                      \
    M(116, Tread, FID(fid), U8(offset), U4(count))                                                 \
    M(117, Rread, DATA(count))                                                                     \
    M(118, Twrite, FID(fid), U8(offset), DATA(count))                                              \
    M(119, Rwrite, U4(count))                                                                      \
    M(120, Tclunk, FID(fid), OP(op))                                                               \
    M(121, Rclunk)                                                                                 \
    M(122, Tremove, FID(fid), OP(op))                                                              \
    M(123, Rremove)

#define P9_OLD_MESSAGES(M)                                                                         \
    M(107, Rerror, STR(ename), U_U4(ecode))                                                        \
    M(112, Topen, FID(fid), U1(omode))                                                             \
    M(113, Ropen, QID(qid), U4(iounit))                                                            \
    M(114, Tcreate, FID(fid), NAME(name), U4(mode), U1(omode), U_STR(extension))                   \
    M(115, Rcreate, QID(qid), U4(iounit))                                                          \
    M(124, Tstat, FID(fid))                                                                        \
    M(125, Rstat, STAT(stat))                                                                      \
    M(126, Twstat, FID(fid), STAT(stat))                                                           \
    M(127, Rwstat)

/* Only after "9P2000.L.plenum" was agreed. 228 to 255 are taken by others. */
#define P9_OWN_FIRST 180
#define P9_OWN_LAST  227
#define P9_OWN_MESSAGES(M)                                                                         \
    M(180, Tsession, U8(id[0]), U8(id[1]))                                                         \
    M(181, Rsession, U4(flags))                                                                    \
    M(182, Twrite2, FID(fid), U8(offset), U8(op), DATA(count))                                     \
    M(183, Rwrite2, U4(count))                                                                     \
    M(184, Tkey, FID(fid))                                                                         \
    M(185, Rkey, DATA(count))                                                                      \
    M(186, Tfind, FID(fid), FID(newfid), DATA(count))                                              \
    M(187, Rfind, P9_ATTR_FIELDS)                                                                  \
    M(188, Tlist, FID(fid), U8(offset), U4(count))                                                 \
    M(189, Rlist, DATA(count))                                                                     \
    M(190, Tlend, FID(fid))                                                                        \
    M(191, Rlend)                                                                                  \
    M(200, Tend)                                                                                   \
    M(201, Rend)                                                                                   \
    M(202, Trename2, FID(dfid), NAME(name), FID(newdfid), NAME(name2), U4(flags), OP(op))          \
    M(203, Rrename2)                                                                               \
    M(204, Tfallocate, FID(fid), U4(mode), U8(offset), U8(length), OP(op))                         \
    M(205, Rfallocate)                                                                             \
    M(206, Tseek, FID(fid), U8(offset), U4(whence))                                                \
    M(207, Rseek, U8(offset))                                                                      \
    M(208, Tcopy, FID(fid), U8(offset), FID(fid2), U8(offset2), U8(length), OP(op))                \
    M(209, Rcopy, U8(length))                                                                      \
    M(210, Ttmpfile, FID(dfid), U4(flags), U4(mode), U4(gid), FID(newfid))                         \
    M(211, Rtmpfile, QID(qid), U4(iounit))                                                         \
    M(212, Taccess, FID(fid), U8(mask))                                                            \
    M(213, Raccess)                                                                                \
    M(214, Tflushfile, FID(fid), U8(owner))                                                        \
    M(215, Rflushfile)                                                                             \
    M(216, Tsyncfs, FID(fid))                                                                      \
    M(217, Rsyncfs)                                                                                \
    M(218, Tlookup, FID(dfid), FID(newfid), NAME(name))                                            \
    M(219, Rlookup, P9_ATTR_FIELDS)                                                                \
    M(220, Tioctl, FID(fid), U4(cmd), U4(out_size), DATA(count))                                   \
    M(221, Rioctl, U4(result), DATA(count))

#endif
