"""The paper's method, one module per step; :class:`NonRigidEdit` chains them."""

from helpers.editing.inpainting import Gap
from helpers.editing.nonrigid import NonRigidEdit
from helpers.editing.presets import PRESETS, EditSettings

__all__ = ["PRESETS", "EditSettings", "Gap", "NonRigidEdit"]
