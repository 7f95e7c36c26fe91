# SPDX-License-Identifier: Apache-2.0
"""Two devices joined so that each sends out what the other receives: tap's `redirect_batch` as messages of rtnetlink.

Pure: called by spare. Layouts: linux/pkt_sched.h, pkt_cls.h, tc_act/tc_mirred.h.
"""

import struct

from stage1.linux.netlink import CREATE, attribute

Message = tuple[int, int, bytes]

_NEW_QDISC, _NEW_FILTER = 36, 44
_OF = struct.Struct("=BxxxiIII")
_INGRESS, _INGRESS_PARENT = 0xFFFF0000, 0xFFFFFFF1
_ALL_PROTOCOLS = 0x0300
"""ETH_P_ALL as it goes over the wire; the priority above it is left to the kernel."""
_KIND, _OPTIONS = 1, 2
_U32_SELECTOR, _U32_ACTIONS = 5, 7
_EVERYTHING = struct.pack("=BBBxHHhhI", 1, 0, 1, 0, 0, 0, 0, 0) + struct.pack("=IIii", 0, 0, 0, 0)
"""A selector that is final, with one key that every packet has: no bit of its first word is looked at."""
_MIRRED_PARMS, _STOLEN, _REDIRECT = 2, 4, 1


def ingress(index: int) -> Message:
    """The place where filters see what device number `index` receives."""
    return _NEW_QDISC, CREATE, _OF.pack(0, index, _INGRESS, _INGRESS_PARENT, 0) + attribute(_KIND, b"ingress\0")


def redirect(here: int, there: int) -> Message:
    """All that device number `here` receives, which has an `ingress`, goes out of `there`."""
    parameters = struct.pack("=IIiii", 0, 0, _STOLEN, 0, 0) + struct.pack("=iI", _REDIRECT, there)
    action = attribute(_KIND, b"mirred\0") + attribute(_OPTIONS, attribute(_MIRRED_PARMS, parameters))
    options = attribute(_U32_SELECTOR, _EVERYTHING) + attribute(_U32_ACTIONS, attribute(1, action))
    body = _OF.pack(0, here, 0, _INGRESS, _ALL_PROTOCOLS) + attribute(_KIND, b"u32\0") + attribute(_OPTIONS, options)
    return _NEW_FILTER, CREATE, body
