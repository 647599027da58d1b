/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verifiable guest: fills memory with a pattern that it can check, and then, at each tick of
 * the BIOS clock, rewrites pages and disk blocks with their next generation. What a page or a block
 * must hold follows from its number and its generation; the generations lie in tables in memory. So
 * memory and disks check each other: a lost page, a lost write or an old copy of either shows in
 * VERIFY.
 *
 * Freestanding, 64-bit, one CPU, no interrupts of its own; disks through INT 13h (boot.S).
 * Serial (COM1, 115200): lines out; one byte commands in: v verify, q quiet, g go on, l last block,
 * k clock, and what ends it: r reset, t triple fault, p power off, s suspend to RAM, c crash (pvpanic).
 */
#include "guest.h"

#define DISK_BUFFER   0x20000ul
#define MEMORY_MAP    0x30000ul
#define TICK_COUNTER  0x46c
#define FIRST_ADDRESS (2ull << 20)
#define PAGE_WORDS    (PAGE / 8)
#define SECTORS       (PAGE / 512)
#define MAGIC         0x3154534555475747ull
#define DISK_LIMIT    2u
#define RANGE_LIMIT   16u
#define RECENT_LIMIT  4096u
#define READ_RUN      8u /* blocks that one verifying read takes */
#define BIOS_OK       0x100u
#define LINE_TICKS    18u
#define GIVEN_AWAY    0xffffffffu /* for a page's generation */
#define TAKEN_BACK    0x80000000u /* from here on, as no page had them before */
#define COM1          0x3f8
#define RTC           0x70
#define RESET_CONTROL 0xcf9
#define PANIC         0x505
#define POWER_CONTROL 0x604 /* PM1a_CNT, where SeaBIOS puts it on pc and q35 */

/* The configuration's sector, little endian, written by make-guest. */
struct configuration {
    uint64_t magic; /* "GWGUEST1" */
    uint64_t seed;
    uint32_t span_mib;
    uint32_t hot_mib; /* rewritten pages lie in the first hot_mib of the span; 0: in all of it */
    uint32_t pages_per_tick;
    uint32_t writes_per_tick; /* over all disks */
    uint32_t reads_per_tick;
    uint32_t disk_count;
    struct {
        uint32_t first_block; /* of 4 KiB */
        uint32_t block_count;
    } disks[DISK_LIMIT];
};

struct range {
    uint64_t address;
    uint64_t page_count;
};

struct disk {
    uint32_t first_block;
    uint32_t block_count;
    uint32_t *generations; /* 0: never written by us */
};

struct recent {
    uint32_t disk;
    uint32_t block;
};

static struct configuration config;
static struct range ranges[RANGE_LIMIT];
static unsigned range_count;
static uint64_t page_count;
static uint64_t hot_count;
static uint32_t *page_generations;
static struct disk disks[DISK_LIMIT];
static struct recent recents[RECENT_LIMIT];
static uint32_t recent_count, taken_count;
static uint64_t random_state;
static uint64_t pages_written, blocks_written, blocks_read, bad_count;

uint32_t bios_call(uint32_t request, uint32_t ax, uint32_t dx, uint32_t si);
void guest_main(void);
void *memcpy(void *to, const void *from, unsigned long size);

void *memset(void *to, int value, unsigned long size)
{
    void *at = to;

    __asm__ volatile("rep stosb" : "+D"(at), "+c"(size) : "a"(value) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, unsigned long size)
{
    void *at = to;

    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(size) : : "memory");
    return to;
}

static void out_byte(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static uint8_t in_byte(uint16_t port)
{
    uint8_t value;

    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

/* The BIOS's count of timer interrupts. Read in assembler: to the compiler this address is NULL's.
 */
static uint32_t read_clock(void)
{
    uint32_t value;

    __asm__ volatile("movl %c1, %0" : "=r"(value) : "i"(TICK_COUNTER));
    return value;
}

static void serial_open(void)
{
    out_byte(COM1 + 1, 0);    /* no interrupts */
    out_byte(COM1 + 3, 0x80); /* divisor 1: 115200 */
    out_byte(COM1 + 0, 1);
    out_byte(COM1 + 1, 0);
    out_byte(COM1 + 3, 3); /* 8N1 */
    out_byte(COM1 + 2, 7); /* FIFO on and empty */
    out_byte(COM1 + 4, 3);
}

/* A line that nobody takes away is dropped after a while: the guest goes on without a reader. */
static void put_char(char c)
{
    for (unsigned i = 0; i < 100000 && !(in_byte(COM1 + 5) & 0x20); i++)
        ;
    out_byte(COM1, (uint8_t)c);
}

void put_text(const char *text)
{
    while (*text)
        put_char(*text++);
}

void put_number(const char *name, uint64_t value)
{
    char digits[20];
    unsigned count = 0;

    put_char(' ');
    put_text(name);
    put_char('=');
    do
        digits[count++] = (char)('0' + value % 10);
    while (value /= 10);
    while (count)
        put_char(digits[--count]);
}

void end_line(void)
{
    put_text("\r\n");
}

_Noreturn void stop(const char *cause)
{
    put_text("FATAL ");
    put_text(cause);
    end_line();
    for (;;)
        bios_call(1, 0, 0, 0);
}

/* A bijection of 64-bit numbers that scatters near ones (Stafford's variant 13 of the finalizer).
 */
static uint64_t scatter(uint64_t value)
{
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
    return value ^ (value >> 31);
}

uint32_t random_below(uint32_t limit)
{
    random_state += 0x9e3779b97f4a7c15ull;
    return (uint32_t)(((scatter(random_state) >> 32) * limit) >> 32);
}

/* What the 4 KiB with this number hold in this generation. space: 0 memory, 1 + n disk n. The first
 * two words name it, so that a person can read a damaged one. */
void fill_pattern(uint64_t *words, uint64_t space, uint64_t number, uint32_t generation)
{
    uint64_t value = scatter(config.seed ^ scatter(number << 3 | space)) + generation;
    uint64_t step = scatter(value) | 1;

    words[0] = number << 3 | space;
    words[1] = generation;
    for (unsigned i = 2; i < PAGE_WORDS; i++)
        words[i] = value += step;
}

int has_pattern(const uint64_t *words, uint64_t space, uint64_t number, uint32_t generation)
{
    uint64_t value = scatter(config.seed ^ scatter(number << 3 | space)) + generation;
    uint64_t step = scatter(value) | 1;
    uint64_t difference = words[0] ^ (number << 3 | space);

    difference |= words[1] ^ generation;
    for (unsigned i = 2; i < PAGE_WORDS; i++)
        difference |= words[i] ^ (value += step);
    return difference == 0;
}

/* The page with this number of the span, which may consist of several ranges of usable memory. */
static uint64_t *page_at(uint64_t number)
{
    unsigned i = 0;

    while (number >= ranges[i].page_count)
        number -= ranges[i++].page_count;
    return (uint64_t *)(ranges[i].address + number * PAGE);
}

/* function: 0x42 reads, 0x43 writes. The 16-byte packet lies behind the disk buffer. */
static int transfer(uint32_t function, uint32_t disk, uint32_t block, uint32_t count)
{
    static struct {
        uint8_t size, zero;
        uint16_t sectors, offset, segment;
        uint64_t sector;
    } packet;

    packet.size = 16;
    packet.sectors = (uint16_t)(count * SECTORS);
    packet.segment = (uint16_t)(DISK_BUFFER >> 4);
    packet.sector = (uint64_t)block * SECTORS;
    return bios_call(0, function << 8, 0x80 + disk, (uint32_t)(uintptr_t)&packet) == BIOS_OK;
}

/* Takes usable memory from what the BIOS says, above FIRST_ADDRESS, in whole pages. */
static void find_memory(void)
{
    const uint8_t *map = (const uint8_t *)MEMORY_MAP;
    uint32_t count = *(const uint32_t *)map;

    for (uint32_t i = 0; i < count && range_count < RANGE_LIMIT; i++) {
        const uint8_t *entry = map + 8 + 24 * i;
        uint64_t first = *(const uint64_t *)entry;
        uint64_t end = first + *(const uint64_t *)(entry + 8);

        if (*(const uint32_t *)(entry + 16) != 1)
            continue;
        first = first < FIRST_ADDRESS ? FIRST_ADDRESS : (first + PAGE - 1) & ~(uint64_t)(PAGE - 1);
        end = end > HIGHEST_ADDRESS ? HIGHEST_ADDRESS : end & ~(uint64_t)(PAGE - 1);
        if (first >= end)
            continue;
        ranges[range_count].address = first;
        ranges[range_count++].page_count = (end - first) / PAGE;
    }
}

uint32_t *take_table(uint64_t entry_count)
{
    uint64_t pages = (entry_count * 4 + PAGE - 1) / PAGE;
    uint32_t *table = (uint32_t *)ranges[0].address;

    if (pages >= ranges[0].page_count)
        stop("no memory for the tables");
    ranges[0].address += pages * PAGE;
    ranges[0].page_count -= pages;
    memset(table, 0, pages * PAGE);
    return table;
}

static void lay_out(void)
{
    uint64_t have = 0;

    find_memory();
    if (range_count == 0)
        stop("no usable memory");
    page_count = (uint64_t)config.span_mib * 256;
    page_generations = take_table(page_count);
    elastic_open();
    for (uint32_t i = 0; i < config.disk_count; i++) {
        disks[i].first_block = config.disks[i].first_block;
        disks[i].block_count = config.disks[i].block_count;
        disks[i].generations = take_table(disks[i].block_count);
    }
    for (unsigned i = 0; i < range_count; i++)
        have += ranges[i].page_count;
    if (have < page_count)
        stop("the memory span is larger than the memory");
    hot_count = config.hot_mib ? (uint64_t)config.hot_mib * 256 : page_count;
    if (hot_count > page_count)
        hot_count = page_count;
}

static void write_page(uint64_t number, uint32_t generation)
{
    page_generations[number] = generation;
    fill_pattern(page_at(number), 0, number, generation);
    pages_written++;
}

uint64_t span_pages(void)
{
    return page_count;
}

uint64_t give_page(uint64_t number)
{
    page_generations[number] = GIVEN_AWAY;
    return (uint64_t)page_at(number);
}

uint64_t take_page(uint64_t number)
{
    write_page(number, TAKEN_BACK + taken_count++);
    return (uint64_t)page_at(number);
}

static void write_some_block(void)
{
    uint32_t disk = (uint32_t)(blocks_written % config.disk_count);
    uint32_t index = random_below(disks[disk].block_count);
    uint32_t block = disks[disk].first_block + index;
    uint32_t generation = disks[disk].generations[index] + 1;

    fill_pattern((uint64_t *)DISK_BUFFER, 1 + disk, block, generation);
    if (!transfer(0x43, disk, block, 1)) {
        bad_count++;
        put_text("BAD write");
        put_number("disk", disk);
        put_number("block", block);
        end_line();
        return;
    }
    disks[disk].generations[index] = generation;
    recents[blocks_written % RECENT_LIMIT] = (struct recent){disk, block};
    blocks_written++;
    if (recent_count < RECENT_LIMIT)
        recent_count++;
}

static void read_some_block(void)
{
    struct recent recent = recents[random_below(recent_count)];
    struct disk *disk = &disks[recent.disk];
    uint32_t generation = disk->generations[recent.block - disk->first_block];

    blocks_read++;
    if (transfer(0x42, recent.disk, recent.block, 1) &&
        has_pattern((uint64_t *)DISK_BUFFER, 1 + recent.disk, recent.block, generation))
        return;
    bad_count++;
    put_text("BAD read");
    put_number("disk", recent.disk);
    put_number("block", recent.block);
    end_line();
}

/* Each verifying function prints the first difference and answers how many it found. */
static uint64_t verify_pages(uint64_t *count)
{
    uint64_t bad = 0;

    for (uint64_t number = 0; number < page_count; number++) {
        if (page_generations[number] == GIVEN_AWAY)
            continue;
        ++*count;
        if (has_pattern(page_at(number), 0, number, page_generations[number]))
            continue;
        if (bad++ == 0) {
            put_text("VERIFY BAD");
            put_number("page", number);
            put_number("address", (uint64_t)page_at(number));
            put_number("generation", page_generations[number]);
            put_number("found", page_at(number)[1]);
            end_line();
        }
    }
    return bad;
}

static uint64_t verify_run(uint32_t disk, uint32_t index, uint32_t count, int is_first)
{
    uint32_t block = disks[disk].first_block + index;
    int has_data = transfer(0x42, disk, block, count);
    uint64_t bad = 0;

    for (uint32_t i = 0; i < count; i++) {
        const uint64_t *words = (const uint64_t *)(DISK_BUFFER + (uint64_t)i * PAGE);
        uint32_t generation = disks[disk].generations[index + i];

        if (has_data && has_pattern(words, 1 + disk, block + i, generation))
            continue;
        if (bad++ == 0 && is_first) {
            put_text("VERIFY BAD");
            put_number("block", block + i);
            put_number("disk", disk);
            put_number("generation", generation);
            put_number("found", has_data ? words[1] : 0);
            end_line();
        }
    }
    return bad;
}

static uint64_t verify_disk(uint32_t disk, uint64_t *block_count)
{
    const uint32_t *generations = disks[disk].generations;
    uint64_t bad = 0;
    uint32_t index = 0;

    while (index < disks[disk].block_count) {
        uint32_t count = 0;

        while (count < READ_RUN && index + count < disks[disk].block_count &&
               generations[index + count])
            count++;
        if (count)
            bad += verify_run(disk, index, count, bad == 0);
        *block_count += count;
        index += count ? count : 1;
    }
    return bad;
}

static void verify(uint64_t ticks)
{
    uint64_t block_count = 0, checked_count = 0;
    uint64_t bad = verify_pages(&checked_count) + elastic_verify(&checked_count);

    for (uint32_t disk = 0; disk < config.disk_count; disk++)
        bad += verify_disk(disk, &block_count);
    bad_count += bad;
    put_text(bad_count ? "VERIFY FAILED" : "VERIFY OK");
    put_number("ticks", ticks);
    put_number("pages", checked_count);
    put_number("blocks", block_count);
    put_number("bad", bad_count);
    end_line();
}

static void print_counts(const char *name, uint64_t ticks)
{
    put_text(name);
    put_number("n", ticks);
    put_number("pages", pages_written);
    put_number("writes", blocks_written);
    put_number("reads", blocks_read);
    put_number("bad", bad_count);
    end_line();
}

static void print_last(void)
{
    uint32_t at = (uint32_t)((blocks_written - 1) % RECENT_LIMIT);

    put_text("LAST");
    put_number("written", blocks_written);
    put_number("disk", blocks_written ? recents[at].disk : 0);
    put_number("block", blocks_written ? recents[at].block : 0);
    end_line();
}

static uint8_t read_rtc(uint8_t index)
{
    uint8_t value;

    out_byte(RTC, index);
    value = in_byte(RTC + 1);
    return (uint8_t)((value >> 4) * 10 + (value & 15)); /* BCD, as the firmware sets it */
}

/* The real-time clock as seconds since 2000-01-01, UTC, right until 2099; and the ticks that the guest
 * counted itself. */
static void print_clock(uint64_t ticks)
{
    static const uint16_t days_before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    uint64_t days, seconds;
    uint8_t second, month, year;

    do { /* a reading during which the clock went on is taken again */
        second = read_rtc(0);
        seconds = second + 60u * read_rtc(2) + 3600u * read_rtc(4);
        month = read_rtc(8);
        year = read_rtc(9);
        days = year * 365u + (year + 3u) / 4 + days_before[(month - 1) % 12] + read_rtc(7) - 1u;
    } while (read_rtc(0) != second);
    if (year % 4 == 0 && month > 2)
        days++;
    put_text("CLOCK");
    put_number("s", days * 86400 + seconds);
    put_number("n", ticks);
    end_line();
}

static void out_word(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static void triple_fault(void)
{
    static const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) no_interrupts = {0, 0};

    __asm__ volatile("lidt %0; int3" : : "m"(no_interrupts));
}

static void boot(void)
{
    memcpy(&config, (const void *)DISK_BUFFER, sizeof(config));
    if (config.magic != MAGIC || config.disk_count > DISK_LIMIT)
        stop("the configuration's sector is damaged");
    random_state = config.seed;
    /* A reset may have cut a line short. */
    put_text("\nBOOT");
    put_number("seed", config.seed);
    put_number("span_mib", config.span_mib);
    put_number("disks", config.disk_count);
    end_line();
    lay_out();
    for (uint64_t number = 0; number < page_count; number++)
        write_page(number, 0);
    put_text("FILLED");
    put_number("pages", page_count);
    put_number("address", (uint64_t)page_at(0));
    put_number("ranges", range_count);
    end_line();
}

static void work(void)
{
    for (uint32_t i = 0; i < config.pages_per_tick && hot_count; i++) {
        uint32_t number = random_below((uint32_t)hot_count);

        if (page_generations[number] == GIVEN_AWAY)
            continue;
        write_page(number, page_generations[number] + 1);
    }
    for (uint32_t i = 0; i < config.writes_per_tick && config.disk_count; i++)
        write_some_block();
    for (uint32_t i = 0; i < config.reads_per_tick && recent_count; i++)
        read_some_block();
}

static void obey(char command, uint64_t ticks, int *is_quiet)
{
    switch (command) {
    case 'v':
        verify(ticks);
        break;
    case 'q':
        *is_quiet = 1;
        print_counts("QUIET", ticks);
        break;
    case 'g':
        *is_quiet = 0;
        print_counts("BUSY", ticks);
        break;
    case 'l':
        print_last();
        break;
    case 'k':
        print_clock(ticks);
        break;
    case 'r':
        out_byte(RESET_CONTROL, 2);
        out_byte(RESET_CONTROL, 6);
        break;
    case 't':
        triple_fault();
        break;
    case 'p':
        out_word(POWER_CONTROL, 0x2000);
        break;
    case 's':
        out_word(POWER_CONTROL, 0x2400);
        break;
    case 'c':
        out_byte(PANIC, 1);
        break;
    default:
        break;
    }
}

void guest_main(void)
{
    uint64_t ticks = 0;
    uint32_t last;
    int is_quiet = 0;

    serial_open();
    if (!transfer(0x42, 0, 0, 1))
        stop("cannot read the configuration");
    memcpy((void *)DISK_BUFFER, (const void *)(DISK_BUFFER + 512), 512);
    boot();
    last = read_clock();
    for (;;) {
        while (read_clock() == last)
            bios_call(1, 0, 0, 0);
        last = read_clock();
        ticks++;
        elastic_work(is_quiet);
        if (!is_quiet)
            work();
        while (in_byte(COM1 + 5) & 1)
            obey((char)in_byte(COM1), ticks, &is_quiet);
        if (ticks % LINE_TICKS == 0)
            print_counts("TICK", ticks);
    }
}
