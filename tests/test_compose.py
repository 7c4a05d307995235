"""docker-compose.yml, whose images the tests run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from bot_session.testing.servers import base
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docker-compose.yml"
SERVICES = YAML(typ="safe").load(FILE)["services"]


def test_it_keeps_its_schema():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", FILE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stderr), done.stdout


@pytest.mark.parametrize("service", SERVICES)
class TestEveryService:
    def test_has_an_image_of_a_version_that_the_tests_read_as_it_stands(self, service, monkeypatch):
        monkeypatch.delenv(f"BOT_SESSION_TEST_{service.upper()}_IMAGE", raising=False)
        monkeypatch.chdir(ROOT)

        assert re.fullmatch(r"[\w/-]+:v?\d+[\w.-]*", SERVICES[service]["image"])
        assert base.image(service) == SERVICES[service]["image"]

    def test_tells_whether_it_is_well_and_listens_on_this_machine_alone(self, service):
        assert "CMD" == SERVICES[service]["healthcheck"]["test"][0]
        assert all(port.startswith("127.0.0.1:") for port in SERVICES[service]["ports"])


def test_all_of_them_can_run_at_once():
    ports = [port.rsplit(":", 1)[0] for service in SERVICES.values() for port in service["ports"]]

    assert len(ports) == len(set(ports))


def test_every_service_that_the_tests_start_is_there():
    sources = (ROOT / "core/src/bot_session/testing/servers").glob("*.py")
    images = {
        name for source in sources for name in re.findall(r'(?:find_server\(\s*|image_of=)"(\w+)"', source.read_text())
    }

    assert {"redis", "mongo", "postgres", "postgrest"} <= images
    assert images <= set(SERVICES)
