# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m remotegpu.cli`."""

from remotegpu.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
