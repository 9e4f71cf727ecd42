# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The daemon `remotegpu-server`: gateway, scheduler, supervisor, and its workers."""
