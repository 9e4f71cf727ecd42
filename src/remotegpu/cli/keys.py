# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The keys of `remotegpu top` in words, for its help on the screen and on the command line."""

KEYS = (
    "↑ ↓  j k   choose a lease       PgUp PgDn Home End   further",
    "d          deallocate it: asks first, and then y does it, n and Esc do not",
    "s          sort the leases by age, time left, calls, memory, tenant",
    "r          reverse the order",
    "?          show or hide the help",
    "Esc        choose none",
    "q          leave; the server goes on",
)
