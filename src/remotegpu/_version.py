# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The version, equal to the newest entry of CHANGELOG.md (a test compares them)."""

__version__ = "0.4.0"
