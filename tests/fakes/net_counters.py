# SPDX-License-Identifier: Apache-2.0
"""What /proc/net/snmp and /proc/net/snmp6 count, as one dictionary. Pure but for `HERE`, the command to get them."""

HERE = ("cat", "/proc/net/snmp", "/proc/net/snmp6")


def parse(text: str) -> dict[str, int]:
    """Name, as in TcpInSegs or Udp6InErrors -> count."""
    result: dict[str, int] = {}
    names: list[str] = []
    for line in text.splitlines():
        head, *fields = line.split()
        if not head.endswith(":"):
            result[head] = int(fields[0])
        elif not fields[0].lstrip("-").isdigit():
            names = fields
        else:
            result |= {head[:-1] + name: int(word) for name, word in zip(names, fields, strict=True)}
    return result


def wrong_checksums(counted: dict[str, int]) -> dict[str, int]:
    """Those that count packets with a wrong checksum and are not zero."""
    return {name: count for name, count in counted.items() if "Csum" in name and count}
