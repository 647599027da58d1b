/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is sent: ops are cut into segments when there is room for them; each segment travels in a
 * datagram, and again in another one with a new packet number, until the peer has it.
 */
#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "transport/dpdk/private.h"

/* What an op's scratch holds. */
enum { OUTSTANDING, FLAGS, STATUS };
enum op_flags { OP_IS_MESSAGE = 1, OP_IS_CUT = 2, OP_IS_DONE = 4 };

static struct dpdk_segment *segment_at(struct dpdk_sender *sender, uint64_t number)
{
    return &sender->segments[number % DPDK_SEGMENTS];
}

static uint32_t op_length(const struct gw_op *op)
{
    return op->scratch[FLAGS] & OP_IS_MESSAGE
               ? gw_container_of(op, const struct gw_send, op)->length
               : gw_container_of(op, const struct gw_write, op)->length;
}

static const uint8_t *op_bytes(const struct gw_op *op)
{
    return op->scratch[FLAGS] & OP_IS_MESSAGE
               ? gw_container_of(op, const struct gw_send, op)->message
               : gw_container_of(op, const struct gw_write, op)->local;
}

void gw_dpdk_sender_init(struct dpdk_core *core)
{
    struct dpdk_sender *sender = &core->sender;

    sender->number_next = sender->number_oldest = 1;
    sender->messages_allowed = DPDK_MESSAGES;
    sender->loss_timer_ns = DPDK_NONE;
    sender->reorder_steps = 1;
    gw_dpdk_cc_init(&core->cc, DPDK_DATAGRAM_MIN, (uint64_t)DPDK_SEGMENTS * DPDK_DATAGRAM_MAX);
}

void gw_dpdk_sender_open(struct dpdk_core *core, uint64_t now_ns)
{
    core->sender.progress_ns = now_ns;
    core->sender.eliciting_ns = now_ns;
    core->sender.pace_next_ns = now_ns;
}

static int post(struct dpdk_core *core, struct gw_op *op, uint64_t flags)
{
    struct dpdk_sender *sender = &core->sender;
    int rc = gw_dpdk_core_error(core);

    if (rc)
        return rc;
    if (sender->op_count >= GW_CHANNEL_OPS_MAX)
        return -EAGAIN;
    op->next = NULL;
    op->scratch[OUTSTANDING] = 0;
    op->scratch[FLAGS] = flags;
    if (sender->posted)
        sender->posted_last->next = op;
    else
        sender->posted = op;
    sender->posted_last = op;
    sender->op_count++;
    return 0;
}

int gw_dpdk_core_write(struct dpdk_core *core, struct gw_write *write)
{
    return post(core, &write->op, 0);
}

int gw_dpdk_core_send(struct dpdk_core *core, struct gw_send *send)
{
    return post(core, &send->op, OP_IS_MESSAGE);
}

static void complete(struct dpdk_sender *sender, struct gw_op *op, int status)
{
    op->scratch[FLAGS] |= OP_IS_DONE;
    op->scratch[STATUS] = (uint64_t)(int64_t)status;
    op->next = NULL;
    if (sender->done)
        sender->done_last->next = op;
    else
        sender->done = op;
    sender->done_last = op;
}

unsigned gw_dpdk_core_reap(struct dpdk_core *core)
{
    struct dpdk_sender *sender = &core->sender;
    unsigned count = 0;

    for (struct gw_op *op = sender->done; op; op = sender->done, count++) {
        sender->done = op->next;
        sender->op_count--;
        op->done(op, (int)(int64_t)op->scratch[STATUS]);
    }
    return count;
}

void gw_dpdk_sender_cancel(struct dpdk_core *core, int status)
{
    struct dpdk_sender *sender = &core->sender;
    struct gw_op *op;

    while ((op = sender->posted) != NULL) {
        sender->posted = op->next;
        complete(sender, op, status);
    }
    for (uint64_t n = sender->segment_first; n != sender->segment_next; n++) {
        op = segment_at(sender, n)->op;
        segment_at(sender, n)->op = NULL;
        if (op && !(op->scratch[FLAGS] & OP_IS_DONE))
            complete(sender, op, status);
    }
    sender->segment_first = sender->segment_next;
    sender->lost_first = sender->lost_next;
    sender->probes_due = 0;
}

/* The peer has these parts. */
static void settle(struct dpdk_core *core, struct dpdk_segment *segment, uint8_t parts)
{
    struct gw_op *op = segment->op;

    segment->missing &= (uint8_t)~parts;
    segment->waiting &= (uint8_t)~parts;
    if (segment->missing || !op)
        return;
    segment->op = NULL;
    op->scratch[OUTSTANDING]--;
    if (op->scratch[OUTSTANDING] || !(op->scratch[FLAGS] & OP_IS_CUT))
        return;
    core->counts.bytes_sent += op_length(op);
    if (op->scratch[FLAGS] & OP_IS_MESSAGE)
        core->counts.messages_sent++;
    complete(&core->sender, op, 0);
}

/* What the acknowledgement at hand told. */
struct account {
    uint64_t now_ns;
    struct dpdk_cc_news news;
    bool had_long, had_short;
};

static void leave_flight(struct dpdk_sender *sender, const struct dpdk_sent *sent)
{
    sender->in_flight -= sent->length;
    sender->out_count--;
}

static void set_fate(struct dpdk_sender *sender, struct dpdk_sent *sent, enum dpdk_fate fate)
{
    uint64_t *word = &sender->unsettled[sent->number % DPDK_SENT / 64];
    uint64_t bit = 1ull << sent->number % 64;

    sent->fate = (uint8_t)fate;
    *word = fate == DPDK_SETTLED ? *word & ~bit : *word | bit;
}

/* A bit for each part of the segment that it carried. */
static uint8_t parts_of(const struct dpdk_sent *sent)
{
    if (sent->part == DPDK_WHOLE)
        return UINT8_MAX;
    return (uint8_t)(1u << (sent->part & 7));
}

static bool is_live(const struct dpdk_sender *sender, const struct dpdk_sent *sent)
{
    return sent->segment != DPDK_NONE && sent->segment >= sender->segment_first;
}

/* More, or less, of the era in which it was sent. */
static void count_lost(struct dpdk_sender *sender, const struct dpdk_sent *sent, int more)
{
    if (sent->number >= sender->eras.now.first)
        sender->eras.now.lost += (uint64_t)(int64_t)more;
    else if (sent->number >= sender->eras.before.first)
        sender->eras.before.lost += (uint64_t)(int64_t)more;
}

void gw_dpdk_core_begin_era(struct dpdk_core *core)
{
    struct dpdk_sender *sender = &core->sender;

    sender->eras.before = sender->eras.now;
    sender->eras.now = (struct dpdk_era){.first = sender->number_next};
}

const struct dpdk_eras *gw_dpdk_core_eras(const struct dpdk_core *core)
{
    return &core->sender.eras;
}

static void arrived(struct dpdk_core *core, struct account *account, struct dpdk_sent *sent)
{
    struct dpdk_sender *sender = &core->sender;

    if (sent->fate == DPDK_LOST) {
        if (sent->segment != DPDK_NONE) {
            core->counts.sent_in_vain++;
            count_lost(sender, sent, -1);
        }
        if (sender->reorder_steps < 16)
            sender->reorder_steps++;
        sender->reorder_stamp = sender->number_next;
    } else {
        leave_flight(sender, sent);
        account->news.acked++;
        account->news.acked_bytes += sent->length;
        if (sent->number >= sender->rack_number) {
            sender->rack_number = sent->number;
            sender->rack_sent_ns = sent->sent_ns;
        }
        if (sent->length > DPDK_DATAGRAM_MIN)
            account->had_long = true;
        else
            account->had_short = true;
    }
    set_fate(sender, sent, DPDK_SETTLED);
    gw_dpdk_path_acknowledged(core, account->now_ns, sent);
    if (is_live(sender, sent))
        settle(core, segment_at(sender, sent->segment), parts_of(sent));
}

static void take_bitmap(struct dpdk_core *core, struct account *account, uint64_t largest,
                        const uint8_t *bitmap)
{
    struct dpdk_sender *sender = &core->sender;
    uint64_t first = largest - DPDK_ACK_BITS + 1; /* wraps below 1, where no bit may count */

    for (unsigned i = 0; i < DPDK_ACK_BYTES / 8; i++) {
        uint64_t from = first + (uint64_t)i * 64;
        uint64_t word = gw_get_le64(bitmap + (size_t)i * 8);

        /* Most of it was told before. */
        word &= gw_dpdk_ring_word(sender->unsettled, DPDK_SENT / 64, from);
        for (; word; word &= word - 1) {
            uint64_t number = from + (unsigned)__builtin_ctzll(word);
            struct dpdk_sent *sent = &sender->sent[number % DPDK_SENT];

            if (sent->number == number && sent->fate != DPDK_SETTLED && number <= largest)
                arrived(core, account, sent);
        }
    }
}

static void queue_lost(struct dpdk_sender *sender, uint64_t number, uint8_t parts)
{
    struct dpdk_segment *segment = segment_at(sender, number);

    segment->waiting |= parts & segment->missing;
    if (segment->is_queued || segment->waiting == 0)
        return;
    segment->is_queued = true;
    sender->lost[sender->lost_next++ % DPDK_SEGMENTS] = (uint32_t)(number % DPDK_SEGMENTS);
}

static void went_missing(struct dpdk_core *core, uint64_t now_ns, struct dpdk_sent *sent,
                         uint32_t *lost)
{
    struct dpdk_sender *sender = &core->sender;

    leave_flight(sender, sent);
    set_fate(sender, sent, DPDK_LOST);
    gw_dpdk_path_lost(core, now_ns, sent);
    if (sent->segment == DPDK_NONE)
        return; /* a probe that is too long for the path says nothing about congestion */
    (*lost)++;
    count_lost(sender, sent, 1);
    if (is_live(sender, sent))
        queue_lost(sender, sent->segment, parts_of(sent));
}

/* RACK: lost is what was sent before something that has arrived, and would have arrived itself by
 * now, reordering included. */
static uint32_t find_lost(struct dpdk_core *core, uint64_t now_ns)
{
    struct dpdk_sender *sender = &core->sender;
    uint64_t trip = gw_max(core->cc.smoothed_ns, core->cc.latest_ns);
    uint64_t step = gw_max(trip / 4, DPDK_ACK_DELAY_NS);
    uint64_t patience = trip + step * sender->reorder_steps;
    uint32_t lost = 0;

    sender->loss_timer_ns = DPDK_NONE;
    for (; sender->number_oldest < sender->number_next; sender->number_oldest++) {
        uint64_t number = sender->number_oldest;
        struct dpdk_sent *sent = &sender->sent[number % DPDK_SENT];

        if (sent->number != number || sent->fate != DPDK_OUT)
            continue;
        if (sent->segment != DPDK_NONE && sent->segment < sender->segment_first) {
            /* The peer has it, by this datagram or by another one. */
            leave_flight(sender, sent);
            set_fate(sender, sent, DPDK_SETTLED);
            continue;
        }
        if (number > sender->rack_number)
            break;
        if (sent->sent_ns + patience > now_ns) {
            sender->loss_timer_ns = sent->sent_ns + patience;
            break;
        }
        went_missing(core, now_ns, sent, &lost);
    }
    return lost;
}

static void set_pace(struct dpdk_core *core)
{
    uint64_t rate = gw_max(gw_dpdk_cc_rate(&core->cc), 1024);

    core->sender.pace_ns_per_kib = 1024 * GW_NS_PER_S / rate;
}

static void progressed(struct dpdk_core *core, struct account *account)
{
    struct dpdk_sender *sender = &core->sender;

    account->news.lost = find_lost(core, account->now_ns);
    gw_dpdk_cc_news(&core->cc, &account->news);
    set_pace(core);
    if (account->news.acked == 0)
        return;
    sender->progress_ns = account->now_ns;
    sender->pto_count = 0;
    /* Not the time at which it came: what was held back by somebody proves no more. */
    core->alive_ns = gw_max(core->alive_ns, sender->rack_sent_ns);
    if (account->had_short && !account->had_long)
        gw_dpdk_path_only_short(core, account->now_ns);
    if (sender->reorder_steps > 1 && sender->rack_number > sender->reorder_stamp + 4096) {
        sender->reorder_steps--;
        sender->reorder_stamp = sender->number_next;
    }
}

static bool is_possible(const struct dpdk_core *core, const struct dpdk_header *header)
{
    const struct dpdk_sender *sender = &core->sender;

    return header->length == DPDK_ACK_BYTES &&
           header->fields[DPDK_ACK_LARGEST] < sender->number_next &&
           header->fields[DPDK_ACK_SEGMENT] <= sender->segment_next &&
           header->fields[DPDK_ACK_MESSAGES] <= sender->messages_cut + DPDK_MESSAGES;
}

void gw_dpdk_sender_acknowledged(struct dpdk_core *core, uint64_t now_ns,
                                 const struct dpdk_header *header, const uint8_t *bitmap)
{
    struct dpdk_sender *sender = &core->sender;
    uint64_t largest = header->fields[DPDK_ACK_LARGEST];
    uint32_t delay = (uint32_t)header->fields[DPDK_ACK_TIMES];
    uint32_t marked = (uint32_t)(header->fields[DPDK_ACK_TIMES] >> 32);
    struct account account = {
        .now_ns = now_ns,
        .news = {.now_ns = now_ns, .largest = largest, .next = sender->number_next}};
    const struct dpdk_sent *newest = &sender->sent[largest % DPDK_SENT];

    if (!is_possible(core, header)) {
        gw_dpdk_die(core, gw_fail(-EPROTO, "dpdk: the peer acknowledges what was not sent"));
        return;
    }
    if (newest->number == largest && newest->fate == DPDK_OUT) {
        uint64_t trip = now_ns - newest->sent_ns;

        account.news.round_trip_ns = gw_max(trip > delay ? trip - delay : trip, 1);
    }
    take_bitmap(core, &account, largest, bitmap);
    for (uint64_t n = sender->segment_first; n < header->fields[DPDK_ACK_SEGMENT]; n++)
        settle(core, segment_at(sender, n), 0xff);
    while (sender->segment_first < sender->segment_next &&
           segment_at(sender, sender->segment_first)->missing == 0)
        sender->segment_first++;
    if (header->fields[DPDK_ACK_MESSAGES] > sender->messages_allowed) {
        sender->messages_allowed = header->fields[DPDK_ACK_MESSAGES];
        sender->blocked_count = 0;
    }
    if ((int32_t)(marked - sender->marked_seen) > 0) {
        account.news.marked = marked - sender->marked_seen;
        sender->marked_seen = marked;
    }
    progressed(core, &account);
}

uint64_t gw_dpdk_sender_pto_ns(const struct dpdk_core *core)
{
    const struct dpdk_cc *cc = &core->cc;
    uint64_t trip = cc->smoothed_ns ? cc->smoothed_ns : DPDK_FIRST_RTT_NS;

    return gw_max(trip + 4 * cc->deviation_ns + DPDK_ACK_DELAY_NS, DPDK_PTO_MIN_NS);
}

/* When the silence of the peer is to be answered with a probe. */
static uint64_t pto_at(const struct dpdk_core *core)
{
    const struct dpdk_sender *sender = &core->sender;
    unsigned count = sender->out_count ? sender->pto_count : sender->blocked_count;

    if (sender->out_count == 0 && !sender->is_blocked)
        return DPDK_NONE;
    return sender->progress_ns + gw_min(gw_dpdk_sender_pto_ns(core) << gw_min(count, 16),
                                        gw_max(DPDK_PTO_MAX_NS, gw_dpdk_sender_pto_ns(core)));
}

static void probe_timeout(struct dpdk_core *core, uint64_t now_ns)
{
    struct dpdk_sender *sender = &core->sender;
    const struct dpdk_segment *oldest;

    sender->progress_ns = now_ns;
    if (sender->out_count == 0) {
        sender->blocked_count++;
        sender->is_ping_due = true;
        return;
    }
    sender->pto_count++;
    oldest = segment_at(sender, sender->segment_first);
    if (sender->segment_first != sender->segment_next && oldest->parts == 1 &&
        oldest->length > DPDK_BASE)
        core->path.silent_ptos++;
    /* What is oldest goes again, twice. What it is acknowledged by tells the rest. */
    sender->probes_due = 2;
    if (sender->segment_first == sender->segment_next)
        sender->is_ping_due = true;
    else
        queue_lost(sender, sender->segment_first, 0xff);
    if (sender->pto_count == 3)
        gw_dpdk_cc_silence(&core->cc);
    set_pace(core);
}

void gw_dpdk_sender_tick(struct dpdk_core *core, uint64_t now_ns)
{
    struct dpdk_sender *sender = &core->sender;

    if (now_ns >= sender->loss_timer_ns) {
        struct dpdk_cc_news news = {.now_ns = now_ns, .next = sender->number_next};

        news.lost = find_lost(core, now_ns);
        gw_dpdk_cc_news(&core->cc, &news);
        set_pace(core);
    }
    if (now_ns >= pto_at(core))
        probe_timeout(core, now_ns);
}

/* A burst after a pause: what pacing would have let go meanwhile, up to 16 full datagrams or a
 * quarter of the window. */
static void pace(struct dpdk_core *core, uint64_t now_ns, uint32_t length)
{
    struct dpdk_sender *sender = &core->sender;
    uint64_t burst = gw_max((uint64_t)16 * core->cc.unit, gw_dpdk_cc_window(&core->cc) / 4);
    uint64_t saved = burst * sender->pace_ns_per_kib / 1024;
    uint64_t earliest = now_ns > saved ? now_ns - saved : 0;

    sender->pace_next_ns =
        gw_max(sender->pace_next_ns, earliest) + length * sender->pace_ns_per_kib / 1024;
}

/* Notes a datagram of that many bytes as sent. The caller says what it carries. */
static struct dpdk_sent *note_sent(struct dpdk_core *core, uint64_t now_ns, uint64_t number,
                                   uint32_t length)
{
    struct dpdk_sender *sender = &core->sender;
    struct dpdk_sent *sent = &sender->sent[number % DPDK_SENT];

    /* Only beside a peer that sends and sends and never acknowledges. */
    if (sent->fate == DPDK_OUT)
        leave_flight(sender, sent);
    if (sender->out_count == 0) {
        sender->progress_ns = now_ns;
        sender->number_oldest = number;
    }
    sent->number = number;
    sent->sent_ns = now_ns;
    sent->length = (uint16_t)length;
    set_fate(sender, sent, DPDK_OUT);
    sender->in_flight += length;
    sender->out_count++;
    sender->eliciting_ns = now_ns;
    pace(core, now_ns, length);
    return sent;
}

void gw_dpdk_sender_probe(struct dpdk_core *core, uint64_t now_ns, uint32_t length, uint8_t *header,
                          struct dpdk_packet *out)
{
    static const uint8_t zeros[DPDK_DATAGRAM_MAX - DPDK_HEADER_SIZE];
    struct dpdk_header probe = gw_dpdk_next_header(core, DPDK_KIND_PROBE);
    struct dpdk_sent *sent = note_sent(core, now_ns, probe.number, length);

    sent->segment = DPDK_NONE;
    sent->part = 0;
    probe.length = length - DPDK_HEADER_SIZE;
    gw_dpdk_header_encode(&probe, header);
    *out = (struct dpdk_packet){.payload = zeros, .length = probe.length, .must_copy = true};
}

static uint32_t part_length(const struct dpdk_segment *segment, uint8_t part)
{
    if (segment->parts == 1)
        return segment->length;
    return (uint32_t)gw_min(segment->length - part * DPDK_BASE, DPDK_BASE);
}

/* A datagram for a segment, or for one part of it. */
static void build(struct dpdk_core *core, uint64_t now_ns, uint64_t number, uint8_t part,
                  uint8_t *bytes, struct dpdk_packet *out)
{
    struct dpdk_segment *segment = segment_at(&core->sender, number);
    const struct gw_op *op = segment->op;
    bool is_message = op->scratch[FLAGS] & OP_IS_MESSAGE;
    uint32_t at = segment->at + part * DPDK_BASE;
    struct dpdk_header header =
        gw_dpdk_next_header(core, is_message ? DPDK_KIND_MESSAGE : DPDK_KIND_WRITE);
    struct dpdk_sent *sent;

    header.part = part;
    header.parts = segment->parts;
    header.length = part_length(segment, part);
    header.fields[DPDK_SEGMENT] = number;
    if (is_message) {
        header.fields[DPDK_MESSAGE] = segment->message;
        header.fields[DPDK_OFFSET] = at | (uint64_t)op_length(op) << 32;
    } else {
        const struct gw_write *write = gw_container_of(op, const struct gw_write, op);

        header.fields[DPDK_KEY] = write->remote_key;
        header.fields[DPDK_OFFSET] = write->remote_offset + at;
    }
    gw_dpdk_header_encode(&header, bytes);
    *out = (struct dpdk_packet){
        .payload = op_bytes(op) + at, .length = header.length, .must_copy = is_message};
    sent = note_sent(core, now_ns, header.number, DPDK_HEADER_SIZE + header.length);
    core->sender.eras.now.sent++;
    sent->segment = number;
    sent->part = segment->parts == 1 ? DPDK_WHOLE : part;
}

static void cut_again(struct dpdk_segment *segment)
{
    segment->parts = (uint8_t)((segment->length + DPDK_BASE - 1) / DPDK_BASE);
    segment->missing = (uint8_t)((1u << segment->parts) - 1);
    segment->waiting = segment->missing;
}

/* What is to be sent again, oldest loss first. */
static bool output_lost(struct dpdk_core *core, uint64_t now_ns, uint8_t *header,
                        struct dpdk_packet *out)
{
    struct dpdk_sender *sender = &core->sender;

    for (; sender->lost_first != sender->lost_next; sender->lost_first++) {
        uint32_t slot = sender->lost[sender->lost_first % DPDK_SEGMENTS];
        struct dpdk_segment *segment = &sender->segments[slot];
        uint64_t number = sender->segment_first + (slot - sender->segment_first) % DPDK_SEGMENTS;
        uint8_t part;

        if (segment->waiting == 0) {
            segment->is_queued = false;
            continue;
        }
        if (segment->parts == 1 && segment->length > DPDK_BASE &&
            (segment->length + DPDK_HEADER_SIZE > core->path.length || core->path.silent_ptos >= 2))
            cut_again(segment);
        part = (uint8_t)__builtin_ctz(segment->waiting);
        segment->waiting &= (uint8_t)(segment->waiting - 1);
        if (segment->waiting == 0) {
            segment->is_queued = false;
            sender->lost_first++;
        }
        build(core, now_ns, number, part, header, out);
        out->must_copy = true;
        core->counts.sent_again++;
        return true;
    }
    return false;
}

static bool may_cut(struct dpdk_sender *sender)
{
    const struct gw_op *op = sender->posted;

    sender->is_blocked = op && (op->scratch[FLAGS] & OP_IS_MESSAGE) && sender->cut_at == 0 &&
                         sender->messages_cut == sender->messages_allowed;
    return op && !sender->is_blocked &&
           sender->segment_next - sender->segment_first < DPDK_SEGMENTS &&
           !segment_at(sender, sender->segment_next)->is_queued;
}

static void output_new(struct dpdk_core *core, uint64_t now_ns, uint8_t *header,
                       struct dpdk_packet *out)
{
    struct dpdk_sender *sender = &core->sender;
    struct gw_op *op = sender->posted;
    uint32_t left = op_length(op) - sender->cut_at;
    uint64_t number = sender->segment_next++;
    struct dpdk_segment *segment = segment_at(sender, number);

    *segment = (struct dpdk_segment){
        .op = op,
        .at = sender->cut_at,
        .message = sender->messages_cut,
        .length = (uint16_t)gw_min(
            left, gw_align_down(core->path.length - DPDK_HEADER_SIZE, DPDK_NH_BLOCK)),
        .parts = 1,
        .missing = 1};
    op->scratch[OUTSTANDING]++;
    sender->cut_at += segment->length;
    if (segment->length == left) {
        op->scratch[FLAGS] |= OP_IS_CUT;
        sender->posted = op->next;
        sender->cut_at = 0;
        if (op->scratch[FLAGS] & OP_IS_MESSAGE)
            sender->messages_cut++;
    }
    build(core, now_ns, number, 0, header, out);
}

bool gw_dpdk_sender_output(struct dpdk_core *core, uint64_t now_ns, uint8_t *header,
                           struct dpdk_packet *out)
{
    struct dpdk_sender *sender = &core->sender;
    bool may_send = may_cut(sender), is_waiting = sender->lost_first != sender->lost_next;

    if (!may_send && !is_waiting)
        return false;
    if (sender->out_count > 0 && sender->number_next - sender->number_oldest >= DPDK_SENT - 1)
        return false;
    if (!is_waiting)
        sender->probes_due = 0;
    if (sender->probes_due > 0) {
        sender->probes_due--;
        if (output_lost(core, now_ns, header, out))
            return true;
    }
    if (sender->in_flight + core->path.length > gw_dpdk_cc_window(&core->cc) ||
        now_ns < sender->pace_next_ns) {
        core->cc.was_limited = true;
        return false;
    }
    if (output_lost(core, now_ns, header, out))
        return true;
    if (!may_send)
        return false;
    output_new(core, now_ns, header, out);
    return true;
}

uint64_t gw_dpdk_sender_deadline(const struct dpdk_core *core)
{
    const struct dpdk_sender *sender = &core->sender;
    uint64_t at = gw_min(sender->loss_timer_ns, pto_at(core));

    if (sender->is_ping_due || (sender->probes_due && sender->lost_first != sender->lost_next))
        return 0;
    if ((sender->posted && !sender->is_blocked) || sender->lost_first != sender->lost_next)
        if (sender->in_flight + core->path.length <= gw_dpdk_cc_window(&core->cc))
            at = gw_min(at, sender->pace_next_ns);
    return at;
}
