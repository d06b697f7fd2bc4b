"""What the benches share: services, a node, commands."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
# 32 bytes, base64: guards nothing here.
MASTER_KEY = "YmVuY2gtYmVuY2gtYmVuY2gtYmVuY2gtYmVuY2gtMTI="

# Name of the lag in a node's metrics, a regular expression.
LAG_METRIC = r"stockwarden_\w*lag\w*"


class BenchFailed(Exception):
    """Says what went wrong and where to look."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def read_env(path):
    """What scripts/services exports."""
    values = {}
    for line in path.read_text().splitlines():
        match = re.match(r"(?:export\s+)?(\w+)=(.*)$", line.strip())
        if match:
            values[match[1]] = match[2].strip().strip("'\"")
    return values


class Services:
    """Kafka and Postgres: given, or started here and stopped at the end."""

    def __init__(self, args, work):
        self.dir = None
        self.kafka, self.postgres = args.kafka, args.postgres
        if self.kafka and self.postgres:
            return
        script = ROOT / "scripts" / "services"
        if not script.exists():
            raise BenchFailed(f"{script} is not there; give --kafka HOST:PORT and --postgres URL")
        self.dir = work / "services"
        self.dir.mkdir()
        say("starting Kafka and Postgres")
        run([script, "start", self.dir, "--owner", str(os.getpid())], timeout=600)
        env = read_env(self.dir / "env")
        self.kafka = self.kafka or env["STOCKWARDEN_TEST_KAFKA"]
        self.postgres = self.postgres or env["STOCKWARDEN_TEST_POSTGRES_URL"]

    def stop(self):
        if self.dir:
            subprocess.run([ROOT / "scripts" / "services", "stop", self.dir], stdout=sys.stderr, check=False)


def run(command, timeout, env=None, capture=False):
    command = [str(c) for c in command]
    try:
        done = subprocess.run(command, timeout=timeout, env=env, check=False,
                              stdout=subprocess.PIPE if capture else sys.stderr, stderr=None, text=True)
    except subprocess.TimeoutExpired as e:
        raise BenchFailed(f"`{' '.join(command)}` did not end within {timeout} s") from e
    except OSError as e:
        raise BenchFailed(f"`{command[0]}` cannot be run: {e}") from e
    if done.returncode != 0:
        raise BenchFailed(f"`{' '.join(command)}` ended with {done.returncode}; its messages are above")
    return done.stdout


class Node:
    """A running `stockwarden serve`."""

    def __init__(self, binary, config, port, env, log):
        self.base = f"http://127.0.0.1:{port}"
        self.log_path = log
        with log.open("w") as out:
            self.process = subprocess.Popen([str(binary), "serve", "--config", str(config)],
                                            stdout=out, stderr=subprocess.STDOUT, env=env)

    def check_alive(self):
        code = self.process.poll()
        if code is not None:
            tail = "\n".join(self.log_path.read_text().splitlines()[-15:])
            raise BenchFailed(f"the node ended with {code}; its last words:\n{tail}")

    def get(self, path):
        self.check_alive()
        try:
            with urllib.request.urlopen(self.base + path, timeout=5) as response:
                return response.read().decode()
        except (urllib.error.URLError, OSError):
            return None

    def cpu_seconds(self):
        # The name, in parentheses, may hold spaces: fields are counted from behind it.
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rss(self):
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)


def metric(text, pattern):
    """Sum of all series whose name matches; None if there is none."""
    total, found = 0.0, False
    for line in text.splitlines():
        match = re.match(r"([A-Za-z_:][\w:]*)(\{[^}]*\})?\s+(\S+)", line)
        if match and re.fullmatch(pattern, match[1]):
            total, found = total + float(match[3]), True
    return total if found else None


def wait_for_drain(node, lag_metric, patience):
    """When the first fact was applied, when the last one was, CPU-seconds at either: the lag falls from everything to nothing."""
    began, first, last_line, quiet = time.monotonic(), None, 0.0, 0
    while True:
        now = time.monotonic()
        if now - began > patience:
            raise BenchFailed(f"not drained within {patience} s; the node's log is {node.log_path}")
        text = node.get("/metrics")
        lag = metric(text, lag_metric) if text else None
        if text and lag is None and now - began > 60:
            names = sorted(set(re.findall(r"^([A-Za-z_:][\w:]*)", text, re.M)))
            raise BenchFailed(f"no metric matches --lag-metric {lag_metric}; there are: {', '.join(names)}")
        if lag is not None:
            # Before the partitions are assigned a lag of 0 says nothing.
            if lag > 0 and first is None:
                first, cpu = now, node.cpu_seconds()
            if first is None and now - began > 60:
                raise BenchFailed("the lag was 0 from the beginning: the backlog is too small to be seen, or another one's")
            if first is not None and lag == 0:
                quiet += 1
                if quiet == 1:
                    done = (first, now, cpu, node.cpu_seconds())
                if quiet >= 3:
                    return done
            else:
                quiet = 0
            if now - last_line > 2:
                last_line = now
                say(f"  {now - began:5.0f} s: lag {lag:,.0f}")
        time.sleep(0.1)
