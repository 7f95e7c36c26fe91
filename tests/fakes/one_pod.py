# SPDX-License-Identifier: Apache-2.0
"""A pod as statistics see it, whose guest is a function."""

from collections.abc import Container

from cri.statistics import meter
from cri.statistics.meter import Meter


class OnePod:
    """A pod that is ready, with one container that runs, until somebody says otherwise."""

    id = title = "p"
    held = ""
    is_ready, is_suspended = True, False

    def __init__(self, ask: meter.Ask, known: Container[str]) -> None:
        self.meter = Meter(ask, known)
        self.containers: dict[str, OnePod] = {"c": self}

    is_running = True
