/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tries every schedule of a handover, breadth first over all reachable worlds (world.h): no
 * invariant may break, every world must have a way to a settled one when everything works again,
 * and every world before COMMITTED a way to a running source by means of the source's host alone.
 * Then the same with machines that are wrong on purpose, each of which must be found out. Usage:
 * explore [-v | --mutation NUMBER]
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/clock.h"
#include "world.h"

#define WORLDS_MAX (64u << 20)
#define NOBODY     UINT32_MAX

struct node {
    struct world world;
    uint32_t parent;
    const char *label;
};

struct edge {
    uint32_t from, to;
};

struct search {
    const struct options *options;
    struct node *nodes;
    uint32_t *table; /* open addressing, index + 1 */
    uint32_t count, room, table_size, current;
    uint32_t broken_at; /* a copy of the broken world, whatever led to it first */
    struct edge *edges, *source_edges;
    size_t edge_count, edge_room, source_edge_count, source_edge_room;
    const char *broken;
    bool has_edges, is_full;
};

static void *grow(void *memory, size_t count, size_t size)
{
    void *grown = reallocarray(memory, count, size);

    if (grown == NULL) {
        fprintf(stderr, "explore: out of memory\n");
        exit(2);
    }
    return grown;
}

static void table_insert(struct search *search, uint32_t index)
{
    uint64_t slot = XXH3_64bits(&search->nodes[index].world, sizeof(struct world));

    for (;; slot++)
        if (search->table[slot & (search->table_size - 1)] == 0) {
            search->table[slot & (search->table_size - 1)] = index + 1;
            return;
        }
}

static uint32_t table_find(const struct search *search, const struct world *world)
{
    uint64_t slot = XXH3_64bits(world, sizeof(*world));
    uint32_t entry;

    if (search->table == NULL)
        return NOBODY;
    while ((entry = search->table[slot & (search->table_size - 1)]) != 0) {
        if (memcmp(&search->nodes[entry - 1].world, world, sizeof(*world)) == 0)
            return entry - 1;
        slot++;
    }
    return NOBODY;
}

static uint32_t add(struct search *search, const struct world *world, const char *label)
{
    uint32_t index = table_find(search, world);

    if (index != NOBODY)
        return index;
    if (search->count == WORLDS_MAX) {
        search->is_full = true;
        return NOBODY;
    }
    if (search->count == search->room) {
        search->room = search->room == 0 ? 1u << 16 : search->room * 2;
        search->nodes = grow(search->nodes, search->room, sizeof(*search->nodes));
    }
    if (search->count * 2 >= search->table_size) {
        free(search->table);
        search->table_size = search->table_size == 0 ? 1u << 17 : search->table_size * 2;
        search->table = calloc(search->table_size, sizeof(*search->table));
        if (search->table == NULL)
            grow(NULL, SIZE_MAX, SIZE_MAX);
        for (uint32_t i = 0; i < search->count; i++)
            table_insert(search, i);
    }
    index = search->count++;
    search->nodes[index] = (struct node){*world, search->current, label};
    table_insert(search, index);
    return index;
}

static void link_edge(struct edge **edges, size_t *count, size_t *room, struct edge edge)
{
    if (*count == *room) {
        *room = *room == 0 ? 1u << 16 : *room * 2;
        *edges = grow(*edges, *room, sizeof(**edges));
    }
    (*edges)[(*count)++] = edge;
}

static void see(void *context, const struct world *next, enum kind kind, const char *label,
                const char *broken)
{
    struct search *search = context;
    const uint32_t from = search->current;
    uint32_t to;

    if (search->broken != NULL)
        return;
    to = add(search, next, label);
    if (broken != NULL) {
        search->broken = broken;
        search->broken_at = to;
        if (to != NOBODY && to != from)
            search->nodes[to] = (struct node){*next, from, label};
        return;
    }
    if (to == NOBODY || !search->has_edges || kind == BAD)
        return;
    link_edge(&search->edges, &search->edge_count, &search->edge_room, (struct edge){from, to});
    if (kind == GOOD_SOURCE)
        link_edge(&search->source_edges, &search->source_edge_count, &search->source_edge_room,
                  (struct edge){from, to});
}

static void print_side(const char *name, const struct agent *agent, char *out, size_t size)
{
    snprintf(out, size, "%s %s%s%s journal %s qemu %s", name, agent->is_alive ? "" : "(dead) ",
             gw_handover_state_name((enum gw_handover_state)agent->state), agent->busy ? "*" : "",
             gw_handover_state_name((enum gw_handover_state)agent->journal),
             agent->vmm == VMM_PAUSED    ? "paused"
             : agent->vmm == VMM_RUNNING ? "runs"
                                         : "ended");
}

static void print_path(const struct search *search, uint32_t index)
{
    char source[160], target[160];
    uint32_t path[256], length = 0;

    for (; index != NOBODY && length < 256; index = search->nodes[index].parent)
        path[length++] = index;
    while (length-- > 0) {
        const struct node *node = &search->nodes[path[length]];

        print_side("source", &node->world.source, source, sizeof(source));
        print_side("target", &node->world.target, target, sizeof(target));
        printf("  %-32s %-58s %s%s%s\n", node->label, source, target,
               node->world.are_disks_null ? " null-disks" : "",
               node->world.are_names_changed ? " renamed" : "");
    }
}

static void search_free(struct search *search)
{
    free(search->nodes);
    free(search->table);
    free(search->edges);
    free(search->source_edges);
}

static void run_search(struct search *search)
{
    struct world first, world;

    world_begin(&first, search->options);
    search->current = NOBODY;
    add(search, &first, "begin");
    for (uint32_t i = 0; i < search->count && search->broken == NULL && !search->is_full; i++) {
        search->current = i;
        world = search->nodes[i].world;
        world_successors(&world, search->options, see, search);
    }
}

static int compare_edges(const void *a, const void *b)
{
    const struct edge *left = a, *right = b;

    return left->to < right->to ? -1 : left->to > right->to;
}

/* The number of worlds that must reach a goal along edges, and cannot; the first is printed. */
static uint32_t stranded(struct search *search, struct edge *edges, size_t edge_count,
                         bool (*is_goal)(const struct world *), bool (*must)(const struct world *))
{
    uint8_t *reaches = calloc(search->count, 1);
    uint32_t *queue = grow(NULL, search->count, sizeof(*queue));
    size_t *first = grow(NULL, (size_t)search->count + 1, sizeof(*first));
    uint32_t head = 0, tail = 0, bad = 0;
    size_t edge = 0;

    if (reaches == NULL)
        grow(NULL, SIZE_MAX, SIZE_MAX);
    qsort(edges, edge_count, sizeof(*edges), compare_edges);
    for (uint32_t i = 0; i <= search->count; i++) {
        while (edge < edge_count && edges[edge].to < i)
            edge++;
        first[i] = edge;
    }
    for (uint32_t i = 0; i < search->count; i++)
        if (is_goal(&search->nodes[i].world)) {
            reaches[i] = 1;
            queue[tail++] = i;
        }
    while (head < tail) {
        const uint32_t to = queue[head++];

        for (size_t i = first[to]; i < edge_count && edges[i].to == to; i++)
            if (!reaches[edges[i].from]) {
                reaches[edges[i].from] = 1;
                queue[tail++] = edges[i].from;
            }
    }
    for (uint32_t i = 0; i < search->count; i++)
        if (!reaches[i] && must(&search->nodes[i].world) && bad++ == 0)
            print_path(search, i);
    free(reaches);
    free(queue);
    free(first);
    return bad;
}

static bool always(const struct world *world)
{
    return true;
}

static int explore(const struct options *options, bool has_edges)
{
    struct search search = {.options = options, .has_edges = has_edges};
    const uint64_t began_ns = gw_clock_ns();
    uint32_t bad = 0, lame = 0;
    int result = 0;

    run_search(&search);
    printf("%s network, guest %s: %u worlds in %.1f s\n",
           options->is_network_evil ? "evil" : "cuttable",
           options->is_guest_paused ? "paused by its owner" : "running", search.count,
           (double)(gw_clock_ns() - began_ns) / 1e9);
    if (search.is_full) {
        printf("  more worlds than fit\n");
        result = 1;
    } else if (search.broken != NULL) {
        printf("  BROKEN: %s\n", search.broken);
        print_path(&search, search.broken_at);
        result = 1;
    } else if (has_edges) {
        bad = stranded(&search, search.edges, search.edge_count, world_is_settled, always);
        if (bad != 0)
            printf("  BROKEN: %u worlds with no way to a settled one (the first above)\n", bad);
        if (!options->is_guest_paused)
            lame = stranded(&search, search.source_edges, search.source_edge_count,
                            world_source_runs, world_must_run_again);
        if (lame != 0)
            printf("  BROKEN: %u worlds before COMMITTED whose source cannot go on alone\n", lame);
        result = bad != 0 || lame != 0;
    }
    search_free(&search);
    return result;
}

/* A wrong machine must be found out. */
static int find_out(enum mutation mutation, bool is_verbose)
{
    const struct options options = {.mutation = mutation, .has_ghosts = true};
    struct search search = {.options = &options};
    int result = 0;

    run_search(&search);
    if (search.broken == NULL) {
        printf("NOT FOUND OUT: %s (%u worlds)\n", world_mutation_name(mutation), search.count);
        result = 1;
    } else {
        printf("found out: %s: %s (%u worlds)\n", world_mutation_name(mutation), search.broken,
               search.count);
        if (is_verbose)
            print_path(&search, search.broken_at);
    }
    search_free(&search);
    return result;
}

int main(int argc, char **argv)
{
    /* Both at once are more worlds than fit into memory: the simulator draws from those. */
    const struct options cuttable = {.has_ghosts = true}, evil = {.is_network_evil = true},
                         paused = {.has_ghosts = true, .is_guest_paused = true};
    bool is_verbose = false, has_all = false;
    int failures = 0;

    /* The simulator draws from the same worlds in every check. */
    has_all = getenv("GODWIT_CHECK_ALL") != NULL && *getenv("GODWIT_CHECK_ALL") != '\0';
    if (argc == 3 && strcmp(argv[1], "--mutation") == 0)
        return find_out((enum mutation)atoi(argv[2]), true);
    for (int i = 1; i < argc; i++) {
        is_verbose = is_verbose || strcmp(argv[i], "-v") == 0;
        has_all = has_all || strcmp(argv[i], "--all") == 0;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!has_all) {
        printf("SKIP: explore: the search of every schedule takes minutes: GODWIT_CHECK_ALL=1\n");
        return 77;
    }
    failures += explore(&cuttable, true);
    failures += explore(&evil, false);
    failures += explore(&paused, true);
    for (int mutation = MUTATE_NOTHING + 1; mutation < MUTATION_COUNT; mutation++)
        failures += find_out((enum mutation)mutation, is_verbose);
    return failures == 0 ? 0 : 1;
}
