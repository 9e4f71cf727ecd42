# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`remotegpu bench`: puts load on a model, and tells throughput and latencies. Loads what it needs when it runs.

`settings` (options) → `targets` (a connection per caller: `own_door`, `oip_grpc`, `oip_rest`) and `inputs` → `load`
(the callers) → `outcome` with its `histogram` → `report`, `plot`.
"""
