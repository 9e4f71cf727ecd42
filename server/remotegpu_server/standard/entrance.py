# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the listeners of the standard door have in common."""

from __future__ import annotations

from dataclasses import dataclass, field

from remotegpu_server.gateway.identity import Declared
from remotegpu_server.identity.provider import IdentityProvider
from remotegpu_server.tls import Tls

from .infer import Inference


@dataclass(frozen=True, slots=True)
class Entrance:
    """Behind it `inference` answers; `callers` tells who comes in, and `tls` (if there is one) hides what is said."""

    inference: Inference
    callers: IdentityProvider = field(default_factory=Declared)
    tls: Tls | None = None
