# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""How much at most, whoever asks."""

# A unary message is in memory before any code of ours sees it: header, program and an inline body.
MESSAGE_LIMIT = 2 * 1024 * 1024
# Calls under way at once; with MESSAGE_LIMIT it bounds what unary messages can take: 4 GiB.
CALL_LIMIT = 2048
# Well below the number of calls, so that those who wait do not lock out those who hold.
MOST_WAITING = 1536
MOST_SLOTS = 1024
# Bytes of names that callers choose and the server remembers.
NAME_LIMIT = 256
# Streams of snapshots at once: each takes the place of a call.
MOST_WATCHING = 64
# Long-lived streams at once; each takes the place of a call.
MOST_STREAMS = 1024
# Calls that one client may have under way on its stream; CALL_LIMIT bounds those of all.
STREAM_CALLS = 128
# A frame: an inline body with its header and program, and room for a program with many nodes.
STREAM_FRAME_LIMIT = 1024 * 1024
# Contents that one program may use, and that one question may name.
MOST_DIGESTS = 1024
# Uploads of contents at once.
MOST_UPLOADS = 32
# Files that the server fetches for one call.
MOST_FETCHES = 64
