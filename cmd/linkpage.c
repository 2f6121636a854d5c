/* SPDX-License-Identifier: MIT */
#include "cmd/linkpage.h"
#include "base/log.h"
#include "base/text.h"
#include <stdio.h>
#include <time.h>

void linkpage_up(struct reg_page *page, const struct linkopt *opts, const char *id)
{
    struct reg_link *l = &page->link;
    atomic_store(&l->linger, opts->linger);
    atomic_store(&l->soft, opts->soft);
    atomic_store(&l->keepalive, opts->keepalive);
    atomic_store(&l->peers, 1);
    reg_link_changed(page, NULL);
    snprintf(l->id, sizeof(l->id), "%s", id);
    atomic_store(&l->kind, *id ? REG_LINK_KEPT : opts->linger ? REG_LINK_AGAIN : REG_LINK_NONE);
}

void linkpage_changed(struct reg_page *page, const char *prefix, const char *peer, const char *down)
{
    struct reg_link *l = &page->link;
    char time[24];
    if (down) {
        const char *is = atomic_load(&l->down) ? "cannot come back" : "is down";
        reg_link_changed(page, down);
        if (prefix)
            log_say(false, "%s: link to %s %s: %s (it is waited for, %s at most)", prefix, peer, is,
                    down, text_time(time, atomic_load(&l->linger)));
        return;
    }
    int64_t since = atomic_load(&l->since);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    reg_link_changed(page, NULL);
    if (prefix)
        log_say(false, "%s: link to %s is up again after %lld s", prefix, peer,
                (long long)(now.tv_sec - since));
}
