"""The page served: to this machine alone, anew when a run has written more, and with a line where it cannot be."""

import json
import socket
import struct
import threading
from http.client import HTTPConnection

import pytest

from contrapose.report.live import Live
from contrapose.types import ContraposeError
from run_written import group_row, metrics_row, write


@pytest.fixture
def run(tmp_path):
    return write(tmp_path / "run", [group_row(1, "a")], 1)


@pytest.fixture
def server(run):
    builds = []

    def build(runs):
        builds.append(runs)
        if (run / "broken").exists():
            raise ContraposeError("the run is broken")
        return {"runs": [str(run)], "n": len(builds)}

    with Live([run], build) as server:
        server.builds = builds
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server, path="/", host=None):
    connection = HTTPConnection("127.0.0.1", server.server_port)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer, body


def test_it_listens_on_loopback_alone(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


def test_the_page_may_ask_its_server_and_nobody_else(server):
    answer, body = get(server)
    assert answer.status == 200
    assert "connect-src 'self'" in body
    assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost", "127.0.0.1:1", "[::1]:80"])
def test_a_name_that_was_led_here_gets_nothing(server, host):
    answer, body = get(server, host=host)
    assert answer.status == 403
    assert "runs" not in body
    assert server.builds == []


def test_localhost_is_this_machine(server):
    assert get(server, host=f"localhost:{server.server_port}")[0].status == 200


@pytest.mark.parametrize("path", ["/x", "/data/", "/../etc/passwd", "/metrics.jsonl", "*"])
def test_nothing_else_is_served(server, path):
    assert get(server, path)[0].status == 404


def test_news_come_when_the_run_has_written_more(server, run):
    first = json.loads(get(server, "/data")[1])
    since = f"/data?since={first['stamp']}"
    assert get(server, since)[0].status == 204
    assert len(server.builds) == 1  # and nothing was read for it
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(metrics_row(2)) + "\n")
    answer, body = get(server, since)
    assert answer.status == 200
    assert json.loads(body)["n"] == 2
    assert json.loads(body)["stamp"] != first["stamp"]


def test_a_run_that_cannot_be_read_is_told_and_asked_again(server, run):
    (run / "broken").touch()
    answer, body = get(server, "/data")
    assert (answer.status, body) == (503, "the run is broken\n")
    (run / "broken").unlink()
    assert get(server, "/data")[0].status == 200


def test_whatever_goes_wrong_is_told_in_a_line(server, monkeypatch):
    monkeypatch.setattr(server, "_build", lambda runs: {"x": float("nan")})
    answer, body = get(server, "/data")
    assert answer.status == 503 and body.startswith("ValueError: ") and body.count("\n") == 1


def test_who_leaves_before_the_answer_is_no_fault(server, capfd):
    connection = socket.create_connection(server.server_address)
    host = f"Host: 127.0.0.1:{server.server_port}"
    connection.sendall(f"GET / HTTP/1.1\r\n{host}\r\n\r\n".encode())
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    assert get(server)[0].status == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_port_that_is_taken_is_one_line(server, run):
    with pytest.raises(ContraposeError, match=rf"--port: {server.server_port} cannot be had"):
        Live([run], lambda runs: {}, server.server_port)
