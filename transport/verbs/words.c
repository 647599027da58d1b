/* SPDX-License-Identifier: Apache-2.0 */
/* What the devices' statuses mean for a person (ibv_poll_cq(3), IBTA 10.10.3 and 11.6.2). */
#include <errno.h>

#include "transport/verbs/channel.h"

int gw_verbs_explain_send(enum ibv_wc_status status)
{
    switch (status) {
    case IBV_WC_RETRY_EXC_ERR:
        return gw_fail(-ETIMEDOUT,
                       "the peer has not answered %u packets in a row (retry count exceeded): its "
                       "host, its port or the way there is down",
                       VERBS_RETRIES + 1);
    case IBV_WC_RNR_RETRY_EXC_ERR:
        return gw_fail(-EPROTO, "the peer had no receive posted for a message it had allowed (RNR "
                                "retry count exceeded)");
    case IBV_WC_REM_ACCESS_ERR:
        return gw_fail(-ECONNRESET, "the peer's device refused a write: outside of what the peer "
                                    "had given, or no longer given (remote access error)");
    case IBV_WC_REM_INV_REQ_ERR:
        return gw_fail(-ECONNRESET, "the peer's device refused a request as invalid (too long a "
                                    "message, or an operation that it does not allow)");
    case IBV_WC_REM_OP_ERR:
    case IBV_WC_REM_ABORT_ERR:
        return gw_fail(-ECONNRESET, "the peer's end failed (%s)", ibv_wc_status_str(status));
    case IBV_WC_LOC_PROT_ERR:
        return gw_fail(-EFAULT, "this host's device may not read what was to be written (local "
                                "protection error): its memory is no longer registered");
    default:
        return gw_fail(-EIO, "this host's device failed to send (%s)", ibv_wc_status_str(status));
    }
}

int gw_verbs_explain_receive(enum ibv_wc_status status)
{
    switch (status) {
    case IBV_WC_LOC_LEN_ERR:
    case IBV_WC_LOC_QP_OP_ERR: /* soft-RoCE says this of a message that is too long */
    case IBV_WC_REM_INV_REQ_ERR:
        return gw_fail(-EPROTO, "the peer sent a message of more than %u bytes (%s)",
                       GW_MESSAGE_MAX, ibv_wc_status_str(status));
    default:
        return gw_fail(-EIO, "this host's device failed to receive (%s)",
                       ibv_wc_status_str(status));
    }
}
