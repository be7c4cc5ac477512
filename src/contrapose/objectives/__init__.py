"""THEORY: objectives over tensors and rewards. Knows no model, no file, no device."""

import sys
from types import ModuleType

from contrapose.objectives.zoo import ObjectiveInfo, catalogue


class _Catalogue(ModuleType):
    """``contrapose.objectives`` is this package and also the promised function ``contrapose.objectives()``."""

    def __call__(self) -> dict[str, ObjectiveInfo]:
        return catalogue()


sys.modules[__name__].__class__ = _Catalogue
