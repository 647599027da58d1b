/* SPDX-License-Identifier: Apache-2.0 */
/* Puts an agent together from its parts, waits for its end, and takes it apart again. */
#include "agent/agent.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent/admin.h"
#include "agent/paths.h"
#include "agent/recovery.h"
#include "agent/sessions.h"
#include "agent/snapshot.h"
#include "agent/state.h"
#include "common/checked.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/topology.h"
#include "engine/volume/nbd.h"

#define TICK_MS 250

struct agent {
    struct gw_agent_options *options;
    struct gw_state state;
    struct gw_history *history;
    struct gw_attended *attended;
    struct gw_credentials *credentials;
    struct gw_environment environment;
    struct gw_topology *topology;
    struct gw_pins pins;
    char *storage[GW_STORAGE_MAX];
    struct gw_jobs *jobs;
    struct gw_sessions *sessions;
    struct gw_recovery *recovery;
    struct gw_admin *admin;
};

/* One line for whoever started the agent: "ready SOCKET" or "failed TEXT". */
static void tell_starter(struct agent *agent, const char *word, const char *text)
{
    int fd = agent->options->ready_fd;

    if (fd < 0)
        return;
    dprintf(fd, "%s %s\n", word, text);
    close(fd);
    agent->options->ready_fd = -1;
}

/* sd_notify(3): systemd starts what depends on the agent once it is ready. */
static void tell_systemd(const char *text)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t length;
    int fd;

    if (!path || strlen(path) < 2 || strlen(path) >= sizeof(address.sun_path))
        return;
    strcpy(address.sun_path, path);
    length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    if (path[0] == '@')
        address.sun_path[0] = '\0';
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&address, length) < 0)
        gw_log(GW_LOG_WARNING, "systemd: not told: %s", strerror(errno));
    close(fd);
}

static int open_state(struct agent *agent)
{
    struct gw_agent_options *options = agent->options;
    char path[PATH_MAX], home[PATH_MAX];
    int error = 0, interrupted;

    if (!options->state) {
        error = gw_path_state_home(home, sizeof(home));
        if (!error)
            options->state = strdup(home);
        if (!error && !options->state)
            error = gw_fail(-ENOMEM, "out of memory");
    }
    if (!error)
        error = gw_state_open(options->state, options->allow_volatile_state, &agent->state);
    /* The history of private agents outlives their folders: it is the one of the state home. */
    if (!error && options->is_private)
        error = gw_path_state_home(home, sizeof(home));
    if (!error)
        error = gw_path_join(options->is_private ? home : agent->state.folder, "history.db", path,
                             sizeof(path));
    if (!error)
        error = gw_history_open(path, &agent->history);
    if (!error)
        error = gw_history_interrupt(agent->history, !options->is_private, &interrupted);
    return error;
}

static int check_storage(struct agent *agent)
{
    const struct gw_texts *storage = &agent->options->storage;

    for (unsigned i = 0; i < storage->count; i++) {
        bool is_uri = gw_nbd_is_uri(storage->items[i]);
        struct stat status;

        agent->storage[i] = is_uri ? strdup(storage->items[i]) : realpath(storage->items[i], NULL);
        if (!agent->storage[i])
            return gw_fail_errno(-errno, "storage %s", storage->items[i]);
        if (!is_uri && (stat(agent->storage[i], &status) != 0 || !S_ISDIR(status.st_mode)))
            return gw_fail(-ENOTDIR, "storage %s is not a folder", storage->items[i]);
        agent->environment.storage[i] = agent->storage[i];
    }
    agent->environment.storage_count = storage->count;
    return 0;
}

static int load_credentials(struct agent *agent)
{
    struct gw_credentials_options options;

    if (gw_agent_options_credentials(agent->options, &options))
        return gw_credentials_load(&options, &agent->credentials);
    if (agent->options->is_private)
        return 0;
    return gw_fail(-EINVAL,
                   "no credentials: give --psk FILE (godwit key NAME > FILE makes one), or "
                   "--cert, --key and --ca or --fingerprint");
}

static int open_transports(const struct gw_agent_options *options, struct gw_transports *out)
{
    struct gw_transports_wanted wanted = {
        .names = options->transports.items,
        .name_count = options->transports.count,
        .settings = options->settings.items,
        .setting_count = options->settings.count,
    };

    return gw_transports_open(&wanted, out);
}

static int fill_environment(struct agent *agent)
{
    const struct gw_texts *trusted = &agent->options->trusted;
    struct gw_environment *environment = &agent->environment;
    int error = load_credentials(agent);

    if (!error)
        error = open_transports(agent->options, &environment->transports);
    if (!error)
        error = gw_topology_new(NULL, &agent->topology);
    if (!error)
        error = gw_attended_new(&agent->attended);
    if (!error)
        error = gw_fences_new(&environment->fences);
    if (!error)
        error = gw_rejoins_new(&environment->rejoins);
    environment->reconnect_s = agent->options->reconnect_s < 0
                                   ? GW_RECONNECT_DEFAULT_S
                                   : (unsigned)agent->options->reconnect_s;
    if (!error)
        error = check_storage(agent);
    for (unsigned i = 0; !error && i < trusted->count; i++) {
        error = gw_network_parse(trusted->items[i], &environment->trusted[i]);
        environment->trusted_count++;
    }
    gw_pins_init(&agent->pins, agent->options->pin_limit);
    environment->pins = &agent->pins;
    environment->credentials = agent->credentials;
    environment->state_dir = agent->state.folder;
    environment->journal = agent->state.journal;
    environment->attended = agent->attended;
    /* A private agent does not outlive its moves: it could not go on with one. */
    if (!agent->options->is_private)
        environment->keep_partial_hours =
            agent->options->has_keep_partial ? agent->options->keep_partial_hours : GW_KEEP_PARTIAL;
    environment->topology = agent->topology;
    environment->allow_bench = agent->options->allow_bench;
    environment->launch_hook = agent->options->launch;
    environment->to_qmp = agent->options->to_qmp;
    memcpy(environment->instance_id, agent->state.instance_id, GW_ID_SIZE);
    return error;
}

/* Listens with one transport, and tells the engine: data channels may be dialled there too. -ENODEV when it
 * will once there is a device. */
static int listen_with(struct agent *agent, struct gw_transport *transport,
                       struct gw_address *address)
{
    struct gw_environment *environment = &agent->environment;
    struct gw_listening *listening = &environment->listen[environment->listen_count];
    struct gw_address bound;
    int error = gw_sessions_listen(agent->sessions, transport, address, listening);

    if (error)
        return error;
    environment->listen_count++;
    error = gw_listener_address(listening->listener, &bound);
    /* One port for all, also when the first has chosen it. */
    if (!error)
        gw_address_set_port(address, gw_address_port(&bound));
    return error;
}

/* 0 when it listens at one address at least, now; otherwise why it does not, or, when it is not to listen
 * anywhere, -ENOENT without a message. */
static int check_listens(const struct agent *agent, const struct gw_transport *transport)
{
    struct gw_address bound;
    int error = -ENOENT;

    for (unsigned i = 0; error && i < agent->environment.listen_count; i++)
        if (agent->environment.listen[i].transport == transport)
            error = gw_listener_address(agent->environment.listen[i].listener, &bound);
    return error;
}

static bool is_listened_with(const struct agent *agent, const struct gw_transport *transport)
{
    return check_listens(agent, transport) == 0;
}

/* The last transport is the one that works anywhere: it must. Others serve the addresses that they
 * can, and those that were asked for by name at least one (see check_named). */
static int listen_on(struct agent *agent, const struct gw_address *wanted)
{
    struct gw_transports *transports = &agent->environment.transports;
    struct gw_address address = *wanted;

    for (unsigned i = transports->count; i-- > 0;) {
        struct gw_transport *transport = transports->list[i];
        int error;

        /* It listens where its own device is, once. */
        if (transport->ops->carries_no_control && is_listened_with(agent, transport))
            continue;
        error = listen_with(agent, transport, &address);
        if (error && (i + 1 == transports->count ||
                      (error == -EADDRINUSE && gw_transports_is_named(transports, transport))))
            return error;
        if (!error)
            continue;
        gw_transports_pass_over(transports, transport->ops->name);
        gw_log(GW_LOG_INFO, "transport %s does not listen there: %s", transport->ops->name,
               gw_error_message());
    }
    return 0;
}

/* What was asked for by name and listens nowhere is an error. */
static int check_named(const struct agent *agent)
{
    const struct gw_transports *transports = &agent->environment.transports;

    if (agent->environment.listen_count == 0)
        return 0;
    for (unsigned i = 0; i < transports->passed_count; i++) {
        const struct gw_transport *transport =
            gw_transports_find(transports, transports->passed[i].name);

        if (transport && gw_transports_is_named(transports, transport) &&
            !is_listened_with(agent, transport))
            return gw_fail(-ENODEV, "transport %s: %s", transports->passed[i].name,
                           transports->passed[i].reason);
    }
    return 0;
}

static int listen_all(struct agent *agent)
{
    const struct gw_texts *listen = &agent->options->listen;
    struct gw_address address;
    int error = 0;

    for (unsigned i = 0; !error && i < listen->count; i++) {
        error = gw_address_parse(listen->items[i], GW_DEFAULT_PORT, &address);
        if (!error)
            error = listen_on(agent, &address);
    }
    if (listen->count || agent->options->is_private)
        return error ? error : check_named(agent);
    error = gw_address_parse("::", GW_DEFAULT_PORT, &address);
    if (!error)
        error = listen_on(agent, &address);
    /* A host without IPv6. */
    if (error && error != -EADDRINUSE) {
        error = gw_address_parse("0.0.0.0", GW_DEFAULT_PORT, &address);
        if (!error)
            error = listen_on(agent, &address);
    }
    return error ? error : check_named(agent);
}

/* The reason is that of the back end as a whole, or else why it does not listen though it is to. */
static json_t *describe_transport(const struct agent *agent, struct gw_transport *transport)
{
    json_t *item =
        json_pack("{s:s,s:b,s:s*}", "name", transport->ops->name, "listens",
                  (int)is_listened_with(agent, transport), "variant", transport->variant);
    int error = gw_transport_probe(transport);

    if (!error)
        error = check_listens(agent, transport);
    if (error && error != -ENOENT)
        json_object_set_new(item, "reason", gw_json_text(gw_error_message()));
    return item;
}

/* Which back ends there are, whether they listen, and why others are not used now. */
static json_t *describe_transports(const struct agent *agent)
{
    const struct gw_transports *transports = &agent->environment.transports;
    json_t *list = json_array();

    for (unsigned i = 0; i < transports->count; i++)
        json_array_append_new(list, describe_transport(agent, transports->list[i]));
    for (unsigned i = 0; i < transports->passed_count; i++)
        if (!gw_transports_find(transports, transports->passed[i].name))
            json_array_append_new(list,
                                  json_pack("{s:s,s:o}", "name", transports->passed[i].name,
                                            "reason", gw_json_text(transports->passed[i].reason)));
    return list;
}

static json_t *describe(void *context)
{
    struct agent *agent = context;
    const struct gw_limits *limits = &agent->options->limits;
    json_t *listen = json_array(), *storage = json_array(), *trusted = json_array();

    gw_sessions_describe(agent->sessions, listen);
    for (unsigned i = 0; i < agent->environment.storage_count; i++)
        json_array_append_new(storage, gw_json_text(agent->storage[i]));
    for (unsigned i = 0; i < agent->options->trusted.count; i++)
        json_array_append_new(trusted, gw_json_text(agent->options->trusted.items[i]));
    return json_pack(
        "{s:{s:s, s:i, s:b, s:o, s:o, s:o, s:o, s:o, s:{s:i, s:i, s:i, s:i}}, s:o, s:o}", "agent",
        "version", GODWIT_VERSION, "pid", (int)getpid(), "private", (int)agent->options->is_private,
        "state", gw_json_text(agent->state.folder), "listen", listen, "transports",
        describe_transports(agent), "storage", storage, "trusted_networks", trusted, "limits",
        "live_out", (int)limits->live_out, "live_in", (int)limits->live_in, "storage_out",
        (int)limits->storage_out, "storage_in", (int)limits->storage_in, "partials",
        gw_partials_describe(&agent->environment), "in_doubt",
        gw_state_describe(&agent->state, agent->attended, gw_jobs_active(agent->jobs) == 0));
}

static void take_record(void *context, const struct gw_journal_entry *entry)
{
    gw_jobs_recorded(context, entry);
}

static int start(struct agent *agent)
{
    struct gw_jobs_options jobs = {.environment = &agent->environment};
    struct gw_admin_options admin = {
        .socket_path = agent->options->socket,
        .environment = &agent->environment,
        .describe = describe,
        .context = agent,
    };
    int error = open_state(agent);

    gw_limits_complete(&agent->options->limits);
    jobs.limits = agent->options->limits;
    jobs.history = admin.history = agent->history;
    if (!error)
        error = fill_environment(agent);
    if (!error)
        error = gw_jobs_new(&jobs, &agent->jobs);
    if (!error && agent->state.journal)
        gw_journal_watch(agent->state.journal, take_record, agent->jobs);
    if (!error)
        error = gw_sessions_new(&agent->environment, agent->jobs, &agent->sessions);
    if (!error)
        error = listen_all(agent);
    admin.jobs = agent->jobs;
    if (!error)
        gw_partials_tidy(&agent->environment, true);
    if (!error)
        error = gw_admin_start(&admin, &agent->admin);
    /* Whoever started it wants to move the very VM, perhaps, that another was killed with. */
    if (!error && agent->options->is_private && gw_state_undecided(&agent->state) != 0 &&
        gw_recover(&agent->environment))
        gw_log(GW_LOG_WARNING, "in doubt: %s", gw_error_message());
    if (!error)
        error = gw_recovery_start(&agent->environment, &agent->state, &agent->recovery);
    /* Last: peers get answers only from an agent that is whole. */
    if (!error)
        error = gw_sessions_start(agent->sessions);
    return error;
}

/* Takes apart what start made, whole or in part. */
static bool stop(struct agent *agent)
{
    bool is_clean = true;

    if (agent->jobs && gw_jobs_stop(agent->jobs, GW_STOP_TIMEOUT_MS) != 0) {
        gw_log(GW_LOG_ERROR, "%s; the journal keeps their state", gw_error_message());
        is_clean = false;
    }
    gw_recovery_stop(agent->recovery);
    gw_admin_stop(agent->admin);
    if (!is_clean)
        return false; /* threads of migrations still use the rest */
    if (agent->sessions)
        gw_sessions_stop(agent->sessions);
    gw_sessions_free(agent->sessions);
    gw_jobs_free(agent->jobs);
    gw_transports_close(&agent->environment.transports);
    gw_topology_free(agent->topology);
    gw_attended_free(agent->attended);
    gw_fences_free(agent->environment.fences);
    gw_rejoins_free(agent->environment.rejoins);
    gw_credentials_free(agent->credentials);
    gw_history_close(agent->history);
    return true;
}

static bool is_idle(struct agent *agent)
{
    return gw_jobs_active(agent->jobs) == 0 && gw_admin_connections(agent->admin) == 0 &&
           gw_state_undecided(&agent->state) == 0;
}

/* Until a signal, or, for a private agent, until it has had nothing to do for a while. */
static void wait_for_end(struct agent *agent, const sigset_t *signals)
{
    const struct timespec tick = {.tv_nsec = TICK_MS * 1000000l};
    uint64_t busy_ns = gw_clock_ns();

    for (;;) {
        int number = sigtimedwait(signals, NULL, &tick);

        if (number == SIGHUP)
            continue;
        if (number > 0) {
            gw_log(GW_LOG_INFO, "signal %d: ending", number);
            return;
        }
        if (!agent->options->is_private)
            continue;
        if (!is_idle(agent))
            busy_ns = gw_clock_ns();
        else if (gw_clock_ns() - busy_ns > GW_PRIVATE_IDLE_MS * GW_NS_PER_MS)
            return;
    }
}

/* Nothing is undecided: a private agent's folder has done its service. Its history is kept
 * elsewhere. */
static void remove_private_folder(const char *folder)
{
    static const char *const names[] = {"journal.db", "journal.db-wal",  "journal.db-shm",
                                        "agent.log",  "agent.sock.lock", "instance-id",
                                        "lock"};
    char path[PATH_MAX];

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (gw_path_join(folder, names[i], path, sizeof(path)) == 0)
            unlink(path);
    if (gw_path_join(folder, "partial", path, sizeof(path)) == 0)
        rmdir(path);
    rmdir(folder); /* stays when something else is in it */
}

enum gw_exit gw_agent_run(struct gw_agent_options *options)
{
    struct agent agent = {.options = options, .state.lock_fd = -1};
    struct gw_error failure = {.code = 0};
    sigset_t signals;
    int error;

    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error, not the agent's end */
    error = start(&agent);
    if (error) {
        gw_error_take(error, &failure);
        gw_log(GW_LOG_ERROR, "%s", failure.text);
    } else {
        gw_log(GW_LOG_INFO, "ready on %s", gw_admin_path(agent.admin));
        tell_starter(&agent, "ready", gw_admin_path(agent.admin));
        tell_systemd("READY=1");
        wait_for_end(&agent, &signals);
        tell_systemd("STOPPING=1");
    }
    if (!stop(&agent))
        _exit(GW_EXIT_IN_DOUBT);
    if (options->is_private && agent.state.journal && gw_state_undecided(&agent.state) == 0)
        remove_private_folder(agent.state.folder);
    gw_state_close(&agent.state);
    /* Last, so that whoever started the agent finds nothing of it any more. */
    if (error)
        tell_starter(&agent, "failed", failure.text);
    for (unsigned i = 0; i < options->storage.count; i++)
        free(agent.storage[i]);
    if (!error)
        return GW_EXIT_DONE;
    return error == -EINVAL ? GW_EXIT_USAGE : GW_EXIT_FAILED;
}
