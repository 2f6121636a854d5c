/* SPDX-License-Identifier: MIT */
#include "base/text.h"
#include <plenum/error.h>
#include <stdarg.h>
#include <stdio.h>

int pl_fail(struct pl_err *err, int code, const char *fmt, ...)
{
    if (!err)
        return code;
    char raw[sizeof(err->text)];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(raw, sizeof(raw), fmt, ap);
    va_end(ap);
    err->code = code;
    text_escape(err->text, sizeof(err->text), raw, sizeof(raw));
    return code;
}
