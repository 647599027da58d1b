/* SPDX-License-Identifier: Apache-2.0 */
/* Windows and the lists that lanes keep of them, for both sides. Who opens and closes which window
 * is the control thread's decision. */
#include "engine/worker/window.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"

/* ---- windows ---- */

void gw_window_set_init(struct gw_window_set *set)
{
    pthread_mutex_init(&set->lock, NULL);
}

static void end_region(struct gw_window_set *set, struct gw_window_entry *entry, unsigned index)
{
    struct gw_region *region = entry->regions[index];

    pthread_mutex_lock(&set->lock);
    entry->regions[index] = entry->regions[--entry->region_count];
    pthread_mutex_unlock(&set->lock);
    gw_pins_give(set->pins, region->length);
    gw_unreg(region);
}

void gw_window_set_remove(struct gw_window_set *set, struct gw_window_entry *entry)
{
    struct gw_window_entry **link = &set->first;

    assert(entry->holders == 0);
    pthread_mutex_lock(&set->lock);
    while (*link != entry)
        link = &(*link)->next;
    *link = entry->next;
    set->count--;
    pthread_mutex_unlock(&set->lock);
    while (entry->region_count > 0)
        end_region(set, entry, 0);
    free(entry);
}

void gw_window_set_free(struct gw_window_set *set)
{
    while (set->first)
        gw_window_set_remove(set, set->first);
    pthread_mutex_destroy(&set->lock);
}

struct gw_window_entry *gw_window_set_find(struct gw_window_set *set, uint32_t number)
{
    struct gw_window_entry *entry = set->first;

    while (entry && entry->window.number != number)
        entry = entry->next;
    return entry;
}

int gw_window_set_add(struct gw_window_set *set, const struct gw_window *window,
                      struct gw_window_entry **out)
{
    struct gw_window_entry *entry;

    if (set->count == GW_WINDOWS_MAX)
        return gw_fail(-ENOMEM, "%u windows are open already", GW_WINDOWS_MAX);
    entry = calloc(1, sizeof(*entry));
    if (!entry)
        return gw_fail(-ENOMEM, "no memory for a window");
    entry->window = *window;
    pthread_mutex_lock(&set->lock);
    entry->next = set->first;
    set->first = entry;
    set->count++;
    pthread_mutex_unlock(&set->lock);
    *out = entry;
    return 0;
}

struct gw_region *gw_window_region(const struct gw_window_entry *entry,
                                   const struct gw_domain *domain)
{
    for (unsigned i = 0; i < entry->region_count; i++)
        if (entry->regions[i]->domain == domain)
            return entry->regions[i];
    return NULL;
}

int gw_window_register(struct gw_window_set *set, struct gw_window_entry *entry,
                       struct gw_domain *domain, void *memory, unsigned access)
{
    uint64_t length = entry->window.length;
    struct gw_region *region;
    int error;

    if (gw_window_region(entry, domain))
        return 0;
    if (entry->region_count == GW_WINDOW_DOMAINS)
        return gw_fail(-E2BIG, "more than %u rails", GW_WINDOW_DOMAINS);
    error = gw_pins_take(set->pins, length);
    if (error)
        return error;
    error = gw_reg(domain, memory, length, access, 0, &region);
    if (error) {
        gw_pins_give(set->pins, length);
        return error;
    }
    pthread_mutex_lock(&set->lock);
    entry->regions[entry->region_count++] = region;
    pthread_mutex_unlock(&set->lock);
    return 0;
}

void gw_window_set_leave(struct gw_window_set *set, const struct gw_domain *domain)
{
    struct gw_window_entry *entry = set->first, *next;

    for (; entry; entry = next) {
        next = entry->next;
        for (unsigned i = 0; i < entry->region_count;)
            if (entry->regions[i]->domain == domain)
                end_region(set, entry, i);
            else
                i++;
        if (entry->region_count == 0)
            gw_window_set_remove(set, entry);
    }
}

/* ---- lists ---- */

/* The first of the list that does not lie before volume and offset. */
static unsigned place_of(const struct gw_lane_windows *windows, uint16_t volume, uint64_t offset)
{
    unsigned low = 0, high = windows->count;

    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        const struct gw_window *window = &windows->list[middle]->window;

        if (window->volume < volume || (window->volume == volume && window->offset < offset))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int make_room(struct gw_lane_windows *windows)
{
    unsigned room = windows->room ? windows->room * 2 : 64;
    struct gw_lane_window **grown;

    if (windows->count < windows->room)
        return 0;
    grown = realloc(windows->list, room * sizeof(struct gw_lane_window *));
    if (!grown)
        return -ENOMEM;
    windows->list = grown;
    windows->room = room;
    return 0;
}

struct gw_lane_window *gw_lane_windows_hold(struct gw_lane_windows *windows,
                                            struct gw_window_set *set, uint32_t number,
                                            const struct gw_domain *domain)
{
    struct gw_lane_window *window = calloc(1, sizeof(*window));
    unsigned place;

    if (!window || make_room(windows)) {
        free(window);
        return NULL; /* the lane goes without */
    }
    pthread_mutex_lock(&set->lock);
    window->entry = gw_window_set_find(set, number);
    if (window->entry && !window->entry->is_closing)
        window->region = gw_window_region(window->entry, domain);
    if (window->region) {
        window->entry->holders++;
        window->window = window->entry->window;
    }
    pthread_mutex_unlock(&set->lock);
    if (!window->region) {
        free(window);
        return NULL;
    }
    place = place_of(windows, window->window.volume, window->window.offset);
    memmove(windows->list + place + 1, windows->list + place,
            (windows->count - place) * sizeof(struct gw_lane_window *));
    windows->list[place] = window;
    windows->count++;
    return window;
}

bool gw_lane_windows_release(struct gw_lane_windows *windows, struct gw_window_set *set,
                             struct gw_lane_window *window)
{
    unsigned place = 0;
    bool is_last;

    while (windows->list[place] != window)
        place++;
    windows->count--;
    memmove(windows->list + place, windows->list + place + 1,
            (windows->count - place) * sizeof(struct gw_lane_window *));
    pthread_mutex_lock(&set->lock);
    is_last = --window->entry->holders == 0;
    pthread_mutex_unlock(&set->lock);
    free(window);
    return is_last;
}

void gw_lane_windows_release_all(struct gw_lane_windows *windows, struct gw_window_set *set)
{
    while (windows->count > 0)
        gw_lane_windows_release(windows, set, windows->list[windows->count - 1]);
    free(windows->list);
    *windows = (struct gw_lane_windows){0};
}

struct gw_lane_window *gw_lane_windows_find(const struct gw_lane_windows *windows, uint16_t volume,
                                            uint64_t offset)
{
    unsigned place = place_of(windows, volume, offset + 1);
    struct gw_lane_window *window = place > 0 ? windows->list[place - 1] : NULL;

    return window && window->window.volume == volume &&
                   offset - window->window.offset < window->window.length
               ? window
               : NULL;
}

uint64_t gw_lane_windows_next(const struct gw_lane_windows *windows, uint16_t volume,
                              uint64_t offset)
{
    unsigned place = place_of(windows, volume, offset + 1);

    return place < windows->count && windows->list[place]->window.volume == volume
               ? windows->list[place]->window.offset
               : UINT64_MAX;
}

struct gw_lane_window *gw_lane_windows_number(const struct gw_lane_windows *windows,
                                              uint32_t number)
{
    for (unsigned i = 0; i < windows->count; i++)
        if (windows->list[i]->window.number == number)
            return windows->list[i];
    return NULL;
}
