# SPDX-License-Identifier: Apache-2.0
"""The chains of a service mesh as its init container restores them: inbound and outbound redirects with exceptions for
the proxy's user, names' requests by connection zones, both IPs; and a transparent proxy. nft with sets and maps.
"""

import pytest

from cri.pb import runtime_pb2 as pb
from tests.flavours.conftest import Pod, Pods

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]
IMAGE = "net"
CAPS = ("NET_ADMIN", "NET_RAW")
TUN_DEVICE = pb.Device(host_path="/dev/net/tun", container_path="/dev/net/tun", permissions="rwm")
CHAINS = """
*nat
:MESH_INBOUND - [0:0]
:MESH_REDIRECT - [0:0]
:MESH_IN_REDIRECT - [0:0]
:MESH_OUTPUT - [0:0]
-A MESH_INBOUND -p tcp --dport 15008 -j RETURN
-A MESH_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A MESH_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A PREROUTING -p tcp -j MESH_INBOUND
-A MESH_INBOUND -p tcp -m multiport --dports 22,15090,15021 -j RETURN
-A MESH_INBOUND -p tcp -j MESH_IN_REDIRECT
-A OUTPUT -p udp --dport 53 -m owner --uid-owner 1337 -j RETURN
-A OUTPUT -p udp --dport 53 -m addrtype ! --dst-type LOCAL -j REDIRECT --to-ports 15053
-A OUTPUT -j MESH_OUTPUT
-A MESH_OUTPUT -o lo ! -d {loop} -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j MESH_IN_REDIRECT
-A MESH_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A MESH_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A MESH_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A MESH_OUTPUT -d {loop} -j RETURN
-A MESH_OUTPUT -j MESH_REDIRECT
COMMIT
*raw
-A OUTPUT -p udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1
-A OUTPUT -p udp --sport 15053 -m owner --uid-owner 1337 -j CT --zone 2
-A PREROUTING -p udp --sport 53 -j CT --zone 1
COMMIT
*mangle
-A PREROUTING -m conntrack --ctstate INVALID -j DROP
-A PREROUTING -p tcp -m mark --mark 1337 -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff
-A OUTPUT -p tcp -m connmark --mark 1337 -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
COMMIT
"""
RESTORE = """
    iptables-{backend}-restore --noflush <<'END'
{four}
END
    ip6tables-{backend}-restore --noflush <<'END'
{six}
END
    iptables-{backend}-save | grep -c MESH; ip6tables-{backend}-save | grep -c MESH
    ip link add mesh0 type dummy; ip -6 addr add fd00::5/64 dev mesh0 nodad; ip link set mesh0 up
"""
ANSWER = "while :; do echo {word} | nc {family} -l -N {port}; done"
PROXY = "; ".join(
    f"({ANSWER.format(word=word, family=family, port=port)}) &"
    for word, port in (("outbound", 15001), ("inbound", 15006))
    for family in ("-4", "-6")
).replace("&;", "&")
LISTENS = "for i in $(seq 200); do [ $(ss -ltn | grep -cE ':({ports}) ') = {count} ] && break; sleep 0.1; done"
ASK = """
    test "$(nc -w 5 192.0.2.1 80 < /dev/null)" = outbound
    test "$(nc -6 -w 5 fd00::9 80 < /dev/null)" = outbound
    test "$(setpriv --reuid 1337 --regid 1337 --clear-groups nc -w 5 {peer} 8080 < /dev/null)" = peer
    echo all as it should be
"""
TPROXY = """
    iptables-nft -t mangle -N DIVERT
    iptables-nft -t mangle -A DIVERT -j MARK --set-xmark 0x539/0xffffffff
    iptables-nft -t mangle -A DIVERT -j ACCEPT
    iptables-nft -t mangle -A PREROUTING -p tcp -m socket --transparent -j DIVERT
    iptables-nft -t mangle -A PREROUTING -p tcp --dport 8081 -j TPROXY --on-port 15006 --tproxy-mark 0x539/0xffffffff
    ip rule add fwmark 1337 lookup 133
    ip route add local 0.0.0.0/0 dev lo table 133
    ip rule | grep 133
"""
TRANSPARENT = """
    cat > /tmp/proxy.pl <<'END'
        use Socket;
        socket(my $s, PF_INET, SOCK_STREAM, 0); setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 1);
        setsockopt($s, 0, 19, 1) or die "IP_TRANSPARENT: $!";
        bind($s, sockaddr_in(15006, INADDR_ANY)) or die $!; listen($s, 9);
        while (accept(my $c, $s)) {
            my ($port) = sockaddr_in(getsockname($c)); syswrite($c, "meant for $port\\n"); close($c)
        }
END
    exec perl /tmp/proxy.pl
"""
SETS = """
    nft -f - <<'END'
    table inet t {
        set nets { type ipv4_addr; flags interval; auto-merge; elements = { 10.0.0.0/8, 192.0.2.0/25, 192.0.2.128/25 } }
        set seen { type ipv4_addr . inet_service; flags dynamic,timeout; timeout 1m; size 1000; }
        set pairs { type ipv4_addr . inet_service; flags interval; elements = { 192.0.2.0/24 . 80-90 } }
        map ports { type inet_service : inet_service; elements = { 80 : 15001, 81 : 15002 } }
        map verdicts { type ipv4_addr : verdict; elements = { 192.0.2.9 : jump drops } }
        counter hits { }
        quota much { over 100 mbytes }
        limit slow { rate 400/minute }
        ct helper ftp { type "ftp" protocol tcp; }
        ct timeout long { protocol tcp; policy = { established : 100 }; }
        chain drops { counter drop; }
        chain output {
            type nat hook output priority -100;
            ip daddr . tcp dport @pairs redirect to :tcp dport map @ports
        }
        chain filter {
            type filter hook output priority 0; policy accept;
            ct state vmap { established : accept, invalid : drop }
            ip daddr vmap @verdicts
            tcp dport 21 ct helper set "ftp"
            tcp dport 22 ct timeout set "long"
            ip daddr @nets update @seen { ip daddr . tcp dport } counter name "hits" quota name "much" accept
            tcp dport 99 limit name "slow" reject with icmpx port-unreachable
            meta mark set numgen inc mod 4
            meta mark set jhash ip saddr mod 8
            fib daddr type local ct mark set mark
            tcp dport 98 log prefix "odd " group 1
            socket cgroupv2 level 0 "." counter
        }
        chain input {
            type filter hook prerouting priority mangle;
            tcp dport 8081 tproxy ip to :15006 meta mark set 1
            tcp flags syn tcp option maxseg size set 1400
            tcp dport 97 queue num 0 bypass
        }
        chain postrouting {
            type nat hook postrouting priority srcnat;
            oifname "eth9" masquerade random
        }
    }
    table netdev n {
        chain c {
            type filter hook ingress device "eth0" priority 0;
            tcp dport 96 counter drop
        }
    }
    table bridge b {
        chain c {
            type filter hook forward priority 0;
            ether type arp counter accept
        }
    }
    table arp a {
        chain c {
            type filter hook input priority 0;
            arp operation request counter accept
        }
    }
END
    nft list set inet t nets
    nft add element inet t nets { 198.51.100.0/24 }
    nft get element inet t nets { 198.51.100.7 }
    (echo mapped | nc -l -N 15002) & (echo first | nc -l -N 15001) &
    for i in $(seq 100); do [ $(ss -ltn | grep -cE ':1500[12] ') = 2 ] && break; sleep 0.1; done
    test "$(nc -w 5 192.0.2.1 81 < /dev/null)" = mapped; test "$(nc -w 5 192.0.2.77 80 < /dev/null)" = first
    ! nc -w 1 192.0.2.9 80 < /dev/null
    nft list chain inet t drops; nft list counter inet t hits; nft list set inet t seen
    nft -j list ruleset | head -c 200; echo; nft flush ruleset; echo all sets
"""
TUN = """
    cat > /tmp/tun.pl <<'END'
        open(my $t, "+<", "/dev/net/tun") or die "tun: $!";
        my $asked = pack("Z16 s x22", "tun7", 0x1001);
        ioctl($t, 0x400454ca, $asked) or die "TUNSETIFF: $!";
        system("ip addr add 10.44.0.1/24 dev tun7; ip link set tun7 up; ping -c 1 -W 1 10.44.0.2 > /dev/null &");
        while (sysread($t, my $p, 2000)) {
            next if ord($p) >> 4 != 4;
            print "a packet for ", join(".", unpack("x16 C4", $p)), "\\n"; exit
        }
END
    perl /tmp/tun.pl
"""


async def _listening(pod: Pod, *, ports: str, count: int) -> None:
    await pod.run(LISTENS.format(ports=ports, count=count), name=f"wait{ports[:4]}")


@pytest.mark.parametrize("backend", ["legacy", "nft"])
async def test_the_chains_of_a_mesh_redirect_both_ways_but_what_the_proxy_sends(pods: Pods, backend: str) -> None:
    async with pods.running("mesh", "peer") as (mesh, peer):
        chains = {"four": CHAINS.format(loop="127.0.0.1/32"), "six": CHAINS.format(loop="::1/128")}
        await mesh.run(RESTORE.format(backend=backend, **chains), name="init", caps=CAPS)
        await mesh.start(f"{PROXY} wait", name="proxy")
        await peer.start(ANSWER.format(word="peer", family="-4", port=8080), name="server")
        await _listening(mesh, ports="15001|15006", count=4)
        await _listening(peer, ports="8080", count=1)
        assert "all as it should be" in await mesh.run(ASK.format(peer=await peer.ip()), name="app")
        assert "inbound" in await peer.run(f"nc -w 5 {await mesh.ip()} 9999 < /dev/null", name="outside")


async def test_a_transparent_proxy_takes_what_is_meant_for_another_port(pods: Pods) -> None:
    async with pods.running("mesh", "peer") as (mesh, peer):
        await mesh.run(TPROXY, name="init", caps=CAPS)
        await mesh.start(TRANSPARENT, name="proxy", caps=CAPS)
        await _listening(mesh, ports="15006", count=1)
        assert "meant for 8081" in await peer.run(f"nc -w 5 {await mesh.ip()} 8081 < /dev/null", name="client")


async def test_nft_has_sets_maps_objects_and_all_families(pods: Pods) -> None:
    async with pods.running("sets") as (pod,):
        assert "all sets" in await pod.run(SETS, name="sets", caps=CAPS)


async def test_a_tunnel_device_hands_packets_to_a_program(pods: Pods) -> None:
    async with pods.running("tun") as (pod,):
        assert "a packet for 10.44.0.2" in await pod.run(TUN, name="tun", caps=CAPS, devices=[TUN_DEVICE])
