/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines on stderr, one call one line. The data path never logs. Safe from any thread. */
#ifndef GODWIT_COMMON_LOG_H
#define GODWIT_COMMON_LOG_H

enum gw_log_level { GW_LOG_ERROR, GW_LOG_WARNING, GW_LOG_INFO, GW_LOG_DEBUG };

/* Lines above level are dropped. Set once by main before threads start; GW_LOG_WARNING until then.
 */
void gw_log_set_level(enum gw_log_level level);
void gw_log(enum gw_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
