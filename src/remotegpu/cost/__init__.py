# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a month of pictures costs, computed in Lambda functions, on a shared remote GPU, in containers or on machines.

`prices` reads the table of prices, `workload` says what is to be done, `formulas` has the bill of each service,
`alternatives` puts them together, and `crossings` finds where two alternatives cost the same. Standard library only,
and nothing but `prices.load` and `prices.packaged` reads a file.
"""
