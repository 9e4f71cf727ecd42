# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""String tensors on the server: object arrays of `bytes` on the host, whatever the device. See `remotegpu.strings`."""

from remotegpu.strings import decode, encode, is_strings, size_of

__all__ = ["decode", "encode", "is_strings", "size_of"]
