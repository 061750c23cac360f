"""PostgreSQL: `initdb`, `pgbench` with 8 clients, a crash in the middle, recovery, and its checks."""

import glob
import os
import shutil
import subprocess
import time

from common import main, run

BALANCES = ("SELECT sum(abalance) FROM pgbench_accounts", "SELECT sum(tbalance) FROM pgbench_tellers",
            "SELECT sum(bbalance) FROM pgbench_branches", "SELECT sum(delta) FROM pgbench_history")


class Server:
    """A cluster in a directory; it refuses to run as root, so it does as `postgres`."""

    def __init__(self, directory):
        self.data = directory / "data"
        self.directory = directory
        self.programs = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
        self.user = []
        if os.geteuid() == 0:
            shutil.chown(directory, "postgres", "postgres")
            self.user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]

    def command(self, name, *arguments):
        return [*self.user, f"{self.programs}/{name}", *map(str, arguments)]

    def run(self, name, *arguments):
        return run(self.command(name, *arguments), cwd=self.directory)

    def make(self):
        self.run("initdb", "-D", self.data, "--data-checksums", "--auth=trust", "-U", "postgres")

    def start(self):
        options = f"-k {self.directory} -c listen_addresses= -c shared_buffers=32MB"
        self.run("pg_ctl", "-D", self.data, "-w", "-t", "120", "-o", options,
                 "-l", self.directory / "log", "start")

    def stop(self, mode):
        self.run("pg_ctl", "-D", self.data, "-w", "-m", mode, "stop")

    def sql(self, text, database="bench"):
        return self.run("psql", "-h", self.directory, "-U", "postgres", "-At", "-v",
                        "ON_ERROR_STOP=1", "-c", text, database).strip()

    def connection(self):
        return ("-h", self.directory, "-U", "postgres")

    def consistent(self):
        balances = {self.sql(query) for query in BALANCES}
        assert len(balances) == 1, balances
        self.run("pg_amcheck", *self.connection(), "--install-missing", "--heapallindexed", "bench")


def fill(directory, scale):
    server = Server(directory)
    server.make()
    server.start()
    server.run("createdb", *server.connection(), "bench")
    server.run("pgbench", *server.connection(), "-i", "-q", "-s", 2 * scale, "bench")
    seconds = 4 * scale
    server.run("pgbench", *server.connection(), "-n", "-c", 8, "-j", 2, "-T", seconds, "bench")
    counted = int(server.sql("SELECT count(*) FROM pgbench_history"))
    assert counted > 0
    # In the middle of it, the server goes down without a checkpoint.
    load = server.command("pgbench", *server.connection(), "-n", "-c", 8, "-j", 2, "-T", 600, "bench")
    with subprocess.Popen(load, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as bench:
        time.sleep(seconds)
        server.stop("immediate")
        assert bench.wait(timeout=120) != 0
    server.start()
    assert int(server.sql("SELECT count(*) FROM pgbench_history")) > counted
    server.consistent()
    server.stop("fast")


def check(directory, _scale):
    server = Server(directory)
    server.run("pg_checksums", "--check", "-D", server.data)
    server.start()
    server.consistent()
    server.sql("VACUUM ANALYZE")
    server.stop("fast")
    print("balances, indexes and checksums ok")


if __name__ == "__main__":
    main(fill, check)
