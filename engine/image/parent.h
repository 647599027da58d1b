/* SPDX-License-Identifier: Apache-2.0 */
/*
 * parent: what a differencing image says about its parent, and where that file is on this host.
 *
 * An image is not trusted, so its paths reach nothing that the caller did not name: a path of an
 * image is looked up beneath the image's own folder only (no "..", no symbolic link out of it), and
 * paths of another machine (drives, volumes, shares) by their last name in that folder. Everything
 * else takes a mapping of the caller.
 *
 * Errors: 0 or -errno with a message that names the image and the way out.
 * Threads: any; nothing is shared.
 * Units: none.
 */
#ifndef GODWIT_ENGINE_IMAGE_PARENT_H
#define GODWIT_ENGINE_IMAGE_PARENT_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define GW_PARENT_PATHS_MAX 16u
#define GW_PARENT_IDS_MAX   2u

enum gw_parent_path_kind {
    GW_PARENT_RELATIVE, /* to the folder of the child */
    GW_PARENT_ELSEWHERE /* a volume, drive or share of the machine that made it */
};

struct gw_parent_path {
    enum gw_parent_path_kind kind;
    const char *label; /* "relative_path", "W2ru": what the format calls it; static */
    char *text;        /* UTF-8, as in the file */
};

struct gw_parent_link {
    uint8_t ids[GW_PARENT_IDS_MAX][16]; /* what the parent's data_id may be */
    unsigned id_count;
    bool is_big_endian; /* the ids: for people */
    uint64_t place;     /* where in the file all this is said: bytes */
    unsigned path_count;
    struct gw_parent_path
        paths[GW_PARENT_PATHS_MAX]; /* in the order in which they are to be tried */
};

/* Does it say first that the parent is the file of that name in its own folder? */
bool gw_parent_is_beside(const struct gw_parent_link *link, const char *name);
void gw_parent_link_free(struct gw_parent_link *link); /* takes NULL */
/* Takes text over, also when it fails. -ENOMEM, -E2BIG. */
int gw_parent_link_add(struct gw_parent_link *link, enum gw_parent_path_kind kind,
                       const char *label, char *text);

/* --parent OLD=NEW: OLD is a path as the image says it, the beginning of one (NEW is then a
 * folder), or its last name. Letter case and the direction of slashes do not count in OLD. */
struct gw_parent_mapping {
    const char *from, *to;
};

struct gw_parent_search {
    const char *child; /* path of the image */
    const struct gw_parent_link *link;
    const struct gw_parent_mapping *mappings;
    unsigned mapping_count;
};

#define GW_PARENT_PLACES_MAX (2u * GW_PARENT_PATHS_MAX)

struct gw_parent_place {
    char *path;
    dev_t device; /* of the file that was there when it was looked up */
    ino_t inode;
};

struct gw_parent_places {
    bool is_mapped; /* by the caller: the only place */
    unsigned count;
    struct gw_parent_place list[GW_PARENT_PLACES_MAX];
};

/* Files that may be the parent, best first, at least one; each exists. -ENOENT. */
int gw_parent_find(const struct gw_parent_search *search, struct gw_parent_places *out);
void gw_parent_places_free(struct gw_parent_places *places);

#endif
