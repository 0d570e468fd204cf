"""What every scenario has: a fresh network, an empty folder, and runs of the tool that end with the scenario."""

import os
import tempfile
import unittest

from network import Network
from tool import Tool
from traffic import Traffic


class Scenario(unittest.TestCase):
    maxDiff = 1500

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="conntracker-scenario-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        os.chmod(self.folder, 0o755)
        self.network = Network()
        self.addCleanup(self.network.down)
        self.network.up()
        self.traffic = Traffic(self.network)
        self.addCleanup(self.traffic.close)

    def need_legacy_tables(self):
        """Looking at a table loads it, so this looks in a namespace where it does not matter."""
        for command in ("iptables-legacy", "ip6tables-legacy"):
            if not self.network.succeeds("client", command, "-w", "20", "-nL"):
                self.skipTest(f"{command} does not work here: the kernel has no legacy tables")

    def start(self, *options, **popen):
        """Start the tool, without waiting for anything."""
        tool = Tool(self.network, self.folder, *options, **popen)
        self.addCleanup(tool.end)
        return tool

    def capture(self, *options, **popen):
        """Start the tool and wait until it captures. Reports to its standard output."""
        return self.start("-o", "-", *options, **popen).wait_until_capturing()

    def capture_json(self, *options, **popen):
        return self.capture("--format", "json", *options, **popen)

    def stop_complete(self, tool):
        """End the capture; it must have been complete."""
        self.assertEqual(tool.stop(), 0, tool.errors())
        return tool

    def run_to_end(self, *options, **popen):
        """Run the tool until it ends by itself."""
        tool = self.start(*options, **popen)
        tool.wait()
        return tool

    def path(self, name):
        return os.path.join(self.folder, name)

    def watching(self, watcher):
        """Have `conntrack -E` end with the scenario."""
        self.addCleanup(watcher.end)
        return watcher

    def assert_visible_files(self, *names):
        """The folder of the test holds these files and nothing else (what the test itself writes starts with a dot)."""
        found = sorted(name for name in os.listdir(self.folder) if not name.startswith(".tool"))
        self.assertEqual(found, sorted(names))
