"""Answers questions for the addresses (A) of a few names over UDP, port 53, for the check of the container.

    python3 k8s/name_server.py ADDRESS NAME=IPV4…
"""

import ipaddress
import socket
import struct
import sys

A, NAME_ERROR, RESPONSE = 1, 3, 0x8180


def question(packet):
    """The name, its type, and the bytes of the first question."""
    labels, at = [], 12
    while packet[at]:
        labels.append(packet[at + 1 : at + 1 + packet[at]].decode("ascii").lower())
        at += packet[at] + 1
    return ".".join(labels), struct.unpack_from(">H", packet, at + 1)[0], packet[12 : at + 5]


def answer(packet, names):
    name, kind, asked = question(packet)
    address = names.get(name)
    records = b""
    if address and kind == A:
        records = b"\xc0\x0c" + struct.pack(">HHIH", A, 1, 60, 4) + address.packed
    flags = RESPONSE if address else RESPONSE | NAME_ERROR
    return packet[:2] + struct.pack(">HHHHH", flags, 1, 1 if records else 0, 0, 0) + asked + records


def main():
    names = {name: ipaddress.IPv4Address(address) for name, address in (pair.split("=") for pair in sys.argv[2:])}
    port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    port.bind((sys.argv[1], 53))
    while True:
        packet, sender = port.recvfrom(512)
        port.sendto(answer(packet, names), sender)


if __name__ == "__main__":
    main()
