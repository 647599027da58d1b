/* SPDX-License-Identifier: Apache-2.0 */
/* Prints the names of the handover's states ("state NAME") and messages ("message NAME"), for the
 * comparison with the model. */
#include <stdio.h>

#include "engine/handover/handover.h"

int main(void)
{
    for (int i = GW_HANDOVER_NONE; i < GW_HANDOVER_STATE_COUNT; i++)
        printf("state %s\n", gw_handover_state_name((enum gw_handover_state)i));
    for (int i = GW_EVENT_FINISH; i < GW_EVENT_COUNT; i++)
        printf("message %s\n", gw_handover_event_name((enum gw_handover_event)i));
    return 0;
}
