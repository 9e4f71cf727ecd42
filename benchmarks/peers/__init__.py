# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Other servers, each measured as its users run it: a module per peer, run in an environment of its own.

`peer` installs, starts, asks and stops them from our environment. `caller` is what runs in theirs, beside their own
client: it knows nothing of our package, so that all are timed by the same code. The modules of the peers import their
libraries inside functions, since our environment reads their names and requirements.
"""
