/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seal-floor: what no sealed data path on one core a side can be faster than. The sender maps the file, seals
 * 256 KiB at a time into the same buffer, which stays in the cache, and sends that; the receiver opens each
 * where it received it. One stream, one key, no record, no acknowledgement but the end.
 *
 *   seal-floor listen PORT            one stream; prints "CPU-SECONDS" of this side
 *   seal-floor send HOST PORT FILE    all data of FILE; prints "GBIT-PER-SECOND BYTES CPU-SECONDS"
 */
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"

#define CHUNK    (256u << 10)
#define TAG_SIZE 16u

static double cpu_seconds(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static EVP_CIPHER_CTX *start_cipher(int is_sealing)
{
    static const uint8_t key[32] = {1};
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();

    if (!context || EVP_CipherInit_ex(context, EVP_aes_256_gcm(), NULL, key, NULL, is_sealing) != 1)
        errx(1, "AES-256-GCM cannot be had");
    return context;
}

/* The nonce is the chunk's number. */
static void crypt_chunk(EVP_CIPHER_CTX *context, uint64_t number, const uint8_t *in, uint8_t *out,
                        size_t length)
{
    uint8_t nonce[12] = {0};
    int done;

    gw_put_be64(nonce + 4, number);
    if (EVP_CipherInit_ex(context, NULL, NULL, NULL, nonce, -1) != 1 ||
        EVP_CipherUpdate(context, out, &done, in, (int)length) != 1)
        errx(1, "the cipher failed");
}

static void send_all(int fd, const void *bytes, size_t length)
{
    while (length) {
        ssize_t sent = send(fd, bytes, length, 0);

        if (sent <= 0)
            err(1, "send");
        bytes = (const uint8_t *)bytes + sent;
        length -= (size_t)sent;
    }
}

static int send_file(const char *host, const char *port, const char *path)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
        file = open(path, O_RDONLY | O_CLOEXEC);
    static uint8_t chunk[TAG_SIZE + CHUNK];
    EVP_CIPHER_CTX *context = start_cipher(1);
    uint64_t number = 0, started = gw_clock_ns();
    struct stat about;
    uint8_t *data;
    off_t begin = 0, end = 0;

    if (inet_pton(AF_INET, host, &to.sin_addr) != 1 || file < 0 || fstat(file, &about) ||
        connect(fd, (struct sockaddr *)&to, sizeof(to)))
        err(1, "%s, %s", host, path);
    data = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_SHARED, file, 0);
    if (data == MAP_FAILED)
        err(1, "%s", path);
    while ((begin = lseek(file, end, SEEK_DATA)) >= 0) {
        end = lseek(file, begin, SEEK_HOLE);
        for (; begin + CHUNK <= end; begin += CHUNK) {
            int done;

            crypt_chunk(context, number++, data + begin, chunk + TAG_SIZE, CHUNK);
            if (EVP_CipherFinal_ex(context, NULL, &done) != 1 ||
                EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, TAG_SIZE, chunk) != 1)
                errx(1, "the tag cannot be had");
            send_all(fd, chunk, sizeof(chunk));
        }
    }
    shutdown(fd, SHUT_WR);
    if (recv(fd, chunk, 1, 0) != 1)
        errx(1, "the receiver did not end well");
    printf("%.3f %llu %.3f\n", (double)number * CHUNK * 8 / (double)(gw_clock_ns() - started),
           (unsigned long long)number * CHUNK, cpu_seconds());
    return 0;
}

static int listen_once(const char *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd, one = 1, done;
    static uint8_t chunk[TAG_SIZE + CHUNK];
    EVP_CIPHER_CTX *context = start_cipher(0);
    uint64_t number = 0;

    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(listener, (struct sockaddr *)&at, sizeof(at)) || listen(listener, 1))
        err(1, "port %s", port);
    fd = accept(listener, NULL, NULL);
    while (recv(fd, chunk, sizeof(chunk), MSG_WAITALL) == (ssize_t)sizeof(chunk)) {
        crypt_chunk(context, number++, chunk + TAG_SIZE, chunk + TAG_SIZE, CHUNK);
        if (EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, TAG_SIZE, chunk) != 1 ||
            EVP_CipherFinal_ex(context, NULL, &done) != 1)
            errx(1, "chunk %llu is not what was sealed", (unsigned long long)number);
    }
    send_all(fd, "", 1);
    printf("%.3f\n", cpu_seconds());
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "listen"))
        return listen_once(argv[2]);
    if (argc == 5 && !strcmp(argv[1], "send"))
        return send_file(argv[2], argv[3], argv[4]);
    errx(2, "usage: seal-floor listen PORT | send HOST PORT FILE");
}
