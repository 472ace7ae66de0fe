"""What all settings say of how networks are run over images: where, and how many at a time."""

from __future__ import annotations

import torch

from vggfast.engine import checks

CPU_PIXELS, GPU_PIXELS = 16 * 224**2, 128 * 224**2  # the network sees at a time, by default


class Work:
    """A base of settings with the fields ``device`` and ``batch``."""

    device: str
    batch: int | None

    @property
    def torch_device(self) -> torch.device:
        """The device, "auto" resolved: a GPU if torch sees one."""
        return checks.resolved_device(self.device)

    def pass_size(self, device: torch.device, crop: int) -> int:
        """How many crops' worth of pixels the network sees at a time."""
        pixels = CPU_PIXELS if device.type == "cpu" else GPU_PIXELS
        return self.batch or max(1, pixels // crop**2)
