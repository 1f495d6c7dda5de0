"""The kernel's table of tracked flows, of the network namespace that the calling thread is in."""

import os
import socket
import struct

from netlab.errors import LabError

NETLINK_NETFILTER = 12
NLMSG_ERROR = 2
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_DELETE = 2
HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
NFGENMSG = struct.Struct("=BBH")  # family, version, resource
ERROR = struct.Struct("=i")


def forget_flows() -> None:
    """Empty the table, of IPv4 and IPv6 alike: a delete request that names no flow deletes all."""
    kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE
    body = NFGENMSG.pack(socket.AF_UNSPEC, 0, 0)
    request = HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_ACK, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as kernel:
        kernel.settimeout(5.0)
        kernel.sendto(request, (0, 0))
        answer = kernel.recv(4096)
    _, answered, *_ = HEADER.unpack_from(answer)
    (code,) = ERROR.unpack_from(answer, HEADER.size)
    if answered != NLMSG_ERROR or code != 0:
        raise LabError(f"the kernel refused to forget its tracked flows: {os.strerror(-code)}")
