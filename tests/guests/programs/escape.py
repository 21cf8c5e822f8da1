"""Tries all that a guest can do to be heard outside of its user network: `python3 escape.py CARD PORT HOST FORWARD`.

Something listens at PORT of the host's loopback and of its address HOST, and FORWARD is a port of the host's that leads back to
this guest. Each attempt has a name, which is all that it says, so that whoever hears it knows which one it was. Errors are what
an attempt may well come to; so all names are printed at the end, and nothing else.
"""

import contextlib
import os
import socket
import struct
import sys
import time

CARD, PORT, HOST, FORWARD = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
GATEWAY, RESOLVER, GUEST = "10.0.2.2", "10.0.2.3", "10.0.2.15"
GATEWAY_6, RESOLVER_6, GUEST_6 = "fec0::2", "fec0::3", "fec0::15"
GATEWAY_MAC = bytes.fromhex("52550a000202")
OWN_MAC = bytes.fromhex("525400123456")
EVERYBODY = b"\xff" * 6
IPV4, ARP, IPV6, TAG = 0x0800, 0x0806, 0x86DD, 0x8100
ICMP, IP_IN_IP, TCP, UDP, GRE, ICMP_6, SCTP = 1, 4, 6, 17, 47, 58, 132
# An answer of the gateway's takes a few ms; one that never comes must not hold up the others.
PATIENCE = 2

attempts = []


def attempt(name):
    """Notes an attempt, and gives what it says."""
    attempts.append(name)
    return name.encode() + b"\n"


def stream(name, to, port, source=None):
    """A connection, which says its name."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    text = attempt(name)
    with socket.socket(family, socket.SOCK_STREAM) as connection, contextlib.suppress(OSError):
        connection.settimeout(PATIENCE)
        if source:
            connection.bind((source, 0))
        connection.connect((to, port))
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)


def datagram(name, to, port, length=0):
    """A datagram, which is as long as that by zeros behind its name."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    text = attempt(name)
    with socket.socket(family, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, CARD.encode())
        sender.sendto(text.ljust(length, b"\0"), (to, port))


def checksum(data):
    """RFC 1071."""
    words = struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2))
    total = sum(words)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def pack(address):
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def udp(source, to, port, data):
    """A UDP datagram from port 4000, with its checksum, which IPv6 asks for."""
    head = struct.pack("!4H", 4000, port, 8 + len(data), 0)
    pseudo = pack(source) + pack(to) + struct.pack("!2H", UDP, 8 + len(data))
    return head[:6] + struct.pack("!H", checksum(pseudo + head + data) or 0xFFFF) + data


def packet(source, to, protocol, data, place=0, options=b""):
    """An IPv4 packet; `place` is the flags and offset of a fragment."""
    words = 5 + len(options) // 4
    head = struct.pack("!2B3H2BH", 0x40 | words, 0, words * 4 + len(data), 7, place, 64, protocol, 0)
    head += pack(source) + pack(to) + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + data


def packet_6(source, to, protocol, data):
    return struct.pack("!IH2B", 6 << 28, len(data), protocol, 64) + pack(source) + pack(to) + data


def frame(payload, kind=IPV4, to=GATEWAY_MAC, source=OWN_MAC):
    wire.send(to + source + struct.pack("!H", kind) + payload)
    # Slowly, so that nothing is lost for want of room.
    time.sleep(0.02)


def raw_udp(name, source, to=GATEWAY, **more):
    """A datagram in a frame of our own."""
    frame(packet(source, to, UDP, udp(source, to, PORT, attempt(name)), **more))


def by_sockets():
    """What needs no privilege."""
    stream("tcp: the gateway", GATEWAY, PORT)
    stream("tcp6: the gateway", GATEWAY_6, PORT)
    stream("tcp: the resolver", RESOLVER, 53)
    stream("tcp6: the resolver", RESOLVER_6, 53)
    stream("tcp: the resolver's address, another port", RESOLVER, PORT)
    stream("tcp: the host's own address", HOST, PORT)
    stream("tcp: the forward", GATEWAY, FORWARD)
    stream("tcp: another guest's address", GATEWAY, PORT, source="10.0.2.99")
    stream("tcp: a mapped address", f"::ffff:{HOST}", PORT)
    datagram("udp: the gateway", GATEWAY, PORT)
    datagram("udp6: the gateway", GATEWAY_6, PORT)
    datagram("udp: the resolver", RESOLVER, 53)
    datagram("udp6: the resolver", RESOLVER_6, 53)
    datagram("udp: the host's own address", HOST, PORT)
    datagram("udp: fragments", GATEWAY, PORT, length=4000)
    datagram("udp6: fragments", GATEWAY_6, PORT, length=4000)
    for to in ("255.255.255.255", "10.0.2.255", "224.0.0.1", "239.1.2.3", f"ff02::1%{CARD}"):
        datagram(f"udp: everybody at {to}", to, PORT)
    datagram("udp: a name by multicast", "224.0.0.251", 5353)


def by_frames():
    """Packets that a guest's kernel would not send."""
    raw_udp("raw: an ordinary one", GUEST)
    raw_udp("raw: a neighbour's address", "10.0.2.77")
    for source in ("192.0.2.9", GATEWAY, "127.0.0.1", "0.0.0.0", HOST):
        raw_udp(f"raw: from {source}", source)
    for to in ("127.0.0.1", "127.0.0.53", "169.254.169.254", "0.0.0.0", HOST, "192.0.2.1"):
        raw_udp(f"raw: to {to}", GUEST, to=to)
    raw_udp("raw: options", GUEST, options=b"\x83\x07\x04" + pack(HOST) + b"\0")
    text = udp(GUEST, GATEWAY, PORT, attempt("raw: small fragments"))
    frame(packet(GUEST, GATEWAY, UDP, text[:8], place=0x2000))
    frame(packet(GUEST, GATEWAY, UDP, text[8:], place=1))
    text = udp(GUEST, GATEWAY, PORT, attempt("raw: a broadcast frame"))
    frame(packet(GUEST, GATEWAY, UDP, text), to=EVERYBODY)
    text = udp(GUEST, GATEWAY, PORT, attempt("raw: a tag"))
    frame(struct.pack("!2H", 5, IPV4) + packet(GUEST, GATEWAY, UDP, text), kind=TAG)
    text = udp(GUEST_6, "::1", PORT, attempt("raw: to ::1"))
    frame(packet_6(GUEST_6, "::1", UDP, text), kind=IPV6)
    mapped = "::ffff:127.0.0.1"
    text = udp(GUEST_6, mapped, PORT, attempt("raw: to a mapped address"))
    frame(packet_6(GUEST_6, mapped, UDP, text), kind=IPV6)
    text = udp(GUEST_6, GATEWAY_6, PORT, attempt("raw: a hop-by-hop header"))
    frame(packet_6(GUEST_6, GATEWAY_6, 0, bytes([UDP, 0, 1, 4, 0, 0, 0, 0]) + text), kind=IPV6)
    text = packet(GUEST, HOST, UDP, udp(GUEST, HOST, PORT, attempt("raw: a packet in a packet")))
    for protocol in (IP_IN_IP, GRE, SCTP):
        frame(packet(GUEST, GATEWAY, protocol, text))


def by_requests():
    """What asks for an answer of the host's, or would change its mind."""
    for to in (HOST, "192.0.2.1", GATEWAY):
        message = struct.pack("!2B3H", 8, 0, 0, 1, 1) + attempt(f"icmp: a ping of {to}")
        frame(packet(GUEST, to, ICMP, message[:2] + struct.pack("!H", checksum(message)) + message[4:]))
    redirect = struct.pack("!2BH", 5, 1, 0) + pack(GUEST) + packet(GUEST, HOST, UDP, attempt("icmp: a redirect"))
    frame(packet(GUEST, GATEWAY, ICMP, redirect[:2] + struct.pack("!H", checksum(redirect)) + redirect[4:]))
    report = struct.pack("!2BH", 0x16, 0, 0) + pack("239.1.2.3")
    attempt("igmp: a report")
    frame(packet(GUEST, "239.1.2.3", 2, report[:2] + struct.pack("!H", checksum(report)) + report[4:]), to=EVERYBODY)
    for about in (GATEWAY, HOST, "127.0.0.1", "192.0.2.1", "0.0.0.0", GUEST):
        attempt(f"arp: who has {about}")
        question = struct.pack("!2H2BH", 1, IPV4, 6, 4, 1) + OWN_MAC + pack(GUEST) + b"\0" * 6 + pack(about)
        frame(question, kind=ARP, to=EVERYBODY)
    attempt("arp: the gateway's address is here")
    frame(struct.pack("!2H2BH", 1, IPV4, 6, 4, 2) + OWN_MAC + pack(GATEWAY) + EVERYBODY + pack(GATEWAY), kind=ARP)
    # A lease with a name, routes and a proxy asked for; and a server's answer, which no client gives.
    for kind in (1, 3, 5, 8):
        attempt(f"dhcp: message {kind}")
        options = bytes([53, 1, kind, 12, 4]) + b"name" + bytes([55, 5, 3, 6, 33, 121, 252, 54, 4]) + pack(HOST) + b"\xff"
        message = struct.pack("!4BI", 1, 1, 6, 0, 77) + b"\0" * 20 + OWN_MAC + b"\0" * 202 + b"\x63\x82\x53\x63" + options
        data = struct.pack("!4H", 68, 67, 8 + len(message), 0) + message
        frame(packet("0.0.0.0", "255.255.255.255", UDP, data), to=EVERYBODY)


wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind((CARD, 0))
by_sockets()
by_frames()
by_requests()
print("\n".join(attempts))
sys.stdout.flush()
os._exit(0)
