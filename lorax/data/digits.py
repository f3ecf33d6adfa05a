"""What can be learnt from with nothing to download? The 1,797 digits that scikit-learn brings.

8 x 8 pixels in 17 shades, read by 43 people. Source: Alpaydin and Kaynak 1998, "Optical Recognition
of Handwritten Digits", UCI Machine Learning Repository, its test part.
"""

import numpy as np

from lorax.core.errors import LoraxError
from lorax.data.rows import Record

_SHADES = 16


def read_digits() -> list[Record]:
    """All records, `image` (8, 8) uint8 from 0 to 255 and `label` from 0 to 9.

    Raises:
      LoraxError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise LoraxError(
            "the format 'digits' needs scikit-learn: pip install 'lorax-flax[eval]'"
        ) from None
    found = load_digits()
    images = np.round(found.images * (255 / _SHADES)).astype(np.uint8)
    pairs = zip(images, found.target.tolist(), strict=True)
    return [{"image": x, "label": y, "where": f"digits, {i}"} for i, (x, y) in enumerate(pairs)]
