/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random schedules of a handover: the machine that the agent runs, on both sides, in the world of
 * world.h. Each schedule is drawn from one number: how evil the network is, whether the guest was
 * paused by its owner, how careful the person, how many faults. Faults are crashes of agents, QEMUs,
 * guard and hosts, records that fail before and after they are durable, slow steps (anything may
 * happen between two of them), cuts, late and repeated messages, a new installation, a supervisor.
 * After the faults everything works again, and the world must settle. The number of a schedule that
 * fails is printed; `simulate NUMBER` plays it again, with every step.
 * Usage: simulate [NUMBER | --count N | --seconds N] [--mutation M]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "world.h"

#define STEPS_MAX   240   /* with faults */
#define HEAL_MAX    20000 /* good steps until it must have settled */
#define ALONE_MAX   4000  /* good steps of the source's host until its guest must run */
#define TRIES_MAX   12
#define MUTANT_RUNS 200000u

struct simulation {
    uint64_t random;
    struct options options;
    struct world world, chosen;
    enum kind chosen_kind;
    const char *chosen_label, *chosen_broken, *broken;
    unsigned candidates;
    bool wants_bad, wants_source_only, is_healing, is_verbose;
    bool is_blind;  /* nobody notices that a QEMU has ended, for long */
    enum part slow; /* a host whose steps take long: the others get far meanwhile */
    uint64_t steps;
};

/* splitmix64: every number is a seed as good as any other. */
static uint64_t draw(struct simulation *simulation)
{
    uint64_t mixed = simulation->random += 0x9e3779b97f4a7c15u;

    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebu;
    return mixed ^ mixed >> 31;
}

static uint64_t below(struct simulation *simulation, uint64_t limit)
{
    return draw(simulation) % limit;
}

/* Each candidate is the chosen one with the same probability. */
static void see(void *context, const struct world *next, enum kind kind, const char *label,
                const char *broken)
{
    struct simulation *simulation = context;

    /* Patience ends things for good in the end, but a schedule of nothing else gets nowhere. */
    if (!simulation->is_healing &&
        (strcmp(label, "TIMEOUT") == 0 || (simulation->is_blind && strcmp(label, "VMM_GONE") == 0)))
        kind = BAD;
    if ((kind == BAD) != simulation->wants_bad ||
        (simulation->wants_source_only && kind != GOOD_SOURCE))
        return;
    if (below(simulation, ++simulation->candidates) != 0)
        return;
    simulation->chosen = *next;
    simulation->chosen_kind = kind;
    simulation->chosen_label = label;
    simulation->chosen_broken = broken;
}

static const char *power_name(uint8_t vmm)
{
    return vmm == VMM_PAUSED ? "paused" : vmm == VMM_RUNNING ? "runs" : "ended";
}

static void print_step(const struct simulation *simulation)
{
    const struct world *world = &simulation->world;
    const struct agent *source = &world->source, *target = &world->target;

    printf("  %-4s %-32s %s%s%s journal %s qemu %s | %s%s%s journal %s qemu %s%s%s%s%s\n",
           simulation->chosen_kind == BAD ? "bad" : "", simulation->chosen_label,
           source->is_alive ? "" : "(dead) ",
           gw_handover_state_name((enum gw_handover_state)source->state), source->busy ? "*" : "",
           gw_handover_state_name((enum gw_handover_state)source->journal), power_name(source->vmm),
           target->is_alive ? "" : "(dead) ",
           gw_handover_state_name((enum gw_handover_state)target->state), target->busy ? "*" : "",
           gw_handover_state_name((enum gw_handover_state)target->journal), power_name(target->vmm),
           world->are_disks_null ? " null-disks" : "", world->are_names_changed ? " renamed" : "",
           world->has_second ? " second" : "",
           source->contradicted || target->contradicted ? " contradicted" : "");
}

/* Steps of the lists in hand and messages come often, so that a schedule gets somewhere. */
static enum part draw_part(struct simulation *simulation)
{
    static const uint8_t good[] = {
        PART_SOURCE_STEP, PART_SOURCE_STEP, PART_SOURCE_STEP, PART_TARGET_STEP, PART_TARGET_STEP,
        PART_TARGET_STEP, PART_TO_SOURCE,   PART_TO_SOURCE,   PART_TO_TARGET,   PART_TO_TARGET,
        PART_LOCAL,       PART_LOCAL,       PART_NETWORK,     PART_CRASHES,
    };
    static const uint8_t bad[] = {
        PART_SOURCE_STEP, PART_SOURCE_STEP, PART_TARGET_STEP, PART_TARGET_STEP, PART_LOCAL,
        PART_NETWORK,     PART_CRASHES,     PART_CRASHES,     PART_PEOPLE,
    };

    const enum part part =
        (enum part)(simulation->wants_bad ? bad[below(simulation, sizeof(bad))]
                                          : good[below(simulation, sizeof(good))]);

    return part == simulation->slow && below(simulation, 8) != 0 ? PART_LOCAL : part;
}

/* One step of the wanted kind; false when there is none to be found. */
static bool take(struct simulation *simulation)
{
    for (unsigned tries = 0; tries < TRIES_MAX; tries++) {
        simulation->candidates = 0;
        world_part(&simulation->world, &simulation->options, draw_part(simulation), see,
                   simulation);
        if (simulation->candidates == 0)
            continue;
        simulation->world = simulation->chosen;
        simulation->steps++;
        if (simulation->is_verbose)
            print_step(simulation);
        if (simulation->chosen_broken != NULL)
            simulation->broken = simulation->chosen_broken;
        return true;
    }
    return false;
}

/* From here on nothing but the source's own host works, for a while: a guest that is the source's
 * must run. */
static void leave_alone(struct simulation *simulation)
{
    const struct world kept = simulation->world;
    const bool was_verbose = simulation->is_verbose;

    if (simulation->options.is_guest_paused || !world_must_run_again(&kept))
        return;
    if (was_verbose)
        printf("  --- the source's host alone\n");
    simulation->wants_bad = false;
    simulation->wants_source_only = simulation->is_healing = true;
    for (unsigned step = 0; step < ALONE_MAX && simulation->broken == NULL; step++) {
        /* It may also come to COMMITTED by itself. */
        if (world_source_runs(&simulation->world) || !world_must_run_again(&simulation->world))
            break;
        take(simulation);
    }
    if (simulation->broken == NULL && !world_source_runs(&simulation->world) &&
        world_must_run_again(&simulation->world))
        simulation->broken = "the source does not run although nothing was committed";
    simulation->wants_source_only = simulation->is_healing = false;
    if (simulation->broken == NULL)
        simulation->world = kept;
    if (was_verbose)
        printf("  --- back again\n");
}

static void heal(struct simulation *simulation)
{
    if (simulation->is_verbose)
        printf("  --- everything works again\n");
    simulation->wants_bad = false;
    simulation->is_healing = true;
    for (unsigned step = 0; step < HEAL_MAX && simulation->broken == NULL; step++) {
        if (world_is_settled(&simulation->world) && step % 8 == 7)
            break;
        take(simulation);
    }
    if (simulation->broken != NULL)
        return;
    if (!world_is_settled(&simulation->world))
        simulation->broken = "it does not settle although everything works again";
    else if (!world_is_shown(&simulation->world))
        simulation->broken = "two run, and it is not shown on both sides";
}

/* NULL, or what broke. */
static const char *simulate(struct simulation *simulation, uint64_t number, enum mutation mutation)
{
    static const unsigned evils[] = {0, 2, 4, 6, 10, 20, 40};
    unsigned percent, length, first_state;

    simulation->random = number;
    simulation->is_healing = simulation->wants_bad = false;
    simulation->is_blind = below(simulation, 3) == 0;
    simulation->broken = NULL;
    simulation->options = (struct options){.mutation = mutation, .has_ghosts = true};
    simulation->options.is_network_evil = below(simulation, 3) == 0;
    simulation->options.is_guest_paused = below(simulation, 10) == 0;
    simulation->options.is_person_rash = below(simulation, 5) == 0;
    percent = evils[below(simulation, sizeof(evils) / sizeof(evils[0]))];
    length = 40 + (unsigned)below(simulation, STEPS_MAX - 40);
    simulation->slow = (enum part)below(simulation, PART_TARGET_STEP + 2);
    /* Faults begin where the source has come to a state that is drawn too. */
    first_state = (unsigned)below(simulation, GW_HANDOVER_HANDED_OVER);
    world_begin(&simulation->world, &simulation->options);
    for (unsigned step = 0; step < length && simulation->broken == NULL; step++) {
        if (simulation->world.source.state >= first_state || step > STEPS_MAX / 2)
            first_state = 0;
        /* Troubles do not come alone. */
        simulation->wants_bad =
            first_state == 0 &&
            below(simulation, 100) < (simulation->wants_bad && percent > 0 ? 50 : percent);
        take(simulation);
        if (simulation->broken == NULL && below(simulation, 64) == 0)
            leave_alone(simulation);
        /* What is settled may be asked about still, but not for long. */
        if (simulation->broken == NULL && below(simulation, 8) == 0 &&
            world_is_settled(&simulation->world))
            break;
    }
    if (simulation->broken == NULL)
        heal(simulation);
    return simulation->broken;
}

static int replay(uint64_t number, enum mutation mutation)
{
    struct simulation simulation = {.is_verbose = true};
    const char *broken = simulate(&simulation, number, mutation);

    printf("schedule %llu: %s\n", (unsigned long long)number, broken != NULL ? broken : "holds");
    return broken != NULL;
}

/* A wrong machine must be found out. */
static int find_out(enum mutation mutation, uint64_t first)
{
    struct simulation simulation = {.is_verbose = false};
    const char *broken = NULL;
    uint64_t number = first;

    while (broken == NULL && number - first < MUTANT_RUNS)
        broken = simulate(&simulation, number++, mutation);
    if (broken == NULL) {
        printf("FAIL: not found out in %u schedules: %s\n", MUTANT_RUNS,
               world_mutation_name(mutation));
        return 1;
    }
    printf("PASS: found out in %llu schedules: %s: %s\n", (unsigned long long)(number - first),
           world_mutation_name(mutation), broken);
    return 0;
}

/* These take three faults in one order, and are left to explore.c and the model in tests/model. */
static bool is_rare(int mutation)
{
    return mutation == NO_LAST_LOOK || mutation == GUARD_NOT_TOLD ||
           mutation == FAILED_COMMIT_TRUSTED;
}

/* Until count schedules were tried, or the time is up, or one fails. */
static int run(uint64_t first, uint64_t count, double seconds)
{
    struct simulation simulation = {.is_verbose = false};
    const uint64_t began_ns = gw_clock_ns();
    const uint64_t limit_ns = (uint64_t)(seconds * 1e9);
    uint64_t number = first;

    for (; number - first < count; number++) {
        const char *broken = simulate(&simulation, number, MUTATE_NOTHING);

        if (broken != NULL) {
            printf("FAIL: schedule %llu: %s\n  play it again: simulate %llu\n",
                   (unsigned long long)number, broken, (unsigned long long)number);
            return 1;
        }
        if (number % 256 == 0 && gw_clock_ns() - began_ns > limit_ns)
            break;
    }
    printf("PASS: %llu schedules from number %llu, %llu steps, %.1f s\n",
           (unsigned long long)(number - first), (unsigned long long)first,
           (unsigned long long)simulation.steps, (double)(gw_clock_ns() - began_ns) / 1e9);
    return 0;
}

int main(int argc, char **argv)
{
    const char *seed = getenv("GODWIT_SEED"), *all = getenv("GODWIT_CHECK_ALL");
    uint64_t first = (seed != NULL ? strtoull(seed, NULL, 10) : 1) << 32, count = 250000;
    double seconds = 50;
    int mutation = MUTATE_NOTHING, failures = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (all != NULL && *all != '\0') {
        count = 20u * 1000 * 1000;
        seconds = 600;
    }
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "0";

        if (strcmp(argv[i], "--count") == 0)
            count = strtoull(value, NULL, 10), i++;
        else if (strcmp(argv[i], "--seconds") == 0)
            seconds = strtod(value, NULL), i++;
        else if (strcmp(argv[i], "--mutation") == 0)
            mutation = atoi(value), i++;
        else
            return replay(strtoull(argv[i], NULL, 10), (enum mutation)mutation);
    }
    failures += run(first, count, seconds);
    for (mutation = MUTATE_NOTHING + 1; mutation < MUTATION_COUNT; mutation++)
        if (!is_rare(mutation))
            failures += find_out((enum mutation)mutation, first);
    return failures == 0 ? 0 : 1;
}
