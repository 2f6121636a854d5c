/* SPDX-License-Identifier: MIT */
/* The decoder of FUSE requests, and what handlers may rely on when it says 0. The first byte of the
 * input chooses whether SETXATTR_EXT was agreed; the header's length is set right for half of the
 * inputs, so that the rest is reached. */
#include "fuse/msg.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void inside(const char *buf, size_t len, const char *p, size_t n)
{
    if (p < buf || (size_t)(p - buf) > len || n > len - (size_t)(p - buf))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuse_msg m;
    if (size < 1)
        return 0;
    size_t len = size - 1;
    char *buf = malloc(len ? len : 1);
    memcpy(buf, data + 1, len);
    if ((data[0] & 2) && len >= 4) {
        uint32_t says = (uint32_t)len;
        memcpy(buf, &says, 4);
    }
    if (fuse_msg_decode(buf, len, data[0] & 1, &m) == 0) {
        if (m.h.len != len || !strcmp(fuse_op_name(m.h.opcode), "?"))
            abort();
        const char *name[] = {m.name, m.name2};
        for (int i = 0; i < 2; i++) {
            if (!name[i])
                continue;
            inside(buf, len, name[i], 1);
            size_t n = strnlen(name[i], len - (size_t)(name[i] - buf));
            inside(buf, len, name[i], n + 1);
            if (n == 0)
                abort();
        }
        if (m.size)
            inside(buf, len, m.data, m.size);
        if (m.h.opcode == FUSE_BATCH_FORGET && m.size != (size_t)m.a.batch_forget.count * 16)
            abort();
    }
    free(buf);
    return 0;
}
