# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures as tensors: the only file that decodes them."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from remotegpu import errors

from .device import HostArray

# 50 megapixels are 150 MB decoded; the header is read before anything is allocated.
PIXEL_LIMIT = 50_000_000
_ALLOWED = f"a whole JPEG or PNG of at most {PIXEL_LIMIT} pixels"


def decode(data: memoryview) -> HostArray:
    """An encoded JPEG or PNG as uint8 [height, width, 3], RGB, upright (its EXIF orientation applied).

    Raises InvalidInput for anything else, or more than PIXEL_LIMIT pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # PIXEL_LIMIT is the stricter rule
            picture = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
        width, height = picture.size
        if width * height > PIXEL_LIMIT:
            raise errors.InvalidInput(field="image", limit=_ALLOWED, given=f"{width}x{height} pixels")
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except UnidentifiedImageError:
        raise errors.InvalidInput(field="image", limit=_ALLOWED, given=f"{len(data)} bytes of something else") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # What Pillow raises for a picture that begins well and then is cut or broken.
        raise errors.InvalidInput(field="image", limit=_ALLOWED, given=f"a broken one ({error})") from error
