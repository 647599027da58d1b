/* SPDX-License-Identifier: Apache-2.0 */
/* godwit inspect: what is in an image, for people and as JSON. It looks and changes nothing. */
#include "engine/image/inspect.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "common/error.h"

struct inspect {
    struct gw_inspect_options options;
    struct gw_parent_mapping mappings[GW_DISKS_MAX];
    struct gw_inspect_map map;
    bool is_json;
};

static int add_mapping(struct inspect *inspect, const char *value)
{
    char *equals = strrchr(value, '=');

    if (!equals || equals == value || !equals[1])
        return gw_fail(-EINVAL, "'%s' is not OLD=NEW", value);
    if (inspect->options.open.mapping_count == GW_DISKS_MAX)
        return gw_fail(-EINVAL, "more than %u --parent", GW_DISKS_MAX);
    *equals = '\0'; /* the command line is this process's own */
    inspect->mappings[inspect->options.open.mapping_count++] =
        (struct gw_parent_mapping){.from = value, .to = equals + 1};
    return 0;
}

static int take(void *context, const char *name, const char *value)
{
    struct inspect *inspect = context;

    if (strcmp(name, "format") == 0)
        return gw_image_format_parse(value, &inspect->options.open.format);
    if (strcmp(name, "parent") == 0)
        return add_mapping(inspect, value);
    if (strcmp(name, "map") == 0)
        inspect->options.map = &inspect->map;
    else
        inspect->is_json = true;
    return 0;
}

static const struct gw_usage_option options[] = {
    {"format", "FORMAT", "what the file is: raw, vhdx or vhd; found out from its content"},
    {"map", NULL, "the extents of the disk, too: where there is data, through all parents"},
    {"parent", "OLD=NEW", "a parent that lies elsewhere on this host (repeatable)"},
    {"json", NULL, "one JSON object on standard output"},
    {NULL, NULL, NULL},
};

static const struct gw_usage usage = {
    .name = "inspect",
    .arguments = "FILE [OPTIONS]",
    .about = "Says what is in a disk image: type, sizes, identifiers, tables, the chain of its\n"
             "parents, what is allocated, and everything that is wrong with it, with the place in\n"
             "the file. A damaged image is described as far as it can be (exit code 5).",
    .example = "  godwit inspect disk.vhdx\n"
               "  godwit inspect --json --map child.avhdx",
    .options = options,
    .take = take,
};

static void print_size(const char *name, const json_t *report, const char *key)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    const json_t *value = json_object_get(report, key);
    double size = (double)json_integer_value(value);
    unsigned unit = 0;

    if (!value)
        return;
    while (size >= 1024 && unit < 4) {
        size /= 1024;
        unit++;
    }
    if (unit == 0)
        printf("  %-16s %lld\n", name, (long long)json_integer_value(value));
    else
        printf("  %-16s %lld (%.4g %s)\n", name, (long long)json_integer_value(value), size,
               units[unit]);
}

static void print_text(const char *name, const json_t *report, const char *key)
{
    const char *text = json_string_value(json_object_get(report, key));

    if (text)
        printf("  %-16s %s\n", name, text);
}

static void print_counts(const char *name, const json_t *counts)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)counts, key, value)
    {
        printf("  %-16s %s: %lld\n", name, key, (long long)json_integer_value(value));
        name = "";
    }
}

static void print_vhdx(const json_t *vhdx)
{
    const json_t *log = json_object_get(vhdx, "log");
    json_t *item;
    size_t i;

    print_text("made by", vhdx, "creator");
    json_array_foreach(json_object_get(vhdx, "headers"), i, item)
    {
        const json_t *sequence = json_object_get(item, "sequence");

        printf("  %-16s at %lld: ", i == 0 ? "headers" : "",
               (long long)json_integer_value(json_object_get(item, "offset")));
        if (sequence)
            printf("sequence %lld\n", (long long)json_integer_value(sequence));
        else
            printf("damaged\n");
    }
    json_array_foreach(json_object_get(vhdx, "regions"), i, item)
        printf("  %-16s %s: %lld bytes at %lld\n", i == 0 ? "regions" : "",
               json_string_value(json_object_get(item, "name")),
               (long long)json_integer_value(json_object_get(item, "length")),
               (long long)json_integer_value(json_object_get(item, "offset")));
    if (log)
        printf("  %-16s %s, %lld sectors changed by it\n", "log",
               json_string_value(json_object_get(log, "state")),
               (long long)json_integer_value(json_object_get(log, "changed_sectors")));
    print_counts("blocks", json_object_get(vhdx, "blocks"));
}

static void print_parents(const json_t *report)
{
    const json_t *parent = json_object_get(report, "parent");
    json_t *item;
    size_t i;

    json_array_foreach(json_object_get(parent, "ids"), i, item)
        printf("  %-16s %s\n", i == 0 ? "parent's id" : "", json_string_value(item));
    json_array_foreach(json_object_get(parent, "paths"), i, item)
        printf("  %-16s %s (%s)\n", i == 0 ? "parent's path" : "",
               json_string_value(json_object_get(item, "path")),
               json_string_value(json_object_get(item, "kind")));
    json_array_foreach(json_object_get(report, "chain"), i, item)
        printf("  %-16s %s\n", i == 0 ? "chain" : "", json_string_value(item));
}

static void print_places(const char *name, const json_t *list)
{
    json_t *item;
    size_t i;

    json_array_foreach((json_t *)list, i, item)
        printf("  %-16s at byte %lld: %s\n", name,
               (long long)json_integer_value(json_object_get(item, "offset")),
               json_string_value(json_object_get(item, "text")));
}

static const char *kind_name(const struct gw_extent *extent)
{
    static const char *const names[] = {"data", "zero", "absent"};

    return names[extent->kind];
}

static void print_map(const struct gw_inspect_map *map)
{
    for (uint64_t i = 0; i < map->count; i++)
        printf("  %-16s %llu +%llu %s\n", i == 0 ? "map" : "",
               (unsigned long long)map->list[i].offset, (unsigned long long)map->list[i].length,
               kind_name(&map->list[i]));
    if (map->is_cut)
        printf("  %-16s the map has not all: %llu extents beyond the first %u, and what faults "
               "hide\n",
               "", (unsigned long long)map->left_out, GW_INSPECT_EXTENTS_MAX);
}

static void print_report(const json_t *report, const struct gw_inspect_map *map)
{
    const json_t *vhd = json_object_get(report, "vhd");

    print_text("file", report, "path");
    print_text("format", report, "format");
    print_text("type", report, "type");
    if (json_is_true(json_object_get(report, "in_use")))
        printf("  %-16s another process writes to it: what is told here may be changing\n",
               "in use");
    print_size("disk", report, "virtual_size");
    print_size("data", report, "data_bytes");
    print_size("file's size", report, "file_size");
    print_size("allocated", report, "file_allocated");
    print_size("block", report, "block_size");
    print_size("logical sector", report, "logical_sector_size");
    print_size("physical sector", report, "physical_sector_size");
    print_text("disk's id", report, "disk_id");
    print_text("content's id", report, "data_id");
    if (json_object_get(report, "vhdx"))
        print_vhdx(json_object_get(report, "vhdx"));
    print_text("made by", vhd, "creator");
    print_size("geometry says", vhd, "geometry_size");
    print_counts("blocks", json_object_get(vhd, "blocks"));
    print_parents(report);
    print_map(map);
    print_places("warning", json_object_get(report, "warnings"));
    print_places("fault", json_object_get(report, "faults"));
}

/* One object; the map, which may be long, is never one of jansson's. */
static void print_json(const json_t *report, const struct gw_inspect_map *map)
{
    putchar('{');
    json_dumpf(report, stdout, JSON_COMPACT | JSON_EMBED);
    if (map) {
        printf(",\"map\":[");
        for (uint64_t i = 0; i < map->count; i++)
            printf("%s{\"offset\":%llu,\"length\":%llu,\"kind\":\"%s\"}", i == 0 ? "" : ",",
                   (unsigned long long)map->list[i].offset, (unsigned long long)map->list[i].length,
                   kind_name(&map->list[i]));
        printf("],\"map_is_cut\":%s,\"map_left_out\":%llu", map->is_cut ? "true" : "false",
               (unsigned long long)map->left_out);
    }
    puts("}");
}

static enum gw_exit print(const struct inspect *inspect, const json_t *report)
{
    bool is_sound = json_is_true(json_object_get(report, "sound"));

    if (inspect->is_json) {
        print_json(report, inspect->options.map);
    } else {
        print_report(report, &inspect->map);
        printf("inspect: %s\n", is_sound ? "no fault" : "damaged");
    }
    return is_sound ? GW_EXIT_DONE : GW_EXIT_VERIFY;
}

int gw_command_inspect(int argc, char **argv)
{
    struct inspect inspect = {.is_json = false};
    int first, code = GW_EXIT_FAILED;
    json_t *report;

    inspect.options.open.mappings = inspect.mappings;
    if (!gw_usage_parse(&usage, argc, argv, &inspect, &first, &code))
        return code;
    if (argc - first != 1)
        return gw_usage_fail(&usage, "expected one FILE");
    inspect.options.open.path = argv[first];
    if (gw_image_inspect(&inspect.options, &report) != 0) {
        fprintf(stderr, "godwit inspect: %s\n", gw_error_message());
        free(inspect.map.list);
        return GW_EXIT_FAILED;
    }
    code = (int)print(&inspect, report);
    json_decref(report);
    free(inspect.map.list);
    return code;
}
