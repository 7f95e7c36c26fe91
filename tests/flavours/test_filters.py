# SPDX-License-Identifier: Apache-2.0
"""What firewalls and tools of networks ask the kernel for by name: matches, targets, sets, queues, links."""

import pytest

from tests.flavours.conftest import UNCONFINED, Pods

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]
IMAGE = "net"
RULES = """
    -m policy --dir in --pol none -j ACCEPT
    -p sctp -m sctp --dport 80 -j ACCEPT
    -m helper --helper ftp -j ACCEPT
    -p tcp -m ecn --ecn-tcp-cwr -j ACCEPT
    -m cpu --cpu 0 -j ACCEPT
    -m devgroup --src-group 3 -j ACCEPT
    -p tcp -m conntrack --ctstate NEW -m recent --set --name x -j ACCEPT
    -m state --state ESTABLISHED,RELATED -j ACCEPT
    -m hashlimit --hashlimit-upto 5/sec --hashlimit-name h -j ACCEPT
    -m statistic --mode random --probability 0.5 -j ACCEPT
    -m string --string GET --algo bm -j DROP
    -m limit --limit 3/min -j LOG --log-prefix x
    -j AUDIT --type accept
"""
MANGLE = """
    -j TEE --gateway {host}
    -j {hop} {hop_option} 64
    -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
    -j CONNMARK --save-mark
    -j DSCP --set-dscp 8
"""
IPV6 = """
    -m rt --rt-type 0 -j DROP
    -m ipv6header --header frag --soft -j DROP
    -m frag --fragmore -j DROP
    -m hbh --hbh-len 8 -j DROP
    -m dst --dst-len 8 -j DROP
    -m ah --ahspi 1 -j DROP
    -p 135 -m mh --mh-type 1 -j DROP
"""
SETS = (
    *("bitmap:ip,mac range 10.0.0.0/24", "hash:mac", "hash:ip,mark", "hash:net,iface", "hash:net,net"),
    *("hash:net,port,net", "hash:ip", "hash:net", "list:set"),
)
QUEUES = ("sfq", "hfsc", "cake", "fq_codel", "fq", "htb", "tbf rate 1mbit burst 10k latency 1s", "netem delay 1ms")
ACTIONS = (
    "nat ingress 10.0.0.1/32 10.0.0.2",
    "pedit munge ip ttl set 9",
    "vlan push id 7",
    "police rate 1mbit burst 10k",
    "mirred egress redirect dev d0",
)
LINKS = (
    *("m0 link eth0 type macvtap", "m1 link eth0 type macvlan", "x0 type xfrm dev eth0 if_id 7", "v0 type vrf table 9"),
    *("g0 type gre remote 10.0.0.9", "i0 type ipip remote 10.0.0.9", "e0 type geneve id 7 remote 10.0.0.9"),
)


def _rules(tool: str, table: str, rules: str) -> list[str]:
    return [f"{tool} -w -t {table} -A OUTPUT {one.strip()}".replace("OUTPUT -m policy", "INPUT -m policy")
            for one in rules.strip().splitlines()]  # fmt: skip


def _lines() -> list[str]:
    lines = []
    for kind in ("legacy", "nft"):
        for family, host, hop, option in (("ip", "10.0.0.9", "TTL", "--ttl-set"), ("ip6", "fd00::9", "HL", "--hl-set")):
            tool = f"{family}tables-{kind}"
            rules = [one for one in RULES.splitlines() if "devgroup" not in one] + [
                "-m conntrack --ctstate NEW -j ACCEPT"
            ]
            lines += _rules(tool, "filter", "\n".join(rules))
            lines += [f"{tool} -w -A INPUT -m devgroup --src-group 3 -j ACCEPT"]
            lines += _rules(tool, "mangle", MANGLE.format(host=host, hop=hop, hop_option=option))
        lines += _rules(f"ip6tables-{kind}", "filter", IPV6)
        lines += [f"ip6tables-{kind} -w -A INPUT -m eui64 -j ACCEPT"]
    lines += [f"ipset create s{number} {one}" for number, one in enumerate(SETS)]
    lines += ["ip link add d0 type dummy"]
    lines += [f"tc qdisc replace dev d0 root {one}" for one in QUEUES]
    lines += ["tc qdisc add dev d0 clsact"]
    lines += [
        f"tc filter add dev d0 ingress protocol ip pref {number} matchall action {one}"
        for number, one in enumerate(ACTIONS, 1)
    ]
    lines += [f"ip link add {one}" for one in LINKS]
    lines += ["nft add table inet t", "nft add chain inet t c '{ type filter hook input priority 0; }'"]
    lines += ["nft add rule inet t c ipsec in reqid 1 accept", "nft add rule inet t c ct state new counter accept"]
    lines += ["nft add ct helper inet t tftp '{ type \"tftp\" protocol udp; }'"]
    lines += ["nft add ct helper inet t sip '{ type \"sip\" protocol udp; }'"]
    return lines


async def test_filters_sets_queues_and_links_are_there(pods: Pods) -> None:
    tries = "\n".join(f"{line} > /tmp/out 2>&1 || {{ echo 'refused: {line.replace(chr(39), '')}'; cat /tmp/out; }}"
                      for line in _lines())  # fmt: skip
    async with pods.running("filters") as (pod,):
        output = await pod.run(
            f"{tries}\necho all of them", name="all", caps=("NET_ADMIN", "NET_RAW"), apparmor=UNCONFINED
        )
        assert output.strip() == "all of them", output
