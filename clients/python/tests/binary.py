"""The real server, for tests: started, killed and stopped as a process."""

import os
import pathlib
import signal
import socket
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[3]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BINARY = pathlib.Path(os.environ.get("SIGNALPOST", TARGET / "debug" / "signalpost"))


def certificate(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """A certificate for loopback, and its key."""
    chain, key = folder / "certificate.pem", folder / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names, end = "subjectAltName=IP:127.0.0.1,DNS:localhost", "basicConstraints=critical,CA:FALSE"
    about = ["-days", "2", "-subj", "/CN=localhost", "-addext", names, "-addext", end]
    subprocess.run(
        [*make, *about, "-keyout", str(key), "-out", str(chain)], check=True, stderr=subprocess.DEVNULL
    )
    return chain, key


class Server:
    """A server on a store of its own and a port that stays the same over restarts."""

    def __init__(self, *settings: str) -> None:
        if not BINARY.exists():
            raise FileNotFoundError(f"{BINARY} is not there; run `cargo build` first, or set SIGNALPOST")
        self._folder = tempfile.TemporaryDirectory(prefix="signalpost-client-")
        self.folder = pathlib.Path(self._folder.name)
        self.certificate, self.key = certificate(self.folder)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.target = f"http://127.0.0.1:{port}"
        lines = [
            f'listen.grpc = "127.0.0.1:{port}"',
            'listen.health = "127.0.0.1:0"',
            'listen.metrics = "off"',
            f'store.path = "{self.folder}/store"',
            'store.min_free = "16MiB"',
            'egress.allow = ["127.0.0.0/8"]',
            f'egress.ca_file = "{self.certificate}"',
            "delivery.enterprise_telemetry_enabled = true",
            *settings,
        ]
        (self.folder / "signalpost.toml").write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Comes back when it is ready."""
        with open(self.folder / "log", "a") as log:
            self._process = subprocess.Popen(
                [str(BINARY), "serve", "--config", str(self.folder / "signalpost.toml")],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={},
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if "grpc=" not in line:
            raise RuntimeError(f"not ready: {line!r}\n{(self.folder / 'log').read_text()[-2000:]}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Sends the signal and waits for the end."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=60)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._folder.cleanup()
