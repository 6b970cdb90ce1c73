"""The line under every picture of a film: the return so far, the target and the step."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from decision_seq.formatting import number_text, target_text

SMALLEST = 8  # pixels of the letters


class Caption:
    """Draws the line of an episode under its pictures, which stay whole.

    target: the raw return that the policy is asked for; None without a target.
    """

    def __init__(self, target: float | None) -> None:
        self.target = target
        self._font: ImageFont.FreeTypeFont | ImageFont.ImageFont | None = None
        self._height = 0

    def under(self, picture: np.ndarray, total: float, steps: int) -> np.ndarray:
        """A picture [H, W, 3] uint8 with the line below -> [H + h, W, 3]; h depends on W only."""
        width = picture.shape[1]
        text = self.text(total, steps)
        if self._font is None:
            self._fit(width)
        bar = Image.new("RGB", (width, self._height), "black")
        middle = (width // 2, self._height // 2)
        ImageDraw.Draw(bar).text(middle, text, "white", self._font, anchor="mm")
        return np.concatenate([picture, np.asarray(bar, np.uint8)])

    def text(self, total: float, steps: int) -> str:
        """The line, such as `return 1,203 of 3,600 - step 412`."""
        asked = "" if self.target is None else f" of {target_text(self.target)}"
        return f"return {number_text(total)}{asked} - step {steps:,}"

    def _fit(self, width: int) -> None:
        """Choose the largest letters in which a long line fits into the width."""
        longest = self.text(-88888.8, 88888)
        size = max(SMALLEST, width // 20)
        while True:
            font = ImageFont.load_default(size)
            if size == SMALLEST or font.getlength(longest) <= 0.95 * width:
                break
            size -= 1
        self._font, self._height = font, 2 * size + size % 2
