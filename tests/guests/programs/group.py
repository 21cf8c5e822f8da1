"""Groups of stations, and frames as no kernel sends them.

`group.py join CARD GROUP PORT FILE` joins a group, and writes the first datagram that comes to it into the file;
`group.py say CARD GROUP PORT TEXT` sends one to the group;
`group.py tagged CARD TAG MAC FROM TO PORT TEXT` sends one to a single station behind a tag of 802.1Q.
"""

import ipaddress
import os
import socket
import struct
import sys


def member(card, group):
    """A socket for datagrams of a group, by which it is joined, too."""
    index = socket.if_nametoindex(card)
    if ipaddress.ip_address(group).version == 4:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        who = socket.inet_aton(group) + struct.pack("=4si", b"\0" * 4, index)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, who)
        join = (socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, who)
    else:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        join = (socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, group) + struct.pack("=i", index))
    return sock, join


def checksum(data):
    """RFC 1071, of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def tagged(card, tag, mac, source, to, port, text):
    """A datagram behind a tag, without a checksum (RFC 768)."""
    data = struct.pack("!4H", 4000, port, 8 + len(text), 0) + text
    head = struct.pack("!2B3H2BH", 0x45, 0, 20 + len(data), 1, 0, 64, 17, 0) + socket.inet_aton(source) + socket.inet_aton(to)
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    wire.bind((card, 0))
    own = wire.getsockname()[4]
    wire.send(bytes.fromhex(mac.replace(":", "")) + own + struct.pack("!3H", 0x8100, tag, 0x0800) + head + data)


def main():
    match sys.argv[1:]:
        case ["join", card, group, port, file]:
            sock, join = member(card, group)
            sock.bind(("" if sock.family == socket.AF_INET else "::", int(port)))
            sock.setsockopt(*join)
            with open(file + ".new", "wb") as out:
                print("joined", flush=True)
                out.write(sock.recv(1000))
            os.rename(file + ".new", file)
        case ["say", card, group, port, text]:
            sock, _ = member(card, group)
            sock.sendto(text.encode(), (group, int(port)))
        case ["tagged", card, tag, mac, source, to, port, text]:
            tagged(card, int(tag, 0), mac, source, to, int(port), text.encode())
        case _:
            sys.exit(__doc__)


main()
