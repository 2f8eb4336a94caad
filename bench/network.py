"""A network of real processes, for the trials in this folder: a control plane with its Postgres, an origin, and edges, on ports of
loopback. Every process ends with the one that started it."""

import http.client, json, os, re, resource, shutil, signal, socket, ssl, subprocess, sys, tempfile, time, urllib.request


def needs(program):
    """The path of a built `umbel`."""
    if not os.access(program, os.X_OK):
        sys.exit(f"there is no {program}: run `cargo build --release -p umbel` first")
    return os.path.abspath(program)


def many_files():
    """As many open files as this process and its children may have."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def until(check, what, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if check():
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.05)
    raise SystemExit(f"{what} did not come about")


class Network:
    """Up inside `with`. `edge_settings` are lines of an edge's configuration."""

    def __init__(self, program, port, edges=1, edge_settings=""):
        self.program, self.port, self.edges, self.edge_settings = needs(program), port, edges, edge_settings
        self.running, self.work = {}, tempfile.mkdtemp(prefix="umbel-bench-")
        os.chmod(self.work, 0o711)  # where root runs it, Postgres is another user

    def __enter__(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        try:
            self.bring_up()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, kind, *_):
        for process in reversed(self.running.values()):
            process.terminate()
            process.wait()
        if kind and os.environ.get("KEEP"):
            print(f"kept: {self.work}", file=sys.stderr)
        else:
            shutil.rmtree(self.work, ignore_errors=True)

    def start(self, name, *command):
        """A process that ends with this one: it holds the other end of its standard input."""
        log = open(f"{self.work}/{name}.log", "ab")
        self.running[name] = subprocess.Popen([self.program, *command, "--supervised"], stdin=subprocess.PIPE, stdout=log, stderr=log)

    def write(self, name, text):
        with open(f"{self.work}/{name}", "w") as file:
            file.write(text)
        return f"{self.work}/{name}"

    def edge_port(self, number):
        """The public port of an edge, from 1."""
        return self.port + 10 + 10 * number

    def ready(self, port):
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2).status == 200

    def api(self, method, path, body=None):
        headers = {"Authorization": f"Bearer {self.settings['api_key']}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"https://localhost:{self.port}/api/v1/{path}", data, headers, method=method)
        text = urllib.request.urlopen(request, context=self.trust, timeout=60).read()
        return json.loads(text) if text else None

    def pull_site(self, name, hosts, upstream):
        """A public site of that server, which all edges know by the first of its names when this returns."""
        host = hosts[0]
        self.api("POST", "sites", {"name": name, "hosts": hosts, "public": True, "pull": {"upstreams": [upstream]}})

        def is_known(port):
            with self.connect(port, host) as stream:
                stream.sendall(f"HEAD /known HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                return b" 421 " not in (answer := stream.recv(100)) and b" 404 " not in answer
        for number in range(1, self.edges + 1):
            until(lambda: is_known(self.edge_port(number)), f"edge {number}: {host}")

    def connect(self, port, host, source="127.0.0.1"):
        """A TLS connection to an edge."""
        raw = socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(source, 0))
        return self.trust.wrap_socket(raw, server_hostname=host)

    def bring_up(self):
        port, work = self.port, self.work
        self.start("postgres", "demo-postgres", "--folder", f"{work}/postgres", "--url-file", f"{work}/postgres.url")
        until(lambda: os.path.exists(f"{work}/postgres.url"), "Postgres")
        database = open(f"{work}/postgres.url").read()
        config = self.write("control-plane.toml", f'listen = "127.0.0.1:{port}"\nops_listen = "127.0.0.1:{port + 1}"\n'
                            f'public_url = "https://localhost:{port}"\nnames = ["127.0.0.1"]\ndatabase_url = {json.dumps(database)}\n')
        done = subprocess.run([self.program, "control-plane", "init", "--output", work, "--config", config], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"control-plane init: {done.stdout} {done.stderr}")
        self.start("control-plane", "control-plane", "run", "--config", config)
        until(lambda: self.ready(port + 1), "the control plane")
        self.settings = dict(re.findall(r'^(\w+) = "(.*)"$', open(f"{work}/admin.toml").read(), re.M))
        self.trust = ssl.create_default_context(cafile=f"{work}/ca.pem")
        self.start_origin()
        for number in range(1, self.edges + 1):
            self.start_edge(number)
        until(lambda: self.ready(port + 7), "the origin")
        for number in range(1, self.edges + 1):
            until(lambda: self.ready(self.edge_port(number) + 4), f"edge {number}")

    def start_origin(self):
        port, state = self.port, f"{self.work}/origin"
        os.mkdir(state)
        token = self.api("POST", "join-tokens", {"role": "origin"})["token"]
        config = self.write("origin.toml", f'state = "{state}"\ns3_listen = "127.0.0.1:{port + 5}"\ninternal_listen = "127.0.0.1:{port + 6}"\n'
                            f'ops_listen = "127.0.0.1:{port + 7}"\ns3_url = "https://localhost:{port + 5}"\n'
                            f'internal_url = "https://localhost:{port + 6}"\npull_networks = ["127.0.0.0/8"]\njoin_token = "{token}"\n')
        self.start("origin", "origin", "run", "--config", config)

    def start_edge(self, number):
        first, state = self.edge_port(number), f"{self.work}/edge-{number}"
        os.mkdir(state)
        token = self.api("POST", "join-tokens", {"role": "edge"})["token"]
        names = ["public_listen", "internal_listen", "relay_listen", "relay_quic_listen", "ops_listen", "plain_listen"]
        listens = "".join(f'{name} = "127.0.0.1:{first + offset}"\n' for offset, name in enumerate(names))
        config = self.write(f"edge-{number}.toml", f'state = "{state}"\n{listens}public_url = "https://localhost:{first}"\n'
                            f'internal_url = "https://localhost:{first + 1}"\nrelay_url = "https://localhost:{first + 2}"\n'
                            f'disk_cache = "256MiB"\njoin_token = "{token}"\n{self.edge_settings}')
        self.start(f"edge-{number}", "edge", "run", "--config", config)
