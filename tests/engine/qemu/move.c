/* SPDX-License-Identifier: Apache-2.0 */
/* See move.h. */
#include "tests/engine/qemu/move.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/error.h"

/*
 * Loaded at 0x7c00 in real mode:
 *   xor ax,ax; mov ds,ax; mov ss,ax; mov sp,0x7000; xor ebx,ebx
 * next: inc ebx; mov [0x6000],ebx; mov ecx,8; mov edx,ebx
 * digit: rol edx,4; mov al,dl; and al,15; add al,'A'; (send al) ; dec cx; jnz digit
 *   mov al,10; (send al); jmp next
 * send: mov dx... waits for the transmitter (0x3fd bit 5), writes 0x3f8; preserves edx in ebp.
 * Each line is the counter as eight letters, A = 0.
 */
static const unsigned char guest_code[] = {
    0x31, 0xc0,                   /* 00 xor ax,ax */
    0x8e, 0xd8,                   /* 02 mov ds,ax */
    0x8e, 0xd0,                   /* 04 mov ss,ax */
    0xbc, 0x00, 0x70,             /* 06 mov sp,0x7000 */
    0x66, 0x31, 0xdb,             /* 09 xor ebx,ebx */
    0x66, 0x43,                   /* 0c next: inc ebx */
    0x66, 0x89, 0x1e, 0x00, 0x60, /* 0e mov [0x6000],ebx */
    0xb9, 0x08, 0x00,             /* 13 mov cx,8 */
    0x66, 0x89, 0xdd,             /* 16 mov ebp,ebx */
    0x66, 0xc1, 0xc5, 0x04,       /* 19 digit: rol ebp,4 */
    0x89, 0xe8,                   /* 1d mov ax,bp */
    0x24, 0x0f,                   /* 1f and al,15 */
    0x04, 0x41,                   /* 21 add al,'A' */
    0xe8, 0x0a, 0x00,             /* 23 call send (0x30) */
    0x49,                         /* 26 dec cx */
    0x75, 0xf0,                   /* 27 jnz digit (0x19) */
    0xb0, 0x0a,                   /* 29 mov al,10 */
    0xe8, 0x02, 0x00,             /* 2b call send (0x30) */
    0xeb, 0xdc,                   /* 2e jmp next (0x0c) */
    0x88, 0xc4,                   /* 30 send: mov ah,al */
    0xba, 0xfd, 0x03,             /* 32 mov dx,0x3fd */
    0xec,                         /* 35 wait: in al,dx */
    0xa8, 0x20,                   /* 36 test al,0x20 */
    0x74, 0xfb,                   /* 38 jz wait (0x35) */
    0xba, 0xf8, 0x03,             /* 3a mov dx,0x3f8 */
    0x88, 0xe0,                   /* 3d mov al,ah */
    0xee,                         /* 3f out dx,al */
    0xc3,                         /* 40 ret */
};

void guest_write(const char *dir, const char *name, uint64_t size)
{
    unsigned char sector[512] = {0};
    char path[160];
    int fd;

    memcpy(sector, guest_code, sizeof(guest_code));
    sector[510] = 0x55;
    sector[511] = 0xaa;
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    cr_assert_geq(fd, 0);
    cr_assert_eq(pwrite(fd, sector, sizeof(sector), 0), (ssize_t)sizeof(sector));
    cr_assert_eq(ftruncate(fd, (off_t)size), 0);
    close(fd);
}

struct gw_vm *describe(struct qemu *source)
{
    struct gw_reasons refused = {0};
    struct gw_vm *vm = NULL;
    int ret = gw_vm_describe(source->qmp, &refused, &vm);

    cr_assert_eq(ret, 0, "%s", gw_error_message());
    cr_assert_eq(gw_reasons_fail(&refused, -EINVAL), 0, "%s", gw_error_message());
    gw_reasons_free(&refused);
    return vm;
}

void ram_make(const struct gw_vm *vm, const char *dir, char storage[][512], const char **paths)
{
    for (unsigned i = 0; i < vm->memory_count; i++) {
        int fd;

        snprintf(storage[i], 512, "%s/ram-%s", dir, vm->memories[i].id);
        paths[i] = storage[i];
        fd = open(paths[i], O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        cr_assert_geq(fd, 0);
        cr_assert_eq(ftruncate(fd, (off_t)vm->memories[i].size), 0);
        close(fd);
    }
}

void ram_copy(const struct gw_vm *vm, const char *const *paths)
{
    static char buffer[1 << 20];

    for (unsigned i = 0; i < vm->memory_count; i++) {
        int from, to = open(paths[i], O_WRONLY | O_CLOEXEC);

        cr_assert_eq(gw_vm_memory_open(&vm->memories[i], O_RDONLY, &from), 0, "%s",
                     gw_error_message());
        for (uint64_t at = 0; at < vm->memories[i].size; at += sizeof(buffer)) {
            cr_assert_eq(pread(from, buffer, sizeof(buffer), (off_t)at), (ssize_t)sizeof(buffer));
            cr_assert_eq(pwrite(to, buffer, sizeof(buffer), (off_t)at), (ssize_t)sizeof(buffer));
        }
        close(from);
        close(to);
    }
}

struct loading {
    struct gw_launched *launched;
    int fd, ret;
    struct gw_error error;
};

static void *load(void *context)
{
    struct loading *loading = context;

    loading->ret = gw_vm_load_state(loading->launched->qmp, loading->fd, 20000);
    gw_error_take(loading->ret, &loading->error);
    return NULL;
}

struct gw_state_result state_move(struct qemu *source, struct gw_launched *launched)
{
    struct loading loading = {.launched = launched};
    struct gw_state_result result;
    pthread_t thread;
    int pair[2], ret;

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    loading.fd = pair[1];
    cr_assert_eq(gw_vm_prepare_source(source->qmp), 0, "%s", gw_error_message());
    cr_assert_eq(pthread_create(&thread, NULL, load, &loading), 0);
    ret = gw_vm_save_state(source->qmp, pair[0], 20000, &result);
    close(pair[0]);
    cr_assert_eq(ret, 0, "save: %s", gw_error_message());
    pthread_join(thread, NULL);
    close(pair[1]);
    cr_assert_eq(loading.ret, 0, "load: %s", loading.error.text);
    return result;
}
