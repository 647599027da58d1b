/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a fuzz target without libFuzzer: inputs from standard input (AFL++, many in one process), or
 * the files of folders and then changes of them for some seconds (the short run of the tests, any
 * compiler).
 * usage: NAME < INPUT | NAME SECONDS SEED FOLDER...
 */
#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define INPUT_MAX  (1u << 18)
#define INPUTS_MAX 256u
#define PATH_SIZE  1024u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    uint8_t *bytes;
    size_t size;
};

static struct input read_input(FILE *file)
{
    struct input input = {malloc(INPUT_MAX), 0};

    if (!input.bytes)
        abort();
    input.size = fread(input.bytes, 1, INPUT_MAX, file);
    return input;
}

/* In memory of exactly that size, so that the sanitizer sees what is read behind it. */
static void run(const uint8_t *bytes, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);

    if (!copy)
        abort();
    memcpy(copy, bytes, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static unsigned read_folder(const char *folder, struct input *inputs, unsigned count)
{
    DIR *entries = opendir(folder);
    const struct dirent *entry;

    while (entries && (entry = readdir(entries)) != NULL && count < INPUTS_MAX) {
        char path[PATH_SIZE];
        FILE *file;

        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        file = fopen(path, "r");
        if (!file)
            continue;
        inputs[count++] = read_input(file);
        fclose(file);
    }
    if (entries)
        closedir(entries);
    return count;
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 17;
}

/* A few bytes become others: any, the limits of numbers, or those of another place. */
static void change(uint8_t *bytes, size_t size, uint64_t *state)
{
    static const uint8_t limits[] = {0, 1, 0x7f, 0x80, 0xff};
    unsigned count = 1 + (unsigned)(next_random(state) % 6);

    for (unsigned i = 0; i < count; i++) {
        size_t at = next_random(state) % size, length = 1 + next_random(state) % 8;
        size_t from = next_random(state) % size;
        uint64_t kind = next_random(state) % 3;

        for (size_t j = 0; j < length && at + j < size && from + j < size; j++)
            bytes[at + j] = kind == 0   ? (uint8_t)next_random(state)
                            : kind == 1 ? limits[next_random(state) % sizeof(limits)]
                                        : bytes[from + j];
    }
}

static void run_changed(const struct input *inputs, unsigned count, long seconds, uint64_t seed)
{
    uint8_t *bytes = malloc(INPUT_MAX);
    struct timespec now;
    unsigned long done = 0;
    time_t end;

    clock_gettime(CLOCK_MONOTONIC, &now);
    end = now.tv_sec + seconds;
    for (; bytes && now.tv_sec < end; done++) {
        const struct input *input = &inputs[next_random(&seed) % count];

        clock_gettime(CLOCK_MONOTONIC, &now);
        if (input->size == 0)
            continue;
        memcpy(bytes, input->bytes, input->size);
        change(bytes, input->size, &seed);
        run(bytes, next_random(&seed) % 8 ? input->size : next_random(&seed) % input->size);
    }
    free(bytes);
    printf("%lu changed inputs without a finding\n", done);
}

#ifndef __AFL_LOOP
/* One input; afl-clang-fast has a loop of its own. */
static bool is_first = true;
#define __AFL_LOOP(count) (is_first && !(is_first = false))
#endif

static int run_standard_input(void)
{
    while (__AFL_LOOP(20000)) {
        struct input input = read_input(stdin);

        clearerr(stdin);
        run(input.bytes, input.size);
        free(input.bytes);
    }
    return 0;
}

int main(int argc, char **argv)
{
    static struct input inputs[INPUTS_MAX];
    unsigned count = 0;

    if (argc < 4)
        return run_standard_input();
    for (int i = 3; i < argc; i++)
        count = read_folder(argv[i], inputs, count);
    if (count == 0) {
        fprintf(stderr, "no seeds in %s\n", argv[3]);
        return 1;
    }
    printf("seed %s, %u seeds\n", argv[2], count);
    for (unsigned i = 0; i < count; i++)
        run(inputs[i].bytes, inputs[i].size);
    run_changed(inputs, count, strtol(argv[1], NULL, 10), strtoull(argv[2], NULL, 10));
    for (unsigned i = 0; i < count; i++)
        free(inputs[i].bytes);
    return 0;
}
