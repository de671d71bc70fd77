"""Guides: one class, one file. ``GUIDES`` has the names that ``fit`` and ``--guide`` take."""

from __future__ import annotations

from pyro.infer.autoguide import AutoGuide

from .dirichlet import AutoDirichlet

GUIDES: dict[str, type[AutoGuide]] = {"dirichlet": AutoDirichlet}

__all__ = ["GUIDES", "AutoDirichlet"]
