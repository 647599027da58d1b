/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decoders and constructors with each of their allocations failing in turn.
 * Usage: scarce-memory [NAME]...
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent/history.h"
#include "agent/options.h"
#include "common/bitmap.h"
#include "common/bytes.h"
#include "common/checked.h"
#include "common/error.h"
#include "engine/handover/handover.h"
#include "engine/image/inspect.h"
#include "engine/image/vhd/vhd.h"
#include "engine/precopy/precopy.h"
#include "engine/session/offer.h"
#include "engine/vmm/qemu/line.h"
#include "engine/vmm/qemu/vm.h"
#include "engine/volume/disk.h"
#include "engine/volume/ram.h"
#include "tests/scarce/scarce.h"
#include "transport/transport.h"

#define MIB  (1ull << 20)
#define SIZE (4 * MIB)

/* One block more than fill as many pages of a VHD's table as are kept: the last page, a short one, and
 * the first have the same slot. */
#define VHD_BLOCK     VHD_BLOCK_SIZE_MIN
#define VHD_LONG      ((GW_VHD_PAGES_MAX * PAGE_BLOCKS + 1) * (uint64_t)VHD_BLOCK)
#define VHD_TABLE_MAX (GW_VHD_PAGES_MAX * GW_VHD_PAGE + VHD_SECTOR)
#define PAGE_BLOCKS   (GW_VHD_PAGE / VHD_BAT_ENTRY_SIZE)

/* Thousands of databases are opened: not on a disk. */
static char folder[] = "/dev/shm/godwit-scarce-XXXXXX";

static const char *path_of(const char *name)
{
    static char path[128];

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

/* ---- descriptions and offers ---- */

static const char *const line_words[] = {
    "qemu",
    "-machine",
    "pc,memory-backend=ram0",
    "-m",
    "64",
    "-smp",
    "2",
    "-object",
    "memory-backend-file,id=ram0,size=64M,mem-path=/dev/shm/x,share=on",
    "-drive",
    "file=/srv/a.raw,format=raw,if=none,id=d0",
    "-device",
    "virtio-blk-pci,drive=d0,id=vda",
    "-chardev",
    "socket,id=serial0,path=/tmp/s,server=on,wait=off",
    "-serial",
    "chardev:serial0",
    "-name",
    "web1",
    "-display",
    "none",
    "-nodefaults"};

static int parse_line(struct gw_vm **out)
{
    struct gw_reasons refused = {0};
    struct gw_line *line = NULL;
    struct gw_vm *vm = NULL;
    int error = gw_vm_new(&vm);

    if (!error)
        error = gw_line_parse((char *const *)line_words, GW_ARRAY_LENGTH(line_words), vm, &refused,
                              &line);
    if (!error)
        gw_line_free(line);
    if (!error && refused.count + refused.lost > 0)
        error = gw_fail(-ENOMEM, "refused: %s", refused.count ? refused.lines[0] : "lost");
    if (!error && (vm->chardev_count != 1 || vm->device_count != 1))
        error = SCARCE_WRONG;
    gw_reasons_free(&refused);
    if (error)
        gw_vm_free(vm);
    else
        *out = vm;
    return error;
}

static int command_line(void)
{
    struct gw_vm *vm;
    int error = parse_line(&vm);

    if (!error)
        gw_vm_free(vm);
    return error;
}

static json_t *description; /* as it travels */

/* What only QMP tells. */
static void complete(struct gw_vm *vm)
{
    struct gw_vm_disk *disk = &vm->disks[vm->disk_count++];

    strcpy(vm->machine, "pc-i440fx-7.2");
    strcpy(vm->architecture, "x86_64");
    strcpy(vm->accelerator, "tcg");
    strcpy(vm->cpu, "qemu64");
    vm->cpu_count = 1;
    vm->ram_size = MIB;
    vm->memory_count = 1;
    strcpy(vm->memories[0].id, "ram0");
    vm->memories[0].size = MIB;
    vm->memories[0].page_size = 4096;
    strcpy(disk->name, "vda");
    strcpy(disk->device, "vda");
    strcpy(disk->format, "vhdx");
    strcpy(disk->file_name, "disk.vhdx");
    strcpy(disk->detect_zeroes, "off");
    strcpy(disk->aio, "threads");
    disk->virtual_size = MIB;
}

static int describe(void)
{
    struct gw_vm *vm;
    json_t *json = NULL;
    int error;

    scarce_hold();
    error = parse_line(&vm);
    scarce_release();
    if (error)
        return error;
    complete(vm);
    error = gw_vm_to_json(vm, &json);
    gw_vm_free(vm);
    if (!error && description && !json_equal(json, description))
        error = SCARCE_WRONG;
    if (!error && !description)
        description = json_incref(json);
    json_decref(json);
    return error;
}

static int take_description(void)
{
    struct gw_reasons faults = {0};
    struct gw_vm *vm = NULL;
    int error = gw_vm_from_json(description, &faults, &vm);

    gw_reasons_free(&faults);
    if (!error && vm->disk_count != 1)
        error = SCARCE_WRONG;
    if (!error)
        gw_vm_free(vm);
    return error;
}

/* ---- images ---- */

static int write_image(enum gw_image_format format, bool is_fixed)
{
    struct gw_image_create_options options = {.path = path_of("new"),
                                              .format = format,
                                              .virtual_size = SIZE,
                                              .is_fixed = is_fixed,
                                              .block_size =
                                                  format == GW_IMAGE_VHDX ? (uint32_t)MIB : 0};
    struct gw_image *image = NULL;
    struct gw_location where;
    int error = gw_image_create(&options, &image);

    if (!error)
        error = gw_image_locate(image, MIB, 4096, &where);
    if (!error)
        error = gw_image_zero(image, 2 * MIB, 4096);
    if (!error)
        error = gw_image_finish(image);
    gw_image_close(image);
    unlink(path_of("new"));
    return error;
}

static int write_raw(void)
{
    return write_image(GW_IMAGE_RAW, false);
}

static int write_vhdx(void)
{
    return write_image(GW_IMAGE_VHDX, false);
}

static int write_fixed_vhdx(void)
{
    return write_image(GW_IMAGE_VHDX, true);
}

static int make_image(const char *name, enum gw_image_format format)
{
    struct gw_image_create_options options = {
        .path = path_of(name), .format = format, .virtual_size = SIZE};
    struct gw_image *image;
    int error = gw_image_create(&options, &image);

    if (!error)
        error = gw_image_finish(image);
    if (!error)
        gw_image_close(image);
    return error;
}

/* A dynamic VHD without a block. */
static int make_vhd(const char *name, uint64_t size)
{
    static uint8_t table[VHD_TABLE_MAX];
    uint8_t footer[VHD_FOOTER_SIZE] = VHD_FOOTER_COOKIE,
            header[VHD_HEADER_SIZE] = VHD_HEADER_COOKIE;
    size_t length = gw_align_up(size / VHD_BLOCK * VHD_BAT_ENTRY_SIZE, VHD_SECTOR);
    FILE *file = fopen(path_of(name), "w");
    bool is_whole = file != NULL;

    memset(table, 0xff, sizeof(table));
    gw_put_be32(footer + VHD_FOOTER_VERSION, VHD_VERSION_MAJOR << 16);
    gw_put_be64(footer + VHD_FOOTER_HEADER, sizeof(footer));
    gw_put_be64(footer + VHD_FOOTER_SIZE_NOW, size);
    gw_put_be32(footer + VHD_FOOTER_TYPE, VHD_DYNAMIC);
    gw_put_be32(footer + VHD_FOOTER_CHECKSUM,
                gw_vhd_checksum(footer, sizeof(footer), VHD_FOOTER_CHECKSUM));
    gw_put_be64(header + VHD_HEADER_TABLE, sizeof(footer) + sizeof(header));
    gw_put_be32(header + VHD_HEADER_VERSION, VHD_VERSION_MAJOR << 16);
    gw_put_be32(header + VHD_HEADER_ENTRIES, (uint32_t)(size / VHD_BLOCK));
    gw_put_be32(header + VHD_HEADER_BLOCK, VHD_BLOCK);
    gw_put_be32(header + VHD_HEADER_CHECKSUM,
                gw_vhd_checksum(header, sizeof(header), VHD_HEADER_CHECKSUM));
    is_whole = is_whole && fwrite(footer, sizeof(footer), 1, file) == 1 &&
               fwrite(header, sizeof(header), 1, file) == 1 &&
               fwrite(table, length, 1, file) == 1 && fwrite(footer, sizeof(footer), 1, file) == 1;
    if (file && fclose(file))
        is_whole = false;
    return is_whole ? 0 : gw_fail(-EIO, "no VHD");
}

static int read_image(const char *name)
{
    struct gw_image_open_options options = {.path = path_of(name), .format = GW_IMAGE_PROBE};
    struct gw_image *image = NULL;
    struct gw_extent extent;
    uint8_t bytes[512];
    int error = gw_image_open(&options, &image);

    if (!error)
        error = gw_image_extent(image, 0, gw_image_info(image)->virtual_size, &extent);
    if (!error)
        error = gw_image_read(image, 0, bytes, sizeof(bytes));
    gw_image_close(image);
    return error;
}

static int read_raw(void)
{
    return read_image("a.raw");
}

static int read_vhdx(void)
{
    return read_image("a.vhdx");
}

static int read_vhd(void)
{
    struct gw_image_open_options options = {.path = path_of("long.vhd"), .format = GW_IMAGE_VHD};
    struct gw_image *image = NULL;
    struct gw_extent extent;
    int error = gw_image_open(&options, &image);

    if (!error)
        error = gw_image_extent(image, VHD_LONG - VHD_BLOCK, VHD_LONG, &extent);
    if (!error)
        error = gw_image_extent(image, 0, VHD_BLOCK, &extent);
    gw_image_close(image);
    return error;
}

static int inspect(const char *name, json_t **whole)
{
    struct gw_inspect_map map = {.count = 0};
    struct gw_inspect_options options = {.open = {.path = path_of(name)}, .map = &map};
    json_t *report = NULL;
    int error = gw_image_inspect(&options, &report);

    if (!error && *whole && !json_equal(report, *whole))
        error = SCARCE_WRONG;
    if (!error && !*whole)
        *whole = json_incref(report);
    json_decref(report);
    free(map.list);
    return error;
}

static int inspect_vhdx(void)
{
    static json_t *whole;

    return inspect("a.vhdx", &whole);
}

static int inspect_vhd(void)
{
    static json_t *whole;

    return inspect("a.vhd", &whole);
}

/* ---- volumes, rounds ---- */

static int disk_target(enum gw_image_format format)
{
    struct gw_disk_target_options options = {
        .name = "vda", .path = path_of("target"), .epoch = "0123", .format = format, .size = SIZE};
    struct gw_target_volume *volume;
    int error = gw_disk_target_create(&options, &volume);

    if (error)
        return error;
    error = volume->ops->finish(volume);
    volume->ops->abort(volume);
    volume->ops->close(volume);
    return error;
}

static int raw_target(void)
{
    return disk_target(GW_IMAGE_RAW);
}

static int vhdx_target(void)
{
    return disk_target(GW_IMAGE_VHDX);
}

static int null_target(void)
{
    struct gw_target_volume *volume;
    int error = gw_null_target_create("vda", SIZE, &volume);

    if (!error)
        volume->ops->close(volume);
    return error;
}

static int ram_target(void)
{
    struct gw_target_volume *volume;
    int error = gw_ram_target_make("ram0", path_of("ram"), MIB, 0, &volume);

    if (error)
        return error;
    volume->ops->abort(volume);
    volume->ops->close(volume);
    return 0;
}

/* The hypervisor is this process: it maps the file shared. */
static int ram_source(void)
{
    struct gw_ram_source_options options = {.name = "ram0",
                                            .fd = memfd_create("scarce", MFD_CLOEXEC),
                                            .size = MIB,
                                            .vmm_pid = getpid(),
                                            .tracker = GW_TRACKER_COMPARE};
    struct gw_source_volume *volume;
    void *mapped;
    int error;

    if (ftruncate(options.fd, MIB))
        return gw_fail_errno(-errno, "no memory file");
    mapped = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, options.fd, 0);
    error = gw_ram_source_open(&options, &volume);
    if (!error)
        error = gw_tracker_arm(gw_ram_source_tracker(volume));
    if (!error || error == -ENOMEM)
        munmap(mapped, MIB);
    if (!error)
        volume->ops->close(volume);
    return error;
}

static int no_round(void *context, struct gw_round *round)
{
    struct gw_piece piece;

    while (gw_round_claim(round, &piece, 1, MIB) > 0) {
        if (gw_round_applied(round, piece.length))
            break;
    }
    return 0;
}

static int nothing(void *context)
{
    return 0;
}

static int no_throttle(void *context, unsigned percent)
{
    return 0;
}

static void no_report(void *context, const struct gw_precopy_report *report)
{
}

static int clean_disk(void *context, struct gw_bitmap *dirty)
{
    gw_bitmap_set_range(dirty, 0, 3);
    return 0;
}

static const struct gw_precopy_hooks hooks = {
    .run_round = no_round,
    .sync = nothing,
    .stop = nothing,
    .cont = nothing,
    .throttle = no_throttle,
    .report = no_report,
};

/* A disk's first pass, and what became dirty. */
static int precopy(void)
{
    struct gw_precopy_options options = {
        .hooks = &hooks, .max_pause_ns = 300000000, .fixed_pause_ns = 50000000};
    struct gw_disk_dirty dirty = {.collect = clean_disk};
    struct gw_disk_source_options source = {
        .name = "vda", .path = path_of("a.raw"), .format = GW_IMAGE_RAW, .dirty = &dirty};
    struct gw_source_volume *volume = NULL;
    struct gw_precopy *all = NULL;
    uint64_t bytes = 0;
    int error = gw_disk_source_open(&source, &volume);

    if (error)
        return error;
    error = gw_precopy_new(&options, &all);
    if (!error)
        error = gw_precopy_add(all, 0, volume);
    if (!error)
        error = gw_precopy_first_pass(all, GW_VOLUME_DISK);
    if (!error)
        error = gw_precopy_last_collect(all, GW_VOLUME_DISK);
    if (!error)
        error = gw_precopy_last_send(all, GW_VOLUME_DISK, &bytes);
    gw_precopy_free(all);
    volume->ops->close(volume);
    return error;
}

/* ---- what is kept ---- */

static int count_entry(const struct gw_journal_entry *entry, void *context)
{
    ++*(int *)context;
    return 0;
}

static int journal(void)
{
    struct gw_journal_entry entry = {.epoch = "0123", .side = GW_SIDE_SOURCE, .state = "COPYING"};
    struct gw_journal_entry found = {.detail = NULL};
    struct gw_journal *kept;
    json_t *history = NULL;
    int count = 0, error;

    scarce_hold();
    unlink(path_of("journal.db"));
    unlink(path_of("journal.db-wal"));
    unlink(path_of("journal.db-shm"));
    entry.detail = json_pack("{s:s}", "qmp", "/run/q");
    scarce_release();
    error = gw_journal_open(path_of("journal.db"), true, &kept);
    if (!error) {
        error = gw_journal_record(kept, &entry);
        strcpy(entry.state, "COMMITTED");
        if (!error)
            error = gw_journal_record(kept, &entry);
        if (!error)
            error = gw_journal_find(kept, "0123", GW_SIDE_SOURCE, &found);
        if (!error && strcmp(found.state, "COMMITTED") != 0)
            error = SCARCE_WRONG;
        gw_journal_entry_free(&found);
        if (!error)
            error = gw_journal_each_open(kept, count_entry, &count);
        if (!error && count != 1)
            error = SCARCE_WRONG;
        if (!error)
            error = gw_journal_history(kept, "0123", GW_SIDE_SOURCE, &history);
        if (!error && json_array_size(history) != 2)
            error = SCARCE_WRONG;
        json_decref(history);
        gw_journal_close(kept);
    }
    json_decref(entry.detail);
    return error;
}

static int history(void)
{
    struct gw_history_entry entry = {
        .id = "1", .kind = "move", .what = "web1", .peer = "b", .state = "ended", .message = "ok"};
    struct gw_history *kept;
    json_t *list = NULL;
    int error;

    unlink(path_of("history.db"));
    error = gw_history_open(path_of("history.db"), &kept);
    if (error)
        return error;
    error = gw_history_put(kept, &entry);
    if (!error)
        error = gw_history_list(kept, 10, &list);
    if (!error && json_array_size(list) != 1)
        error = SCARCE_WRONG;
    json_decref(list);
    gw_history_close(kept);
    return error;
}

static int configuration(void)
{
    struct gw_agent_options options, fallback;
    int error;

    gw_agent_options_init(&options);
    gw_agent_options_init(&fallback);
    error = gw_agent_options_load(path_of("agent.ini"), &fallback);
    if (!error)
        error = gw_agent_options_set(&options, "state", "/var/lib/other");
    if (!error)
        gw_agent_options_merge(&options, &fallback);
    gw_agent_options_free(&options);
    gw_agent_options_free(&fallback);
    return error;
}

/* ---- transports ---- */

static int meet(const char *name, const char *where)
{
    struct gw_transport *transport = NULL;
    struct gw_listener *listener = NULL;
    struct gw_domain *domain = NULL;
    struct gw_poller *poller = NULL;
    struct gw_region *region = NULL;
    struct gw_address local;
    static char memory[8192];
    int error = gw_address_parse(where, 0, &local);

    if (!error)
        error = gw_transport_new(name, NULL, &transport);
    if (!error)
        error = gw_domain_open(transport, &local, &domain);
    if (!error)
        error = gw_poller_open(transport, &poller);
    if (!error)
        error = gw_reg(domain, memory, sizeof(memory), GW_ACCESS_REMOTE_WRITE, 0, &region);
    if (!error)
        error = gw_listen(transport, &local, &listener);
    if (listener)
        gw_unlisten(listener);
    if (region)
        gw_unreg(region);
    if (poller)
        gw_poller_close(poller);
    if (domain)
        gw_domain_close(domain);
    gw_transport_free(transport);
    return error;
}

static int over_loop(void)
{
    return meet("loop", "127.0.0.1:0");
}

static int over_tcp(void)
{
    return meet("tcp", "127.0.0.1:0");
}

static const struct scarce_case cases[] = {
    {"command-line", command_line, false},
    {"describe", describe, false},
    {"take-description", take_description, false},
    {"write-raw", write_raw, false},
    {"write-vhdx", write_vhdx, false},
    {"write-fixed-vhdx", write_fixed_vhdx, false},
    {"read-raw", read_raw, false},
    {"read-vhdx", read_vhdx, true},
    {"read-vhd", read_vhd, false},
    {"inspect-vhdx", inspect_vhdx, true},
    {"inspect-vhd", inspect_vhd, true},
    {"raw-target", raw_target, false},
    {"vhdx-target", vhdx_target, false},
    {"null-target", null_target, false},
    {"ram-target", ram_target, false},
    {"ram-source", ram_source, false},
    {"precopy", precopy, false},
    {"journal", journal, true},
    {"history", history, true},
    {"configuration", configuration, false},
    {"loop", over_loop, false},
    {"tcp", over_tcp, false},
};

static bool is_wanted(const char *name, char **wanted, int count)
{
    for (int i = 0; i < count; i++)
        if (strcmp(wanted[i], name) == 0)
            return true;
    return count == 0;
}

static int set_up(void)
{
    FILE *ini;

    if (!mkdtemp(folder))
        return gw_fail_errno(-errno, "no folder");
    ini = fopen(path_of("agent.ini"), "w");
    if (!ini)
        return gw_fail_errno(-errno, "no file");
    fputs("[agent]\nlisten = 10.77.0.2\nstorage = /srv/vm\nstate = /var/lib/godwit\n"
          "trusted-network = 192.0.2.0/24\nkeep-partial = 3\n",
          ini);
    fclose(ini);
    return make_image("a.raw", GW_IMAGE_RAW) ?: make_image("a.vhdx", GW_IMAGE_VHDX) ?: make_vhd("a.vhd", SIZE) ?: make_vhd("long.vhd", VHD_LONG) ?: describe();
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"a.raw",          "a.vhdx",         "a.vhd",
                                        "long.vhd",       "agent.ini",      "journal.db",
                                        "journal.db-wal", "journal.db-shm", "history.db",
                                        "history.db-wal", "history.db-shm"};
    int faults = 0;

    scarce_begin(argv);
    if (set_up()) {
        printf("FAIL: %s\n", gw_error_message());
        return 1;
    }
    for (unsigned i = 0; i < GW_ARRAY_LENGTH(cases); i++)
        if (is_wanted(cases[i].name, argv + 1, argc - 1))
            faults += scarce_try(&cases[i]);
    for (unsigned i = 0; i < GW_ARRAY_LENGTH(names); i++)
        unlink(path_of(names[i]));
    rmdir(folder);
    return faults ? 1 : 0;
}
