/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds the file behind each memory backend: by its path when it has one, else among the shared
 * mappings of the QEMU process (memfd, and files that QEMU makes and unlinks in a folder).
 */
#include "engine/vmm/qemu/describe.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/error.h"

struct mapping {
    uint64_t start, end, inode;
    unsigned major, minor;
    char name[512];
};

/* What a mapping must look like. */
struct wanted {
    dev_t device; /* 0: by name */
    ino_t inode;
    const char *prefix;
    uint64_t size;
};

static bool parse_mapping(char *text, struct mapping *out)
{
    char permissions[8];
    int name_at = 0;

    text[strcspn(text, "\n")] = '\0';
    if (sscanf(text, "%" SCNx64 "-%" SCNx64 " %7s %*x %x:%x %" SCNu64 " %n", &out->start, &out->end,
               permissions, &out->major, &out->minor, &out->inode, &name_at) < 6 ||
        name_at == 0 || permissions[3] != 's')
        return false;
    snprintf(out->name, sizeof(out->name), "%s", text + name_at);
    return true;
}

static bool matches(const struct mapping *mapping, const struct wanted *wanted)
{
    if (wanted->device)
        return mapping->major == major(wanted->device) && mapping->minor == minor(wanted->device) &&
               mapping->inode == wanted->inode;
    return strncmp(mapping->name, wanted->prefix, strlen(wanted->prefix)) == 0 &&
           mapping->end - mapping->start == wanted->size;
}

/* The number of different files that match; the first one's mapping in out. */
static int count_files(pid_t pid, const struct wanted *wanted, struct mapping *out)
{
    char path[64], text[1024];
    struct mapping mapping;
    int count = 0;
    FILE *maps;

    snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
    maps = fopen(path, "re");
    if (!maps)
        return gw_fail_errno(-errno, "%s", path);
    while (fgets(text, sizeof(text), maps)) {
        if (!parse_mapping(text, &mapping) || !matches(&mapping, wanted))
            continue;
        if (count == 0)
            *out = mapping;
        if (count == 0 || mapping.inode != out->inode)
            count++;
    }
    fclose(maps);
    return count;
}

static uint64_t page_size_of(const char *path)
{
    struct statfs info;

    if (statfs(path, &info) == 0 && info.f_type == HUGETLBFS_MAGIC)
        return (uint64_t)info.f_bsize;
    return 4096;
}

static void absolute_path(pid_t pid, const char *path, char *out, size_t size)
{
    char link[64], folder[400];
    ssize_t length;

    if (path[0] == '/') {
        snprintf(out, size, "%s", path);
        return;
    }
    snprintf(link, sizeof(link), "/proc/%d/cwd", (int)pid);
    length = readlink(link, folder, sizeof(folder) - 1);
    folder[length > 0 ? length : 0] = '\0';
    snprintf(out, size, "%s/%s", folder, path);
}

/* Fills in path, device, inode and page size. Faults are refused. */
static int find_file(pid_t pid, const char *mem_path, struct gw_vm_memory *memory,
                     struct gw_reasons *refused)
{
    struct wanted wanted = {.size = memory->size};
    struct mapping mapping;
    struct stat status;
    char path[512], prefix[768];
    int count;

    absolute_path(pid, mem_path, path, sizeof(path));
    if (mem_path[0] == '\0') {
        wanted.prefix = "/memfd:memory-backend-memfd";
    } else if (stat(path, &status) == 0 && S_ISREG(status.st_mode)) {
        wanted.device = status.st_dev;
        wanted.inode = status.st_ino;
    } else {
        snprintf(prefix, sizeof(prefix), "%s/qemu_back_mem.%s.", path, memory->id);
        wanted.prefix = prefix;
    }
    count = count_files(pid, &wanted, &mapping);
    if (count < 0)
        return count;
    if (count != 1) {
        gw_reasons_add(
            refused,
            "memory %s: %s; give the backend a mem-path= that names a file on a file system "
            "that godwit sees",
            memory->id,
            count == 0 ? "its file is not among QEMU's shared mappings"
                       : "several of QEMU's mappings could be its file");
        return 0;
    }
    if (wanted.device)
        memcpy(memory->path, path, sizeof(memory->path));
    else
        snprintf(memory->path, sizeof(memory->path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64,
                 (int)pid, mapping.start, mapping.end);
    if (stat(memory->path, &status) < 0) {
        gw_reasons_add(refused, "memory %s: %s cannot be opened (%s)", memory->id, memory->path,
                       strerror(errno));
        return 0;
    }
    memory->device = status.st_dev;
    memory->inode = status.st_ino;
    memory->page_size = page_size_of(memory->path);
    return 0;
}

static int describe_one(struct gw_qmp *qmp, const json_t *backend, struct gw_vm *vm,
                        struct gw_reasons *refused)
{
    struct gw_vm_memory *memory = &vm->memories[vm->memory_count];
    const char *id = json_string_value(json_object_get(backend, "id")) ?: "";
    char object[128];
    json_t *value = NULL;
    int ret;

    if (vm->memory_count == GW_VM_MEMORIES_MAX || strlen(id) >= sizeof(memory->id))
        return gw_fail(-E2BIG, "memory %.64s: too many backends, or too long an id", id);
    if (!json_is_true(json_object_get(backend, "share"))) {
        gw_reasons_add(
            refused,
            "memory %s is not shared, so it cannot be read from outside QEMU; start the VM "
            "with -object memory-backend-file,id=ram0,size=SIZE,mem-path=/dev/shm/NAME,"
            "share=on -machine memory-backend=ram0",
            id);
        return 0;
    }
    vm->memory_count++;
    snprintf(memory->id, sizeof(memory->id), "%s", id);
    memory->size = (uint64_t)json_integer_value(json_object_get(backend, "size"));
    memory->prealloc = json_is_true(json_object_get(backend, "prealloc"));
    memory->page_size = 4096;
    snprintf(object, sizeof(object), "/objects/%s", id);
    ret = gw_qom_get(qmp, object, "mem-path", &value); /* memfd and plain RAM have none */
    if (ret < 0 && ret != -EREMOTEIO)
        return ret;
    ret = find_file(vm->pid, json_string_value(value) ?: "", memory, refused);
    json_decref(value);
    return ret;
}

int gw_describe_memory(struct gw_qmp *qmp, struct gw_vm *vm, struct gw_reasons *refused)
{
    json_t *backends, *backend;
    size_t index;
    int ret = gw_qmp_execute(qmp, "query-memdev", NULL, &backends);

    if (ret < 0)
        return ret;
    json_array_foreach(backends, index, backend)
    {
        ret = describe_one(qmp, backend, vm, refused);
        if (ret < 0)
            break;
    }
    if (ret == 0 && json_array_size(backends) == 0)
        gw_reasons_add(refused, "QEMU has no memory backend");
    json_decref(backends);
    return ret;
}
