# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Worker processes as the daemon sees them. `life` is one process, `line` what is sent to it over a socket; `worker` is
a device through all its restarts."""
