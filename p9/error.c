/* SPDX-License-Identifier: MIT */
/*
 * Errors in 9P2000, which are sentences. Servers say those of Plan 9 or those of Unix's
 * strerror(3), and clients who want a number (Linux's v9fs, we) know them by heart. The first of an
 * errno is what we say ourselves: Plan 9's where there is one that both kinds of client take for
 * the same.
 */
#include "p9/msg.h"
#include <errno.h>
#include <string.h>
#include <strings.h>

static const struct {
    int error;
    const char *text;
} table[] = {
    {ENOENT, "file does not exist"},
    {EACCES, "permission denied"},
    {EEXIST, "file already exists"},
    {ENOTDIR, "not a directory"},
    {ENOTEMPTY, "directory is not empty"},
    {EROFS, "read only file system"},
    {EBADF, "fid unknown or out of range"},
    {EIO, "i/o error"},
    {ENOSPC, "file system is full"},
    {EFBIG, "file too big"},
    {EPERM, "Operation not permitted"},
    {ENOENT, "No such file or directory"},
    {EIO, "Input/output error"},
    {ENXIO, "No such device or address"},
    {E2BIG, "Argument list too long"},
    {EBADF, "Bad file descriptor"},
    {EAGAIN, "Resource temporarily unavailable"},
    {ENOMEM, "Cannot allocate memory"},
    {EACCES, "Permission denied"},
    {EFAULT, "Bad address"},
    {EBUSY, "Device or resource busy"},
    {EEXIST, "File exists"},
    {EXDEV, "Invalid cross-device link"},
    {ENODEV, "No such device"},
    {EISDIR, "Is a directory"},
    {EINVAL, "Invalid argument"},
    {ENFILE, "Too many open files in system"},
    {EMFILE, "Too many open files"},
    {ENOTTY, "Inappropriate ioctl for device"},
    {ETXTBSY, "Text file busy"},
    {EFBIG, "File too large"},
    {ENOSPC, "No space left on device"},
    {ESPIPE, "Illegal seek"},
    {EROFS, "Read-only file system"},
    {EMLINK, "Too many links"},
    {EPIPE, "Broken pipe"},
    {ERANGE, "Numerical result out of range"},
    {EDEADLK, "Resource deadlock avoided"},
    {ENAMETOOLONG, "File name too long"},
    {ENOLCK, "No locks available"},
    {ENOTEMPTY, "Directory not empty"},
    {ELOOP, "Too many levels of symbolic links"},
    {ENODATA, "No data available"},
    {EPROTO, "Protocol error"},
    {EMSGSIZE, "Message too long"},
    {EOVERFLOW, "Value too large for defined data type"},
    {EOPNOTSUPP, "Operation not supported"},
    {EOPNOTSUPP, "Function not implemented"},
    {EINTR, "Interrupted system call"},
    {EINTR, "interrupted"},
    {ETIMEDOUT, "Connection timed out"},
    {ECONNREFUSED, "Connection refused"},
    {ECONNRESET, "Connection reset by peer"},
    {EUSERS, "Too many users"},
    {ESTALE, "Stale file handle"},
    {EDQUOT, "Disk quota exceeded"},
    {EREMOTEIO, "Remote I/O error"},
    {EPERM, "wstat prohibited"},
    {EPERM, "wstat can't convert between files and directories"},
    {EPERM, "not a member of proposed group"},
    {EPERM, "not owner"},
    {EPERM, "only owner can change group in wstat"},
    {EPERM, "no access to special file"},
    {EPERM, "cannot remove root"},
    {EPERM, "only support truncation to zero length"},
    {EPERM, "create prohibited"},
    {EPERM, "remove prohibited"},
    {EPERM, "write prohibited"},
    {ENOENT, "file not found"},
    {ENOENT, "not found"},
    {ENOENT, "directory entry not found"},
    {ENOENT, "directory entry is not allocated"},
    {ENOENT, "illegal path element"},
    {ENOTDIR, "walk in non-directory"},
    {EISDIR, "is a directory"},
    {EISDIR, "file is a directory"},
    {EEXIST, "file exists"},
    {EEXIST, "file or directory already exists"},
    {EEXIST, "create/wstat -- file exists"},
    {EBADF, "bad use of fid"},
    {EBADF, "fid already in use"},
    {EBADF, "unknown fid"},
    {EBADF, "duplicate fid"},
    {ESPIPE, "bad offset in directory read"},
    {EINVAL, "bad offset"},
    {EINVAL, "illegal offset"},
    {EINVAL, "illegal mode"},
    {EINVAL, "unknown group"},
    {EINVAL, "unknown user"},
    {EINVAL, "bad attach specifier"},
    {EINVAL, "illegal name"},
    {EINVAL, "bad character in file name"},
    {ENAMETOOLONG, "file name too long"},
    {EAGAIN, "exclusive use file already open"},
    {EAGAIN, "exclusive lock"},
    {EAGAIN, "file is in use"},
    {ETXTBSY, "file in use"},
    {ETXTBSY, "file already open for I/O"},
    {EROFS, "file is read only"},
    {EROFS, "file system read only"},
    {EROFS, "file system is read only"},
    {ENOENT, "file has been removed"},
    {ENOENT, "phase error -- directory entry not found"},
    {ENOTEMPTY, "directory not empty"},
    {ENOSPC, "file system full"},
    {EIO, "i/o count too large"},
    {EIO, "corrupted directory entry"},
    {EPROTO, "bogus wstat buffer"},
    {EPROTO, "protocol botch"},
    {EACCES, "authentication failed"},
    {EACCES, "attach -- unknown user or failed authentication"},
    {EOPNOTSUPP, "unknown message"},
    {EOPNOTSUPP, "bad fcall type"},
};
enum { NTABLE = sizeof(table) / sizeof(*table) };

const char *p9_error_text(int error)
{
    for (int i = 0; i < NTABLE; i++)
        if (table[i].error == error)
            return table[i].text;
    const char *text = strerrordesc_np(error);
    return text ? text : p9_error_text(EIO);
}

/* Some add the name: "'x' file does not exist", "file does not exist: x", "x: not a directory". */
static bool says(const struct p9_str *s, const char *text)
{
    size_t n = strlen(text);
    if (s->len < n)
        return false;
    if (!strncasecmp(s->s, text, n) && (s->len == n || s->s[n] == ':'))
        return true;
    return !strncasecmp(s->s + s->len - n, text, n) && s->s[s->len - n - 1] == ' ';
}

int p9_error_number(const struct p9_str *text)
{
    for (int i = 0; i < NTABLE; i++)
        if (text->len == strlen(table[i].text) && !memcmp(text->s, table[i].text, text->len))
            return table[i].error;
    for (int i = 0; i < NTABLE; i++)
        if (says(text, table[i].text))
            return table[i].error;
    for (int i = 1; i < 134; i++) {
        const char *t = strerrordesc_np(i);
        if (t && text->len == strlen(t) && !memcmp(text->s, t, text->len))
            return i;
    }
    return EIO;
}
