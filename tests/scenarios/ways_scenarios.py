"""Rules that are loaded again and again, for longer than there is room for all that they ever were.

The ruleset is replaced in one table, as by `flush chain` and `add rule`: each time all of its rules have handles that no rule had
before. Packets meet almost all of them, each packet a chain of its own:

    forward:  udp dport 10001 jump c1      c1:  counter  (79 times, each with a comment that says the round)
              udp dport 10002 jump c2           counter drop
              ...
"""

import json
import signal

from network import CLIENT, SERVER
from report import UDP
from rules import Packet
from tracing import EVERYTHING, Tracing
from waiting import wait_for

CHAINS = 25
RULES = 80
# Steps that flows and reports can name: src/limits.rs, STEPS_MAX.
STEPS_MAX = 1 << 16
ROUNDS = STEPS_MAX // (CHAINS * (RULES + 1)) + 8
CAPACITY = 4 * CHAINS
FIRST_PORT = 10_001


def chain(number):
    return f"c{number}"


def ruleset(round_number):
    lines = ["flush table inet big"]
    for number in range(CHAINS):
        for rule in range(RULES):
            verdict = " drop" if rule == RULES - 1 else ""
            lines.append(f'add rule inet big {chain(number)} counter{verdict} comment "round {round_number}"')
        lines.append(f'add rule inet big forward udp dport {FIRST_PORT + number} jump {chain(number)} comment "round {round_number}"')
    return "\n".join(lines)


class Ways(Tracing):
    def setUp(self):
        super().setUp()
        chains = "\n".join(f"chain {chain(number)} {{ }}" for number in range(CHAINS))
        self.network.nft(f"table inet big {{ {chains}\nchain forward {{ type filter hook forward priority 0; policy accept; }}\n}}")

    def traced(self, tool, file):
        """The flows that the tool has told the way of, added to those before."""
        chunk = self.rest + file.read()
        *lines, self.rest = chunk.split("\n")
        self.flows += [each for each in map(json.loads, lines) if each.get("event") == "traced"]
        self.assertTrue(tool.is_running(), tool.errors())
        return self.flows

    def test_there_is_room_for_the_rules_that_are_in_use(self):
        self.flows, self.rest = [], ""
        self.network.nft(ruleset(0))
        tool = self.capture_json("--follow", "--capacity", str(CAPACITY), *EVERYTHING)
        with open(tool.output_path, encoding="utf-8") as file:
            for round_number in range(ROUNDS):
                if round_number > 0:
                    self.network.nft(ruleset(round_number))
                port = 2000 + round_number * CHAINS
                for number in range(CHAINS):
                    self.traffic.send(Packet(4, UDP, CLIENT[4], SERVER[4], port + number, FIRST_PORT + number))
                expected = (round_number + 1) * CHAINS
                wait_for(lambda: len(self.traced(tool, file)) >= expected, lambda: f"{expected} ways, have {len(self.flows)}")
        handles = set()
        for flow in self.flows:
            round_number, number = divmod(flow["original"]["sport"] - 2000, CHAINS)
            path = flow["path"]["original"]
            steps = [(step["chain"], step.get("position"), step["verdict"], step["comment"]) for step in path]
            comment = f"round {round_number}"
            verdicts = ["continue"] * (RULES - 1) + ["drop"]
            expected = [("forward", number + 1, "jump", comment)]
            expected += [(chain(number), position, verdict, comment) for position, verdict in enumerate(verdicts, 1)]
            self.assertEqual(steps, expected)
            self.assertEqual(flow["blame"]["handle"], path[-1]["handle"])
            handles |= {step["handle"] for step in path}
        self.assertEqual(len(self.flows), ROUNDS * CHAINS)
        self.assertGreater(len(handles), STEPS_MAX, "more steps than there is room for at a time")
        tool.send(signal.SIGTERM)
        self.assertEqual(tool.wait(), 0, tool.errors())
        stats = json.loads(tool.output().splitlines()[-1])
        trace = stats["trace"]
        lost = {name: trace[name] for name in ("lost", "untraced", "unresolved", "shortened", "refused")}
        self.assertEqual(lost, dict.fromkeys(lost, 0))
        self.assertEqual(trace["packets"], ROUNDS * CHAINS)
        forgotten = ROUNDS * CHAINS - CAPACITY
        self.assertEqual((stats["table"]["forgotten"], stats["table"]["evicted"]), (forgotten, 0))
        self.assertIn(f"{forgotten} finished flows were written and made room", tool.summary())
