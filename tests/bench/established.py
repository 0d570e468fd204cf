"""One UDP flow between the client and port 7 of the server, settled for good."""

import socket
import time

import witness
from network import CLIENT, SERVER
from waiting import wait_for

# UDP is assured by an answer once it is this old (net/netfilter/nf_conntrack_proto_udp.c: stream_ts).
SETTLED_S = 2.1
DROP = "add rule netdev bench sink udp dport 7 drop"


def establish(network):
    """Returns the client's port. What comes to the server after that ends at its door."""
    ends = {}
    for side in ("client", "server"):
        with network.inside(side):
            ends[side] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with ends["client"] as client, ends["server"] as server:
        server.bind((SERVER[4], 7))
        client.bind((CLIENT[4], 0))
        port = client.getsockname()[1]

        def exchange():
            client.sendto(b"question", (SERVER[4], 7))
            server.sendto(b"answer", server.recvfrom(64)[1])
            client.recv(64)
            return "[ASSURED]" in network.run("router", "conntrack", "-L", "-p", "udp", "--sport", str(port))

        exchange()
        time.sleep(SETTLED_S)
        wait_for(exchange, lambda: f"the flow to be assured: {witness.flow_count(network)} flows")
    network.nft(DROP, "server")
    return port
