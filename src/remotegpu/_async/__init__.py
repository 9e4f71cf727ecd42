# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The client for asyncio, and the source of the one for threads.

`tests/unasync.py` makes `remotegpu/client.py` of `client.py`, and so on for lease, session, one_call, calls, upload,
retry and transport. What truly differs is written by hand on both sides, with the same names: channel, conversation,
renewal, concurrency, questions, submission. Whatever needs no I/O is there once, in `remotegpu`.

Imports of what is there twice are relative, so that they hold on both sides.
"""
